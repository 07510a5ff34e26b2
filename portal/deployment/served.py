"""The front door of a server on its own machine: nginx's configuration from the command's options.

On one machine ``bithive up`` writes it from its plan. A real server has its files where the
operator put them; this names them once and writes the same configuration.
"""

from __future__ import annotations

from pathlib import Path

from portal.deployment.front import Front, front_config


def server_front(
    *,
    server_name: str,
    listen: str,
    authority_folder: Path,
    superlink_port: int,
    superlink_authority: Path,
    run: Path,
    log: Path,
) -> str:
    """Return the configuration of a server's front door.

    Args:
        server_name: By which hospitals reach it.
        listen: Port, or address and port.
        authority_folder: The operator's, with server.crt, server.key, ca.crt and crl.pem.
        superlink_port: Where the SuperLink listens on loopback.
        superlink_authority: What signs the SuperLink's certificate.
        run: For the pid file and temporary files.
        log: The access log.
    """
    return front_config(
        Front(
            listen=listen,
            server_name=server_name,
            certificate=authority_folder / "server.crt",
            key=authority_folder / "server.key",
            authority=authority_folder / "ca.crt",
            revoked=authority_folder / "crl.pem",
            superlink_port=superlink_port,
            superlink_authority=superlink_authority,
            run=run,
            access_log=log,
        )
    )
