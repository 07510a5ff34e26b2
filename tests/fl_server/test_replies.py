"""A reply whose parts do not come holds up nobody, and is taken once they have."""

import time
from types import SimpleNamespace

import pytest
from flwr.app import Metadata
from flwr.app.message.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from fl_server import replies as replies_module
from fl_server.replies import Replies
from fl_server.transport import GridTransport, content_of, frame_of

LARGE = bytes(11 * 2**20)
"""Three chunks."""


class SuperLink:
    """Holds replies: announced ones, and those of their parts that have arrived."""

    def __init__(self):
        self.announced = {}
        self.parts = {}
        self.arrived = {}
        self.expected = set()
        self.confirmed = []
        self.pulled = []

    def put(self, asked, frame, *, arrived=True, says=None):
        """Announce a reply to the message ``asked``, or that says so; return its parts."""
        metadata = Metadata(
            run_id=5,
            message_id="",
            src_node_id=7,
            dst_node_id=1,
            reply_to_message_id=says or asked,
            group_id="round-1",
            created_at=0.0,
            ttl=60.0,
            message_type="train",
        )
        with no_object_id_recompute():
            message = make_message(metadata=metadata, content=content_of(frame))
            message.metadata.__dict__["_message_id"] = message.object_id
            parts = {
                number: one.deflate() for number, one in get_all_nested_objects(message).items()
            }
            self.announce(asked, message_to_proto(message), get_object_tree(message))
        self.expected |= set(parts)
        if arrived:
            self.arrived |= parts
        return parts

    def put_parts(self, asked, parts):
        """Announce parts that somebody made himself, the whole last, and none below another."""
        *below, whole = parts
        message = ProtoMessage(metadata={"message_id": whole})
        children = [ObjectTree(object_id=one) for one in below]
        self.announce(asked, message, ObjectTree(object_id=whole, children=children))
        self.expected |= set(parts)
        self.arrived |= parts

    def announce(self, asked, message, tree):
        message.metadata.reply_to_message_id = asked
        self.announced[asked] = message, tree

    def PullMessages(self, request):  # noqa: N802  # Flower's name, as the two below
        found = [self.announced.pop(one) for one in request.message_ids if one in self.announced]
        return PullAppMessagesResponse(
            messages_list=[message for message, _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request):  # noqa: N802  # Flower's name
        self.pulled.append(request.object_id)
        content = self.arrived.get(request.object_id)
        return PullObjectResponse(
            object_found=request.object_id in self.expected,
            object_available=content is not None,
            object_content=content or b"",
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802  # Flower's name
        self.confirmed.append(request.message_object_id)


class Grid(HttpGrid):
    """Flower's, on a SuperLink of ours."""

    def __init__(self, superlink):
        self.superlink = superlink
        self.node = Node(node_id=1)

    run = SimpleNamespace(run_id=5)
    _is_connected = False

    @property
    def _runtime_client(self):
        return self.superlink

    def push_messages(self, messages):
        return [f"to-{message.metadata.dst_node_id}" for message in messages]


@pytest.fixture
def superlink(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):  # as in a process that Flower has started
        monkeypatch.setattr(TaskIdentity, f"_{name}", 5)
    return SuperLink()


@pytest.fixture
def replies(superlink):
    return Replies(Grid(superlink))


def heard(replies, *asked):
    return {
        one.metadata.reply_to_message_id: None if one.has_error() else frame_of(one)
        for one in replies.pull(asked)
    }


@pytest.mark.parametrize("frame", [b"frame", LARGE])
def test_a_reply_that_is_whole_is_taken_at_once_and_told_once(superlink, replies, frame):
    parts = superlink.put("a", frame)
    assert heard(replies, "a", "b") == {"a": frame}
    assert heard(replies, "a", "b") == {}
    assert sorted(superlink.pulled) == sorted(parts)
    assert len(superlink.confirmed) == 1


def test_a_reply_without_its_parts_is_put_by_and_hides_no_other(superlink, replies):
    superlink.put("a", b"of a", arrived=False)
    superlink.put("b", b"of b")
    began = time.monotonic()
    assert heard(replies, "a", "b") == {"b": b"of b"}
    assert heard(replies, "a") == {}
    assert time.monotonic() - began < 60.0
    assert len(superlink.confirmed) == 1


def test_it_is_taken_once_its_parts_are_there_and_no_part_is_fetched_three_times(
    superlink, replies
):
    parts = superlink.put("a", LARGE, arrived=False)
    for number in parts:
        assert heard(replies, "a") == {}
        superlink.arrived[number] = parts[number]
    found = heard(replies, "a")
    assert found == {"a": LARGE}
    sent = superlink.pulled
    assert len(sent) <= 3 * len(parts)  # once in vain, once to see it, once to have it


def test_a_reply_that_the_superlink_has_given_up_is_an_error(superlink, replies):
    superlink.put("a", b"of a", arrived=False)
    assert heard(replies, "a") == {}
    superlink.expected.clear()
    assert heard(replies, "a") == {"a": None}
    assert heard(replies, "a") == {}


def test_nothing_of_a_forgotten_one_is_kept(superlink, replies):
    superlink.put("a", b"of a", arrived=False)
    assert heard(replies, "a") == {}
    replies.forget("a")
    superlink.pulled.clear()
    assert heard(replies, "a") == {}
    assert superlink.pulled == []


def test_a_node_that_dies_while_it_brings_an_answer_delays_no_exchange(superlink):
    transport = GridTransport(Grid(superlink))
    superlink.put("to-1", b"of one", arrived=False)
    superlink.put("to-2", b"of two")
    came = []
    for node, frame in transport.exchange(
        "call", {1: b"?", 2: b"?"}, group="round-1", deadline_seconds=600.0, enough=lambda: came
    ):
        came.append((node, frame))
    assert came == [(2, b"of two")]


def test_its_answer_is_late_once_it_is_whole(superlink):
    transport = GridTransport(Grid(superlink))
    parts = superlink.put("to-1", b"of one", arrived=False)
    answers = transport.exchange("call", {1: b"?"}, group="round-1", deadline_seconds=0.1)
    assert list(answers) == []
    assert transport.late() == []
    superlink.arrived |= parts
    (late,) = transport.late()
    assert (late.kind, late.group, late.node, late.reply) == ("call", "round-1", 1, b"of one")


# What a hospital that means ill sends


def part(kind, children, body):
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


CHUNK = "c" * 64
ARRAY = "a" * 64
WHOLE = "e" * 64
NO_REPLIES = {
    "a chunk": {WHOLE: part("ArrayChunk", [], b"abc")},
    "a message of nothing": {WHOLE: part("Message", [], b"")},
    "a message that is no protobuf": {WHOLE: part("Message", [], b"\xff" * 40)},
    "a message that holds a chunk": {
        CHUNK: part("ArrayChunk", [], b"abc"),
        WHOLE: part("Message", [CHUNK], b""),
    },
    "a message without its child": {WHOLE: part("Message", [CHUNK], b"")},
    "a message that holds itself": {WHOLE: part("Message", [WHOLE], b"")},
    "a kind of its own": {WHOLE: part("Anything", [], b"abc")},
    "no head": {WHOLE: b"abc"},
    "a record that is not JSON": {
        CHUNK: part("RecordDict", [], b"{"),
        WHOLE: part("Message", [CHUNK], b""),
    },
}


@pytest.mark.parametrize("parts", NO_REPLIES.values(), ids=NO_REPLIES)
def test_bytes_that_are_no_reply_are_an_error_and_hide_no_other(superlink, replies, parts):
    superlink.put_parts("a", parts)
    superlink.put("b", b"of b")
    assert heard(replies, "a", "b") == {"a": None, "b": b"of b"}
    assert heard(replies, "a", "b") == {}


def test_a_reply_that_says_it_answers_another_message_is_an_error_of_its_sender(superlink, replies):
    superlink.put("a", b"not of b", says="b")
    assert heard(replies, "a", "b") == {"a": None}
    superlink.put("b", b"of b")
    assert heard(replies, "b") == {"b": b"of b"}


def test_a_reply_of_few_bytes_that_would_become_many_is_not_put_together(superlink, replies):
    order = ",".join(["0"] * 1000)
    body = f'{{"dtype":"uint8","shape":[3],"stype":"s","arraychunk_ids":[{order}]}}'.encode()
    chunk = part("ArrayChunk", [], bytes(5 * 2**20))
    superlink.put_parts("a", {CHUNK: chunk, WHOLE: part("Array", [CHUNK], body)})
    assert heard(replies, "a") == {"a": None}


def test_no_more_of_a_reply_is_fetched_than_a_message_has(superlink, replies, monkeypatch):
    monkeypatch.setattr(replies_module, "MESSAGE_BYTES_MAX", 6 * 2**20)
    superlink.put("a", bytes(range(256)) * (4 * 11 * 2**10))
    assert heard(replies, "a") == {"a": None}
    assert len(superlink.pulled) < 6
    superlink.pulled.clear()
    superlink.put_parts("b", {f"{number:064x}": b"x" for number in range(1025)})
    assert heard(replies, "b") == {"b": None}
    assert superlink.pulled == []


def test_where_the_superlinks_list_cannot_be_read_all_are_asked_again(superlink, monkeypatch):
    def unreadable(_request):
        raise ValueError("nested too deep")

    grid = Grid(superlink)
    transport = GridTransport(grid, again=[0.0])
    honest = superlink.PullMessages
    monkeypatch.setattr(superlink, "PullMessages", unreadable)

    sent = []

    def push(_messages):
        sent.append("again" if sent else "first")
        if len(sent) > 1:
            monkeypatch.setattr(superlink, "PullMessages", honest)
            superlink.put("again", b"of one")
        return sent[-1:]

    grid.push_messages = push
    came = transport.exchange("call", {1: b"?"}, group="round-1", deadline_seconds=600.0)
    assert list(came) == [(1, b"of one")]
