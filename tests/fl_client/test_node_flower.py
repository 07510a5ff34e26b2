"""The node speaks Flower 1.41's fleet API by these names; a newer Flower fails here, by name."""

import base64
import contextlib
import inspect
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.constant import TIMESTAMP_HEADER, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import http_grid
from flwr.superlink.routers.fleet.router import router
from flwr.supernode.fleet_http_client import FleetHttpClient

from fl_client.node.bounds import BoundedTransport, Budget, MessageTooLarge
from fl_client.node.errand import Errand, ErrandOver, LinkDown, NodeNotActivated, NodeRefused, Reply
from fl_client.node.fleet import (
    CertificateUnreadable,
    Credentials,
    Fleet,
    NodeKeyUnreadable,
    ServerClock,
    frame_of,
)
from fl_server.transport import content_of
from identity.authority import Authority, Revocation
from portal.certificates import make_certificates, make_node_key

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def credentials(tmp_path):
    key = make_node_key(tmp_path / "nodes", "north")
    return Credentials(make_certificates(tmp_path / "certificates").authority, key.private)


class SuperLink:
    """Answers the fleet API's requests from a dictionary, and keeps what was pushed."""

    def __init__(self):
        self.instruction = None
        self.objects = {}
        self.replies = []
        self.pushed = {}
        self.confirmed = []
        self.requests = []
        self.refusal = None
        self.date = None

    def __call__(self, request):
        self.requests.append(request)
        headers = {} if self.date is None else {"date": format_datetime(self.date, usegmt=True)}
        if self.refusal is not None:
            status, content = self.refusal
            return httpx.Response(status, content=content, headers=headers)
        call = request.url.path.rsplit("/", 1)[1].replace("-", "_")
        response = getattr(self, call)(request.content)
        return httpx.Response(200, content=response.SerializeToString(), headers=headers)

    def put(self, content):
        """Hold a message of ``content`` for the node."""
        metadata = make_message_metadata()
        with no_object_id_recompute():
            message = make_message(metadata=metadata, content=content)
            message.metadata.__dict__["_message_id"] = message.object_id
            self.objects = {
                number: one.deflate() for number, one in get_all_nested_objects(message).items()
            }
            self.instruction = fleet_pb2.PullMessagesResponse(
                messages_list=[message_to_proto(message)],
                message_object_trees=[get_object_tree(message)],
            )

    def activate_node(self, _):
        return fleet_pb2.ActivateNodeResponse(node_id=77)

    def send_node_heartbeat(self, content):
        asked = heartbeat_pb2.SendNodeHeartbeatRequest.FromString(content)
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=asked.node.node_id == 77)

    def deactivate_node(self, _):
        return fleet_pb2.DeactivateNodeResponse()

    def pull_messages(self, _):
        held, self.instruction = self.instruction, None
        return held or fleet_pb2.PullMessagesResponse()

    def pull_object(self, content):
        asked = message_pb2.PullObjectRequest.FromString(content)
        found = self.objects.get(asked.object_id)
        return message_pb2.PullObjectResponse(
            object_found=found is not None,
            object_available=found is not None,
            object_content=found or b"",
        )

    def push_messages(self, content):
        asked = fleet_pb2.PushMessagesRequest.FromString(content)
        self.replies.append(asked)
        missing = list(objects_of(asked.message_object_trees[0]))
        return fleet_pb2.PushMessagesResponse(objects_to_push=missing, session_id="s")

    def push_object(self, content):
        asked = message_pb2.PushObjectRequest.FromString(content)
        self.pushed[asked.object_id] = asked.object_content
        return message_pb2.PushObjectResponse(stored=True)

    def confirm_message_received(self, content):
        asked = message_pb2.ConfirmMessageReceivedRequest.FromString(content)
        self.confirmed.append(asked.message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()


def make_message_metadata():
    from flwr.app import Metadata

    metadata = Metadata(
        run_id=5,
        message_id="",
        src_node_id=1,
        dst_node_id=77,
        reply_to_message_id="",
        group_id="round-3",
        created_at=NOW.timestamp(),
        ttl=120.0,
        message_type="train",
        src_task_id=9,
    )
    metadata.delivered_at = ""
    return metadata


def objects_of(tree):
    for child in tree.children:
        yield from objects_of(child)
    yield tree.object_id


@pytest.fixture
def server():
    return SuperLink()


@pytest.fixture
def fleet(server, credentials):
    made = Fleet("localhost:1", credentials, silence_seconds=180.0)
    made._client._client = httpx.Client(transport=httpx.MockTransport(server))
    yield made
    made.close()


def hear(door):
    """Take one connection, and do TLS on it as far as the other side goes."""
    with contextlib.suppress(OSError):
        door.accept()[0].close()


@pytest.mark.parametrize(
    ("revoke", "days", "reason"),
    [(True, 0, "revoked"), (False, 400, "expired"), (False, 0, None)],
)
def test_a_server_on_the_list_of_revoked_certificates_is_not_spoken_to(
    tmp_path, revoke, days, reason
):
    now = datetime.now(UTC)
    began = now - timedelta(days=days)
    authority = Authority.found("federation", now=began)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = authority.issue_server(["localhost"], key.public_key(), now=now)
    revoked = [Revocation(certificate.serial_number, began)] if revoke else []
    files = {
        "ca.crt": authority.certificate.public_bytes(Encoding.PEM),
        "server.crt": certificate.public_bytes(Encoding.PEM),
        "server.key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "crl.pem": authority.revocation_list(revoked, number=1, now=began).public_bytes(
            Encoding.PEM
        ),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    node_key = make_node_key(tmp_path / "nodes", "north").private
    known = Credentials(tmp_path / "ca.crt", node_key, revoked=tmp_path / "crl.pem")
    with server.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as door:
        threading.Thread(target=hear, args=(door,), daemon=True).start()
        fleet = Fleet(f"localhost:{door.getsockname()[1]}", known, silence_seconds=180.0)
        with pytest.raises(LinkDown) as down:
            fleet.activate()  # whoever speaks TLS here says nothing after it
        fleet.close()
    assert ("certificate verify failed" in down.value.reason) == (reason is not None)
    assert reason is None or reason in down.value.reason


def test_flowers_client_is_ours_underneath(credentials):
    made = Fleet("localhost:1", credentials, silence_seconds=180.0)
    assert isinstance(made._client._client._transport, BoundedTransport)
    made.close()


def test_a_message_of_too_many_bytes_is_not_taken(server, fleet, monkeypatch):
    server.put(RecordDict({"frame": ConfigRecord({"bithive.frame.v1": bytes(5000)})}))
    fleet.activate()
    errand = fleet.pull()
    monkeypatch.setattr("fl_client.node.fleet.Budget", lambda: Budget(4000))
    with pytest.raises(MessageTooLarge):
        fleet.fetch(errand)


def test_notice_of_messages_that_is_too_large_is_a_broken_link(server, fleet, monkeypatch):
    fleet.activate()
    transport = BoundedTransport(httpx.MockTransport(server), 10)
    fleet._client._client = httpx.Client(transport=transport)
    server.put(RecordDict({"frame": ConfigRecord({"bithive.frame.v1": b"frame"})}))
    with pytest.raises(LinkDown, match="more than 10 bytes"):
        fleet.pull()


def test_flower_is_the_version_whose_fleet_api_the_node_was_written_for():
    assert version("flwr").startswith("1.41."), (
        "fl_client/node/fleet.py and fl_server/transport.py use internals of Flower 1.41: read "
        "docs/transport.md, compare them with the new version, then change this test"
    )


def test_the_fleet_client_has_the_calls_and_the_server_their_paths():
    paths = {route.path for route in router.routes}
    for call, path in {
        "ActivateNode": "activate-node",
        "DeactivateNode": "deactivate-node",
        "SendNodeHeartbeat": "send-node-heartbeat",
        "PullMessages": "pull-messages",
        "PushMessages": "push-messages",
        "PullObject": "pull-object",
        "PushObject": "push-object",
        "ConfirmMessageReceived": "confirm-message-received",
    }.items():
        assert callable(getattr(FleetHttpClient, call))
        assert f"/v1/fleet/{path}" in paths
    taken = set(inspect.signature(FleetHttpClient.__init__).parameters)
    assert {"base_url", "interceptors", "verify", "timeout"} <= taken
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == 2004


def test_the_servers_grid_has_the_client_and_the_calls_by_which_replies_are_fetched():
    assert isinstance(http_grid.HttpGrid._runtime_client, property)
    assert isinstance(http_grid.HttpGrid.run, property)
    for call in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert callable(getattr(RuntimeHttpClient, call))
        assert f"_runtime_client.{call}" in inspect.getsource(http_grid.HttpGrid.pull_messages)


@pytest.mark.parametrize("size", [0, 10, 5 * 2**20, 5 * 2**20 + 1])
def test_a_frame_of_any_size_travels_both_ways(fleet, server, size):
    frame = bytes(size)
    server.put(content_of(frame))
    fleet.activate()
    errand = fleet.pull()
    assert (errand.run, errand.sender, errand.task, errand.group) == (5, 1, 9, "round-3")
    assert errand.expires_at == NOW.timestamp() + 120.0
    assert fleet.fetch(errand) == frame
    assert server.confirmed == []
    fleet.push(Reply(errand, frame, NOW.timestamp() + 1, 0.5))
    assert server.confirmed == [errand.message]
    told = server.replies[0].messages_list[0].metadata
    assert (told.reply_to_message_id, told.dst_node_id, told.dst_task_id) == (errand.message, 1, 9)
    assert (told.src_node_id, told.ttl) == (77, 119.0)
    whole = inflatable_utils.inflate_object_from_contents(told.message_id, dict(server.pushed))
    assert frame_of(whole) == frame
    assert len(server.pushed) == (3 if size <= 5 * 2**20 else 6)


def test_an_answer_brought_twice_is_the_same_message(fleet, server):
    server.put(content_of(b"x"))
    fleet.activate()
    reply = Reply(fleet.pull(), b"y", NOW.timestamp(), 0.5)
    fleet.push(reply)
    fleet.push(reply)
    first, second = (one.messages_list[0].metadata.message_id for one in server.replies)
    assert first == second


def test_an_error_is_told_by_its_code_alone(fleet, server):
    server.put(content_of(b"x"))
    fleet.activate()
    fleet.push(Reply(fleet.pull(), None, NOW.timestamp(), 0.0, "agent-unreachable"))
    sent = inflatable_utils.inflate_object_from_contents(
        server.replies[0].messages_list[0].metadata.message_id, dict(server.pushed)
    )
    assert isinstance(sent, Message)
    assert (sent.error.code, sent.error.reason) == (2, "agent-unreachable")


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"frame": ConfigRecord({"other": b"x"})}),
        RecordDict({"frame": ConfigRecord({"bithive.frame.v1": "text"})}),
        RecordDict({"frame": ArrayRecord()}),
    ],
)
def test_a_message_of_another_application_holds_no_frame(fleet, server, content):
    server.put(content)
    fleet.activate()
    assert fleet.fetch(fleet.pull()) is None


