"""The in-process grid runs Flower's own apps and messages, and fails when Flower's fields move."""

import threading

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_client import link
from fl_client.app import app as carrier
from fl_server.inprocess import InProcessGrid
from fl_server.transport import GridTransport, Late, frame_of


def answer(frame):
    if frame == b"fail":
        raise RuntimeError
    return frame.upper()


@pytest.fixture
def transport():
    addresses = [link.register(f"site-{index}", answer) for index in range(3)]
    grid = InProcessGrid(carrier, [{"agent": address} for address in addresses])
    yield GridTransport(grid, poll_seconds=0.001)
    grid.close()


@pytest.mark.parametrize("kind", ["join", "deal-key", "take-key", "train", "open"])
def test_every_kind_of_frame_reaches_its_site_and_comes_back(transport, kind):
    frames = {node: f"to {node}".encode() for node in transport.nodes()}
    replies = dict(transport.exchange(kind, frames, group="g", deadline_seconds=10))
    assert replies == {node: frame.upper() for node, frame in frames.items()}


def test_a_site_that_fails_is_answered_for_with_none(transport):
    first, second, third = transport.nodes()
    frames = {first: b"fail", second: b"a", third: b"b"}
    replies = dict(transport.exchange("train", frames, group="g", deadline_seconds=10))
    assert replies == {first: None, second: b"A", third: b"B"}


def test_a_site_that_is_late_is_not_waited_for():
    gate = threading.Event()
    slow = ClientApp()

    @slow.train()
    def train(message, context):
        gate.wait(120)
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(slow, [{}])
    transport = GridTransport(grid, poll_seconds=0.001)
    (node,) = transport.nodes()
    assert list(transport.exchange("train", {node: b"x"}, group="g", deadline_seconds=0.05)) == []
    gate.set()
    grid.close()


def test_what_comes_after_an_exchange_has_ended_is_late_and_told_once():
    gates = {1000: threading.Event(), 1001: threading.Event()}
    slow = ClientApp()

    @slow.train()
    def train(message, context):
        gates[message.metadata.dst_node_id].wait(60)
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(slow, [{}, {}])
    transport = GridTransport(grid, poll_seconds=0.001)
    gates[1000].set()
    came = []
    frames = {1000: b"x", 1001: b"y"}
    for node, _ in transport.exchange(
        "train", frames, group="round-3", deadline_seconds=60, enough=lambda: bool(came)
    ):
        came.append(node)
    assert came == [1000]
    assert transport.late() == []
    gates[1001].set()
    late = []
    while not late:
        late = transport.late()
    assert late == [Late("train", "round-3", 1001, b"y")]
    assert transport.late() == []
    grid.close()


def test_a_node_whose_process_failed_is_asked_the_same_again():
    calls = []
    frail = ClientApp()

    @frail.train()
    def train(message, context):
        calls.append(frame_of(message))
        if len(calls) < 3:
            raise RuntimeError
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(frail, [{}])
    transport = GridTransport(grid, poll_seconds=0.001, again=(0.01, 0.01))
    replies = list(transport.exchange("train", {1000: b"x"}, group="g", deadline_seconds=60))
    assert replies == [(1000, b"x")]
    assert calls == [b"x"] * 3
    grid.close()


def test_send_and_receive_serves_apps_that_use_it():
    echo = ClientApp()

    @echo.query()
    def query(message, context):
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(echo, [{}, {}])
    array = Array(dtype="uint8", shape=(1,), stype="x", data=b"y")
    content = RecordDict({"a": ArrayRecord({"a": array})})
    messages = [
        Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()
    ]
    replies = grid.send_and_receive(messages, timeout=120)
    assert [reply.metadata.src_node_id for reply in replies] == grid.get_node_ids()
    grid.close()
