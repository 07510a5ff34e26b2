"""The front door is shut: a hospital's certificate passes it to the fleet's calls, nothing else."""

import http.client
import itertools
import os
import socket
import ssl
import time
import warnings
from pathlib import Path

import httpx
import pytest

from portal.deployment.front import ADDRESS_CONNECTIONS_MAX
from portal.deployment.workers import workers_for

pytestmark = [pytest.mark.slow, pytest.mark.superlink]

REFUSED = {400, 403, 404}


@pytest.fixture(scope="module")
def routes():
    """Every route of the SuperLink that is installed, so that a new one is tried too."""
    from fastapi.routing import iter_route_contexts
    from flwr.superlink.main import create_app

    found = set()
    for context in iter_route_contexts(create_app().routes):
        for method in context.methods or {"GET"}:
            found.add((method, context.path.replace("{", "").replace("}", "")))
    assert len([path for _, path in found if path.startswith("/v1/control/")]) > 30
    assert len([path for _, path in found if path.startswith("/v1/fleet/")]) > 10
    assert len([path for _, path in found if path.startswith("/v1/runtime/")]) > 5
    return sorted(found)


@pytest.fixture(scope="module")
def site(door):
    return door.consortium.issue("north")


def ask(door, method, path, **known):
    """Return the status of one request over a connection of its own."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", door.port, context=door.context(**known), timeout=30
    )
    try:
        connection.request(method, path, body=b"", headers={"content-type": "application/protobuf"})
        return connection.getresponse()
    finally:
        connection.close()


def raw(connection, target, method="POST"):
    """Send a request with the target exactly as given; return status and body."""
    headers = "Host: localhost\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n"
    connection.sendall(f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1"))
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def test_whoever_holds_only_the_authoritys_certificate_reaches_no_endpoint(door, routes):
    before = len(door.seen_by_superlink())
    for method, path in routes:
        assert ask(door, method, path).status in REFUSED, (method, path)
    assert len(door.seen_by_superlink()) == before


def test_a_certificate_of_another_authority_reaches_no_endpoint(door, routes, tmp_path):
    stranger = type(door.consortium)(tmp_path, title="consortium").issue("north")
    before = len(door.seen_by_superlink())
    for method, path in routes:
        assert ask(door, method, path, certificate=stranger).status in REFUSED, (method, path)
    assert len(door.seen_by_superlink()) == before


def test_a_sites_certificate_reaches_the_fleets_calls_and_no_other(door, routes, site):
    before = len(door.seen_by_superlink())
    passed = set()
    for method, path in routes:
        status = ask(door, method, path, certificate=site).status
        if path.startswith("/v1/fleet/"):
            assert status == 401, path  # the SuperLink's own word: no key of a node signed this
            passed.add(path)
        else:
            assert status in REFUSED, (method, path)
    assert passed
    assert set(door.seen_by_superlink()[before:]) == passed


def test_a_fleet_call_passes_as_post_only(door, site):
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(door, method, "/v1/fleet/pull-messages", certificate=site).status in {
            403,
            405,
        }, method


@pytest.mark.parametrize(
    "target",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/%2e%2e%2fcontrol%2flist-runs",
        "/v1/fleet//../control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/control/list-runs/%2e%2e/%2e%2e/fleet/../control/list-runs",
        "//v1/control/list-runs",
        "/v1/control%2flist-runs",
        "/v1/control/list-runs?/v1/fleet/pull-messages",
        "/v1/control/list-runs#/v1/fleet/pull-messages",
        "https://localhost/v1/control/list-runs",
        "/v1/fleet/pull-messages%0a",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/",
        "/v1/fleet",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/%70ull-messages%20HTTP/1.1%0d%0aX:%20",
    ],
)
def test_no_spelling_of_a_path_passes_as_another_one(door, site, target):
    before = len(door.seen_by_superlink())
    with door.connect(certificate=site) as connection:
        status, _ = raw(connection, target)
    assert status in REFUSED
    assert len(door.seen_by_superlink()) == before


def test_the_query_of_a_call_neither_passes_nor_is_logged(door, site):
    with door.connect(certificate=site) as connection:
        status, _ = raw(connection, "/v1/fleet/pull-messages?patient=4711")
    assert status == 401
    assert door.seen_by_superlink()[-1] == "/v1/fleet/pull-messages"
    logs = (door.folder / "access.log").read_text() + (door.folder / "nginx.log").read_text()
    assert "4711" not in logs
    assert "CN=north" in logs


def workers_of(nginx):
    children = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()
    return [Path(f"/proc/{child}") for child in children]


def test_a_large_message_passes_workers_that_have_no_rights(door, site):
    from flwr.proto.message_pb2 import PushObjectRequest

    body = PushObjectRequest(object_content=bytes(3 << 20)).SerializeToString()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", door.port, context=door.context(certificate=site), timeout=30
    )
    headers = {"content-type": "application/protobuf"}
    connection.request("POST", "/v1/fleet/push-object", body=body, headers=headers)
    assert connection.getresponse().status == 401  # the SuperLink's word: it came through
    connection.close()
    if workers_for(door.folder) is None:
        pytest.skip("the door was not started by a root that may hand its workers over")
    found = workers_of(door.nginx)
    assert found
    for worker in found:
        assert worker.stat().st_uid not in {0, os.getuid()}


def test_one_address_has_so_many_requests_open_and_no_more(door):
    """Each of several sites has less than a site may; together they have more than an address."""
    sites = [door.consortium.issue(f"site{number}") for number in range(5)]
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
    refused, opened = 0, []
    try:
        for number in range(ADDRESS_CONNECTIONS_MAX + 8):
            connection = door.connect(certificate=sites[number % len(sites)])
            opened.append(connection)
            connection.sendall(head)  # and never the whole body
            if number >= ADDRESS_CONNECTIONS_MAX:
                refused += b" 503 " in connection.recv(64)
            elif number % 32 == 0:
                for one in opened:
                    one.sendall(b"0")  # so that none is given up as silent
    finally:
        for connection in opened:
            connection.close()
    assert refused == 8


def test_flowers_own_client_can_neither_register_submit_stop_nor_read(door):
    from flwr.proto.control_pb2 import (
        ListRunsRequest,
        RegisterNodeRequest,
        StartRunRequest,
        StopRunRequest,
        StreamLogsRequest,
    )
    from flwr.supercore.control import ControlHttpClient

    client = ControlHttpClient.from_server_address(
        f"127.0.0.1:{door.port}", False, str(door.consortium.authority), []
    )
    calls = [
        lambda: client.RegisterNode(RegisterNodeRequest(public_key=b"key")),
        lambda: client.StartRun(StartRunRequest()),
        lambda: client.StopRun(StopRunRequest(run_id=1)),
        lambda: client.ListRuns(ListRunsRequest()),
        lambda: list(client.StreamLogs(StreamLogsRequest(run_id=1))),
    ]
    for call in calls:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            call()
        assert refused.value.response.status_code in REFUSED
    client.close()


def test_a_sites_certificate_without_its_node_key_is_no_place_in_the_fleet(door, site, tmp_path):
    from fl_client.node.errand import NodeNotActivated, NodeRefused
    from fl_client.node.fleet import Credentials, Fleet
    from portal.certificates import make_node_key

    key = make_node_key(tmp_path, "thief")
    known = Credentials(door.consortium.authority, key.private, *site)
    fleet = Fleet(f"localhost:{door.port}", known, silence_seconds=60)
    with pytest.raises((NodeNotActivated, NodeRefused)):
        fleet.activate()
    with pytest.raises(NodeRefused):
        fleet.resume(1)
    fleet.close()


def test_the_roster_lets_a_node_in_and_puts_it_out(door, tmp_path):
    from portal.certificates import make_node_key
    from portal.deployment.loopback import control
    from portal.deployment.roster import reconcile

    key = make_node_key(tmp_path, "north")
    with control(door.folder, door.superlink_port) as superlink:
        assert reconcile(tmp_path, superlink) == (["north"], [])
        registered = superlink.nodes()
        assert len(registered) == 1
        assert all(one.is_over for one in superlink.runs())
        key.public.unlink()
        assert reconcile(tmp_path, superlink) == ([], [registered[0].id])
        assert superlink.nodes() == []
        assert reconcile(tmp_path, superlink) == ([], [])


def test_the_superlink_itself_listens_on_loopback_only(door):
    ends = {
        int(line.split()[1].split(":")[1], 16): line.split()[1].split(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).is_file()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    assert ends[door.superlink_port] == "0100007F"


def test_another_address_of_the_machine_answers_nothing(door):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel chooses the address
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with pytest.raises(OSError):
        socket.create_connection((address, door.superlink_port), 5)


def test_old_tls_is_refused(door, site):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises((ssl.SSLError, OSError)):
            door.connect(certificate=site, tls_max=ssl.TLSVersion.TLSv1_1).close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_not_resumed(door, site, version):
    context = door.context(certificate=site, tls_max=version)

    def shake(session=None):
        plain = socket.create_connection(("127.0.0.1", door.port), 10)
        wrapped = context.wrap_socket(plain, server_hostname="localhost", session=session)
        with wrapped as connection:
            assert raw(connection, "/v1/fleet/pull-messages")[0] == 401
            return connection.session, connection.session_reused

    session, _ = shake()
    assert shake(session)[1] is False


def test_a_body_beyond_the_limit_is_refused_unread(door, site):
    from portal.deployment.front import BODY_BYTES_MAX

    with door.connect(certificate=site) as connection:
        head = (
            "POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {BODY_BYTES_MAX + 1}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413


def test_a_revoked_certificate_stops_working_at_once_on_open_connections_too(door):
    from portal.deployment.front import CUT_SECONDS

    expelled, other = door.consortium.issue("expelled"), door.consortium.issue("other")
    with door.connect(certificate=expelled) as connection:
        assert raw(connection, "/v1/fleet/pull-messages")[0] == 401  # it passes
        door.consortium.revoke(expelled[0])
        began = time.monotonic()
        door.reload()
        # The connection that was open: closed, or refused; never served for longer than the cut.
        for _ in itertools.count():
            try:
                status = raw(connection, "/v1/fleet/pull-messages")[0]
            except (OSError, http.client.HTTPException):
                break
            if status in REFUSED:
                break
            assert time.monotonic() - began < CUT_SECONDS + 58
    before = len(door.seen_by_superlink())
    assert ask(door, "POST", "/v1/fleet/pull-messages", certificate=expelled).status == 400
    assert len(door.seen_by_superlink()) == before
    assert ask(door, "POST", "/v1/fleet/pull-messages", certificate=other).status == 401