def test_bytes_that_are_no_message_hold_no_frame_and_missing_ones_end_the_errand(fleet, server):
    server.put(content_of(b"x"))
    fleet.activate()
    errand = fleet.pull()
    server.objects = dict.fromkeys(server.objects, b"\xff no object")
    assert fleet.fetch(errand) is None
    server.objects = {}
    with pytest.raises(ErrandOver):
        fleet.fetch(errand)


def test_a_message_of_few_bytes_that_would_become_many_is_not_put_together(
    fleet, server, monkeypatch
):
    put_together = []
    monkeypatch.setattr(
        "fl_client.node.fleet.inflate_object_from_contents",
        lambda *given: put_together.append(given),
    )
    chunk = b"ArrayChunk  5242880\0" + bytes(5 * 2**20)
    body = b'{"arraychunk_ids":[' + b",".join([b"0"] * 1000) + b"]}"
    server.objects = {"c": chunk, "a": b"Array c %d\0" % len(body) + body}
    errand = Errand(("c", "a"), 5, 1, "train", "round-3", NOW.timestamp(), 120.0)
    assert fleet.fetch(errand) is None
    assert put_together == []


def test_a_message_of_more_parts_than_a_frame_can_have_is_not_fetched(fleet, server):
    server.put(content_of(b"x"))
    fleet.activate()
    errand = fleet.pull()
    before = len(server.requests)
    assert fleet.fetch(replace(errand, objects=errand.objects * 1000)) is None
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (412, b'{"code": 2004, "detail": "Failed to activate SuperNode."}', NodeNotActivated),
        (401, b"", NodeRefused),
        (403, b"", ErrandOver),
        (502, b"", LinkDown),
        (413, b"", LinkDown),
        (200, b"<html>sign in to this network</html>", LinkDown),
    ],
)
def test_what_the_server_refuses_has_a_name(fleet, server, status, content, error):
    server.refusal = status, content
    with pytest.raises(error):
        fleet.activate()


