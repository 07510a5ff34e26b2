"""News of the lane is checked, answered at once, and worked on behind the door."""

import threading
from contextlib import contextmanager

import pytest

from fl_client.certifier import Certifier
from fl_client.coverage import select_checked
from fl_client.lane import LaneForged, LaneMemory
from fl_client.plans import PlanRefused
from fl_client.preparation import EpochOutdated, Preparation
from protocol.canonical import MalformedMessage, body, digest
from protocol.frames import Frame, decode
from tests.fl_client.lane_world import CHUNKS, NORTH, SLOTS, TERMS, HandProver, LaneWorld

APPROVED = digest(TERMS)
WAIT = 120.0


def request(state, **changes):
    fields = {
        "terms": APPROVED,
        "epoch": body(state.epoch),
        "chunks": [body(one) for one in state.chunks],
    }
    return Frame("prepare", fields | changes)


class Desk:
    """A preparation over a world, whose choosing can be held up."""

    def __init__(self, world):
        self.world = world
        self.prover = HandProver()
        self.memory = LaneMemory(TERMS, world.store)
        self.certifier = Certifier(TERMS, world.store, self.prover)
        self.may_choose = threading.Event()
        self.may_choose.set()
        self.chosen = []
        self.preparation = Preparation(APPROVED, self.memory, self.choose, self.certifier)

    def choose(self, chunks):
        self.chosen.append([one.chunk for one in chunks])
        assert self.may_choose.wait(WAIT)
        return select_checked(
            TERMS,
            NORTH,
            chunks,
            openings=self.world.openings,
            patients=self.world.records,
            gone=self.memory.gone(chunks),
        )

    def tell(self, state, **changes):
        return decode(self.preparation.answer(request(state, **changes)))

    def settle(self):
        """Wait until the thread has nothing to do."""
        self.preparation._thread.submit(lambda: None).result(WAIT)


@pytest.fixture
def world(tmp_path):
    world = LaneWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def desk(world):
    desk = Desk(world)
    yield desk
    desk.may_choose.set()
    desk.preparation.close()


@contextmanager
def held(desk):
    """While the thread is at some choice and cannot go on."""
    desk.may_choose.clear()
    yield
    desk.may_choose.set()
    desk.settle()


def test_what_is_told_is_proved(desk, world):
    reply = desk.tell(world.state())
    assert (reply.kind, reply.body) == ("preparing", {"epoch": world.state().epoch.number})
    desk.settle()
    assert desk.prover.in_work == CHUNKS


def test_after_a_withdrawal_the_changed_chunk_alone_is_sent_and_proved(desk, world):
    desk.tell(world.state())
    desk.settle()
    desk.prover.work()
    world.withdraw(SLOTS + 1)
    desk.tell(world.state(world.state().chunks[1].chunk))
    desk.settle()
    assert desk.prover.in_work == 1


def test_the_door_does_not_wait_for_the_thread_and_news_counts_at_once(desk, world):
    with held(desk):
        desk.tell(world.state())
        world.withdraw(3)
        desk.tell(world.state())
        assert len(desk.memory.gone(world.state().chunks)) == 0
        assert desk.prover.jobs == []
    assert desk.prover.in_work == CHUNKS


def test_of_news_that_waits_the_newest_is_worked_on_and_outdated_choices_are_dropped(desk, world):
    first, second, third = (one.chunk for one in world.state().chunks)
    before = world.state()
    with held(desk):
        desk.tell(before)
        world.withdraw(0)
        desk.tell(world.state(first))
        world.withdraw(1, SLOTS)
        desk.tell(world.state(first, second))
    assert desk.chosen == [[first, second, third], [first, second]]
    desk.prover.work()
    roots = {chunk: desk.certifier._newest[chunk][1] for chunk in (first, second, third)}
    expected = select_checked(
        TERMS, NORTH, world.state().chunks, openings=world.openings, patients=world.records
    )
    assert roots == {one.chunk: one.digest for one in expected}
    assert len(desk.prover.jobs) == CHUNKS  # the outdated choices of two chunks were not proved


def test_the_same_news_again_changes_nothing(desk, world):
    for _ in range(2):
        desk.tell(world.state())
        desk.settle()
    assert len(desk.prover.jobs) == CHUNKS


def test_older_news_is_refused(desk, world):
    before = world.state()
    world.withdraw(0)
    desk.tell(world.state())
    with pytest.raises(EpochOutdated) as caught:
        desk.tell(before)
    assert (caught.value.number, caught.value.known) == (
        before.epoch.number,
        world.state().epoch.number,
    )


def test_news_that_the_registry_did_not_sign_is_refused_and_forgotten(desk, world):
    before = world.state()
    world.withdraw(0)
    after = world.state()
    with pytest.raises(LaneForged):
        desk.tell(before, chunks=[body(one) for one in after.chunks])
    assert desk.memory.gone(before.chunks) == frozenset()
    assert desk.chosen == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"terms": "0" * 64}, PlanRefused),
        ({"terms": "short"}, MalformedMessage),
        ({"epoch": {}}, MalformedMessage),
        ({"chunks": 5}, MalformedMessage),
        ({"more": 1}, MalformedMessage),
    ],
)
def test_a_request_of_another_form_or_study_is_refused(desk, world, changes, error):
    with pytest.raises(error):
        desk.tell(world.state(), **changes)
    assert desk.chosen == []


def test_closing_ends_the_thread_and_begins_nothing_more(desk, world):
    desk.tell(world.state())
    desk.settle()
    desk.preparation.close()
    assert all(one.cancelled() for one in desk.prover.jobs)
    world.withdraw(0)
    assert desk.tell(world.state()).kind == "preparing"  # remembered, though nothing is proved
    assert len(desk.prover.jobs) == CHUNKS
    assert not [one for one in threading.enumerate() if one.name.startswith("prepare_")]


def test_a_failure_behind_the_door_is_logged_and_not_fatal(desk, world, caplog):
    world.openings.close()
    desk.choose = None
    desk.preparation._choose = lambda _chunks: 1 / 0
    desk.tell(world.state())
    desk.settle()
    assert "nothing was prepared" in caplog.text
