"""The front door: nginx's configuration, which lets a hospital reach the fleet and nothing else.

::

    hospital ──TLS 1.3/1.2, its certificate──▶ nginx ──TLS──▶ SuperLink on loopback
                                                 │ /v1/fleet/NAME, POST
                                                 └ anything else: 403, or 404

Flower serves fleet, control and runtime on one port. Its control API has a lock of ours
(``control_lock``), and still its port stays on loopback: this door asks for a certificate of the
consortium first and then for the path.

What holds, each line a test in tests/federation/test_front_door.py:

1. Without a certificate of the consortium there is no answer but 400 and 403.
2. With one, only paths ``/v1/fleet/NAME`` reach the SuperLink, written anew from the name, so that
   no spelling of a path passes that means another one behind the door.
3. A revoked certificate is refused at the next handshake, sessions are not resumed, and
   connections that were open at the reload are closed within ``CUT_SECONDS``.
4. No query string, header or body is logged; a line names the certificate's subject.
5. One address has at most ``ADDRESS_CONNECTIONS_MAX`` requests open at once, one site
   ``CONNECTIONS_MAX``, whatever certificates it shows.

References:
    nginx documentation, ngx_http_ssl_module (``ssl_verify_client``, ``ssl_crl``) and
    ngx_core_module (``worker_shutdown_timeout``). RFC 8446, section 4.6.1, on resumption.
    Mozilla, Server Side TLS 5.7, intermediate configuration.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from portal.deployment.workers import Workers

CUT_SECONDS: Final = 2
BODY_BYTES_MAX: Final = 16 << 20
"""Flower cuts what it sends into objects of 5 MB and wraps each into one message."""
CALLS_PER_SECOND: Final = 200
"""Of one site; a burst of as many again is let through."""
CONNECTIONS_MAX: Final = 64
"""Of one site at once."""
ADDRESS_CONNECTIONS_MAX: Final = 256
"""Of one address at once: several hospitals may share one, behind a translator of addresses."""

CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
"""Of TLS 1.2; those of TLS 1.3 are all good."""

CONFIG: Final = Template("""\
# Written by `bithive deployment nginx`; changes made by hand are lost.
daemon off;
worker_processes 2;
worker_shutdown_timeout ${cut}s;
pid $run/nginx.pid;
error_log $error_log warn;
$user
events { worker_connections 2048; }

http {
    server_tokens off;
    default_type application/octet-stream;

    # The time, who, what and how it went: no query string, no header, no body.
    log_format door escape=json
        '{"time":"$$time_iso8601","site":"$$ssl_client_s_dn","verified":"$$ssl_client_verify",'
        '"method":"$$request_method","path":"$$uri","status":$$status,'
        '"bytes_in":$$request_length,"bytes_out":$$bytes_sent,"seconds":$$request_time}';
    access_log $access_log door;

    client_body_temp_path $scratch/body;
    proxy_temp_path $scratch/proxy;
    fastcgi_temp_path $scratch/fastcgi;
    uwsgi_temp_path $scratch/uwsgi;
    scgi_temp_path $scratch/scgi;

    client_header_timeout 10s;
    client_body_timeout 30s;
    send_timeout 30s;
    keepalive_timeout 75s;
    client_header_buffer_size 4k;
    large_client_header_buffers 4 8k;
    client_max_body_size $body_bytes;
    reset_timedout_connection on;

    limit_req_zone $$ssl_client_fingerprint zone=calls:4m rate=${calls}r/s;
    limit_conn_zone $$ssl_client_fingerprint zone=connections:4m;
    limit_conn_zone $$binary_remote_addr zone=addresses:4m;

    upstream superlink {
        server 127.0.0.1:$superlink_port;
        keepalive 32;
    }

    server {
        listen $listen ssl;
        server_name $server_name;
        # Counted once a request's head was read; what is silent before that has 10 s.
        limit_conn addresses $address_connections;

        ssl_certificate $certificate;
        ssl_certificate_key $key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers $ciphers;
        ssl_prefer_server_ciphers off;
        # A resumed session is not looked up in the revocation list, so there is none.
        ssl_session_cache off;
        ssl_session_tickets off;

        ssl_client_certificate $authority;
        ssl_verify_client on;
        ssl_verify_depth 2;
        ssl_crl $revoked;

        # The path is made anew from the name of the call: what the SuperLink gets is what was read.
        location ~ "^/v1/fleet/(?<call>[a-z][a-z-]{0,63})\\z" {
            limit_except POST { deny all; }
            limit_req zone=calls burst=$calls nodelay;
            limit_conn connections $connections;
            limit_conn addresses $address_connections;
            proxy_pass https://superlink/v1/fleet/$$call;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            # Nobody who comes this way holds the control API's secret; none is carried on.
            proxy_set_header Authorization "";
            proxy_ssl_trusted_certificate $superlink_authority;
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
            proxy_ssl_protocols TLSv1.3;
            proxy_request_buffering on;
            proxy_connect_timeout 5s;
            proxy_read_timeout 120s;
            proxy_next_upstream off;
        }
        location / { return 403; }
    }
}
""")


@dataclass(frozen=True)
class Front:
    """Everything that decides the door.

    ``listen`` is nginx's address, ``8443`` or ``127.0.0.1:8443``; ``run`` is a folder for the pid
    file, and for temporary files where ``workers`` name no other.
    """

    listen: str
    server_name: str
    certificate: Path
    key: Path
    authority: Path
    revoked: Path
    superlink_port: int
    superlink_authority: Path
    run: Path
    access_log: Path
    error_log: str = "stderr"
    workers: Workers | None = None


def front_config(front: Front) -> str:
    """Return nginx's whole configuration for this door."""
    return CONFIG.substitute(
        ciphers=":".join(CIPHERS),
        cut=CUT_SECONDS,
        user=_user_line(front.workers),
        run=front.run,
        scratch=front.run if front.workers is None else front.workers.scratch,
        error_log=front.error_log,
        access_log=front.access_log,
        body_bytes=BODY_BYTES_MAX,
        calls=CALLS_PER_SECOND,
        connections=CONNECTIONS_MAX,
        address_connections=ADDRESS_CONNECTIONS_MAX,
        superlink_port=front.superlink_port,
        listen=front.listen,
        server_name=front.server_name,
        certificate=front.certificate,
        key=front.key,
        authority=front.authority,
        revoked=front.revoked,
        superlink_authority=front.superlink_authority,
    )


def _user_line(workers: Workers | None) -> str:
    """Return the line that says whose nginx's workers are.

    Without one, nginx that root started would hand them to the account it was compiled with, who
    may not write into our folder; started by another user it warns of any such line.
    """
    if workers is not None:
        return f"user {workers.user} {workers.group};"
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
