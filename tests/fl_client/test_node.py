"""The node carries every message once to the agent and back, whatever network and agent do."""

import random
import stat
import threading
import time
from dataclasses import replace

import pytest

from fl_client.link import AgentUnreachable
from fl_client.node import pace
from fl_client.node.bounds import MessageTooLarge
from fl_client.node.errand import Errand, ErrandOver, LinkDown, NodeNotActivated, NodeRefused
from fl_client.node.loop import FOREIGN, Limits, Node
from fl_client.node.spool import NodeBusy, Spool
from protocol.errors import StorageFailed

pytestmark = pytest.mark.slow

QUICK = Limits(agent_seconds=0.2, beat_seconds=0.01, retry_seconds=0.001)
WAIT = 60.0


def errand(number=1, *, created_at=1000.0, lives_seconds=3600.0):
    return Errand(
        objects=(f"part{number}", f"whole{number}"),
        run=5,
        sender=1,
        kind="train",
        group="1",
        created_at=created_at,
        lives_seconds=lives_seconds,
    )


class Fleet:
    """A server that can be cut off, and remembers what it was told."""

    address = "fleet.example.org:443"

    def __init__(self, *messages, frames=None):
        self.inbox = list(messages)
        self.frames = frames or {}
        self.activations = []  # errors raised before the node is let in
        self.resumable = False
        self.cut = False
        self.refused = False
        self.over = set()
        self.pushed = []
        self.beats = self.pulls = self.tries = self.left = 0
        self.clock = 1000.0
        self.guard = threading.Lock()

    def now(self):
        return self.clock

    def _reached(self):
        self.tries += 1
        if self.cut:
            raise LinkDown(self.address, "cut")
        if self.refused:
            raise NodeRefused(self.address, "unknown")

    def activate(self):
        self._reached()
        if self.activations:
            raise self.activations.pop(0)
        return 77

    def resume(self, node):
        assert node == 77
        if not self.resumable:
            raise NodeRefused(self.address, "unknown")

    def beat(self):
        self._reached()
        self.beats += 1

    def pull(self):
        self._reached()
        with self.guard:
            self.pulls += 1
            return self.inbox.pop(0) if self.inbox else None

    def fetch(self, errand):
        self._reached()
        if errand.message in self.over:
            raise ErrandOver("gone")
        return self.frames.get(errand.message, b"frame " + errand.message.encode())

    def push(self, reply):
        self._reached()
        if reply.errand.message in self.over:
            raise ErrandOver("ended")
        self.pushed.append(reply)

    def leave(self):
        self.left += 1

    def close(self):
        pass


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Running:
    """A node in a thread of its own."""

    def __init__(self, fleet, ask, folder, limits=QUICK):
        self.spool = Spool(folder)
        self.node = Node(fleet, ask, self.spool, generator=random.Random(1), limits=limits)
        self.thread = threading.Thread(target=self.node.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.node.end()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        self.spool.close()


def echo(frame):
    return b"answer to " + frame


def test_a_message_goes_to_the_agent_and_its_answer_comes_back(tmp_path):
    fleet = Fleet(errand(1), errand(2))
    with Running(fleet, echo, tmp_path) as running:
        until(lambda: len(fleet.pushed) == 2)
        until(lambda: not running.spool.pending())
    frames = {reply.errand.message: reply.frame for reply in fleet.pushed}
    assert frames == {n: b"answer to frame " + n.encode() for n in ("whole1", "whole2")}
    assert fleet.left == 1


def test_a_message_that_holds_no_frame_is_answered_with_an_error_and_shown_to_no_agent(tmp_path):
    asked = []
    fleet = Fleet(errand())
    fleet.fetch = lambda _: None
    with Running(fleet, asked.append, tmp_path):
        until(lambda: fleet.pushed)
    assert (fleet.pushed[0].frame, fleet.pushed[0].reason) == (None, FOREIGN)
    assert asked == []


def test_a_message_that_is_too_large_is_answered_with_its_refusal(tmp_path):
    fleet = Fleet(errand())

    def too_large(_):
        raise MessageTooLarge(10)

    fleet.fetch = too_large
    with Running(fleet, echo, tmp_path):
        until(lambda: fleet.pushed)
    assert (fleet.pushed[0].frame, fleet.pushed[0].reason) == (None, "message-too-large")


def test_a_message_handed_out_twice_is_carried_once_at_a_time(tmp_path):
    going = threading.Event()
    asked = []

    def slow(frame):
        asked.append(frame)
        going.wait(WAIT)
        return b"done"

    fleet = Fleet(errand())
    with Running(fleet, slow, tmp_path):
        until(lambda: asked)
        fleet.inbox.append(errand())
        until(lambda: not fleet.inbox)
        seen = fleet.pulls
        until(lambda: fleet.pulls > seen)  # what was pulled before that is carried, or left
        going.set()
        until(lambda: fleet.pushed)
    assert len(asked) == len(fleet.pushed) == 1


def test_another_message_is_answered_while_one_is_in_work(tmp_path):
    going = threading.Event()

    def agent(frame):
        if frame.endswith(b"whole1"):
            going.wait(WAIT)
        return frame

    fleet = Fleet(errand(1), errand(2))
    with Running(fleet, agent, tmp_path):
        until(lambda: fleet.pushed)
        assert fleet.pushed[0].errand.message == "whole2"
        going.set()
        until(lambda: len(fleet.pushed) == 2)


def test_an_answer_made_while_the_link_is_cut_is_brought_when_it_is_back(tmp_path):
    fleet = Fleet(errand())

    def agent(frame):
        fleet.cut = True
        return frame

    with Running(fleet, agent, tmp_path) as running:
        until(lambda: fleet.cut)
        seen = fleet.tries
        until(lambda: fleet.tries > seen + 5)
        assert fleet.pushed == []
        fleet.cut = False
        until(lambda: fleet.pushed)
        until(lambda: not running.spool.pending())
    assert len(fleet.pushed) == 1


def test_an_answer_is_dropped_when_its_message_has_expired(tmp_path):
    fleet = Fleet(errand(lives_seconds=60.0))

    def agent(frame):
        fleet.cut = True
        return frame

    with Running(fleet, agent, tmp_path) as running:
        until(lambda: fleet.cut)
        fleet.clock += 61.0
        fleet.cut = False
        until(lambda: not running.spool.pending())
    assert fleet.pushed == []


def test_a_message_whose_run_has_ended_is_let_go_of(tmp_path):
    fleet = Fleet(errand())
    fleet.over = {"whole1"}
    with Running(fleet, echo, tmp_path) as running:
        until(lambda: not fleet.inbox and not running.spool.pending())
    assert fleet.pushed == []


def test_the_node_comes_in_though_the_server_first_refuses_it(tmp_path):
    fleet = Fleet(errand())
    fleet.activations = [LinkDown("x", "down"), NodeRefused("x", "no"), NodeNotActivated("x")]
    with Running(fleet, echo, tmp_path):
        until(lambda: fleet.pushed)
    assert fleet.activations == []


def test_a_node_that_died_goes_on_under_its_id_at_once(tmp_path):
    with Running(Fleet(), echo, tmp_path) as running:
        until(lambda: running.spool.node(Fleet.address) == 77)
    fleet = Fleet(errand())
    fleet.activations = [NodeNotActivated("x")] * 1000
    fleet.resumable = True
    with Running(fleet, echo, tmp_path):
        until(lambda: fleet.pushed)
    assert len(fleet.activations) == 999


def test_a_node_that_is_not_taken_up_and_has_no_id_keeps_trying(tmp_path):
    fleet = Fleet()
    fleet.activations = [NodeNotActivated("x")] * 5
    with Running(fleet, echo, tmp_path) as running:
        until(lambda: running.spool.node(Fleet.address) == 77)


def test_a_server_that_forgot_the_node_is_told_of_it_anew(tmp_path):
    fleet = Fleet()
    with Running(fleet, echo, tmp_path):
        until(lambda: fleet.beats)
        fleet.refused = True
        seen = fleet.tries
        until(lambda: fleet.tries > seen + 3)
        fleet.refused = False
        fleet.inbox.append(errand())
        until(lambda: fleet.pushed)


def test_a_message_pulled_before_a_crash_is_answered_after_it(tmp_path):
    before = Spool(tmp_path)
    before.keep(errand())
    before.close()
    fleet = Fleet()
    with Running(fleet, echo, tmp_path) as running:
        until(lambda: fleet.pushed)
        until(lambda: not running.spool.pending())
    assert fleet.pushed[0].errand == errand()


def test_a_node_that_ends_with_work_unanswered_keeps_it_and_does_not_leave(tmp_path):
    asked = threading.Event()
    fleet = Fleet(errand())
    going = threading.Event()

    def agent(_frame):
        asked.set()
        going.wait(WAIT)
        raise AgentUnreachable("unix:x", "gone")

    with Running(fleet, agent, tmp_path):
        assert asked.wait(WAIT)
    going.set()
    again = Spool(tmp_path)
    assert again.pending() == [errand()]
    assert fleet.left == 0
    again.close()


def test_an_agent_that_restarts_is_asked_again_and_one_that_stays_away_is_reported(tmp_path):
    asked = []

    def agent(frame):
        asked.append(frame)
        if len(asked) == 1 or frame.endswith(b"whole2"):
            raise AgentUnreachable("unix:x", "gone")
        return b"back"

    fleet = Fleet(errand(1))
    with Running(fleet, agent, tmp_path):
        until(lambda: fleet.pushed)
        assert fleet.pushed[0].frame == b"back"
        fleet.inbox.append(errand(2))
        until(lambda: len(fleet.pushed) == 2)
    assert (fleet.pushed[1].frame, fleet.pushed[1].reason) == (None, "agent-unreachable")


def test_a_full_disk_stops_no_message(tmp_path):
    fleet = Fleet(errand())
    running = Running(fleet, echo, tmp_path)

    def full(_):
        raise StorageFailed("x", "full")

    running.spool.keep = full
    with running:
        until(lambda: fleet.pushed)


def test_one_process_runs_a_sites_node(tmp_path):
    first = Spool(tmp_path)
    with pytest.raises(NodeBusy):
        Spool(tmp_path)
    first.close()
    Spool(tmp_path).close()


def test_the_spool_is_private_and_drops_what_it_cannot_read(tmp_path):
    spool = Spool(tmp_path / "node")
    spool.keep(replace(errand(), objects=("../../x",)))
    spool.keep(errand())
    (tmp_path / "node" / "torn.errand").write_bytes(b"{")
    assert {one.message for one in spool.pending()} == {"../../x", "whole1"}
    assert not (tmp_path / "node" / "torn.errand").exists()
    for path in (tmp_path / "node").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert spool.node("elsewhere") is None
    spool.close()


def test_an_idle_node_asks_ever_more_rarely_and_a_failing_one_too():
    generator = random.Random(3)
    idle = [pace.pause_seconds(2.0**n, 0.3, generator) for n in range(-5, 12)]
    assert max(idle) <= pace.IDLE_SECONDS_MAX * 1.2
    assert min(idle) >= pace.PAUSE_SECONDS_MIN * 0.8
    assert idle[-1] > idle[0]
    retries = pace.retry_pauses(generator)
    pauses = [next(retries) for _ in range(20)]
    assert pauses[0] < 1.0
    assert all(8.0 <= pause <= 12.0 for pause in pauses[-10:])