def test_a_server_that_cannot_be_reached_is_named(credentials):
    fleet = Fleet("127.0.0.1:1", credentials, silence_seconds=180.0)
    with pytest.raises(LinkDown, match=r"127\.0\.0\.1:1"):
        fleet.activate()
    fleet.leave()
    fleet.close()


def test_a_node_goes_on_under_its_id_only_where_the_server_knows_it(fleet):
    fleet.resume(77)
    with pytest.raises(NodeRefused):
        fleet.resume(78)
    fleet.beat()


def test_requests_are_signed_over_the_servers_time_however_wrong_the_clock_is(fleet, server):
    server.date = datetime.now(UTC) + timedelta(hours=1)
    fleet.activate()
    fleet.beat()
    headers = server.requests[-1].headers
    signed_at = datetime.fromisoformat(headers[TIMESTAMP_HEADER])
    assert abs(signed_at - server.date) < timedelta(seconds=120)
    key = bytes_to_public_key(base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER]))
    signature = base64.b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER])
    assert verify_signature(key, headers[TIMESTAMP_HEADER].encode(), signature)


def test_a_clock_that_is_right_to_two_seconds_is_believed():
    clock = ServerClock(now=lambda: 1000.0)
    clock.see(format_datetime(datetime.fromtimestamp(1001.0, UTC), usegmt=True))
    assert clock.now() == 1000.0
    clock.see(format_datetime(datetime.fromtimestamp(4600.0, UTC), usegmt=True))
    assert clock.now() == 4600.0
    clock.see("no date")
    clock.see("Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
    clock.see(None)
    assert clock.now() == 4600.0


def test_keys_and_certificates_that_cannot_be_used_are_named(credentials, tmp_path):
    other = tmp_path / "other"
    other.write_text("no key")
    for wrong in (other, tmp_path / "none", credentials.authority):
        with pytest.raises(NodeKeyUnreadable, match="bithive site init"):
            Fleet("x:1", replace(credentials, node_key=wrong), silence_seconds=180.0)
    with pytest.raises(CertificateUnreadable, match="other"):
        Fleet("x:1", replace(credentials, authority=other), silence_seconds=180.0)
    with pytest.raises(CertificateUnreadable, match="other"):
        Fleet("x:1", replace(credentials, certificate=other, key=other), silence_seconds=180.0)
