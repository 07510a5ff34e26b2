"""Withdrawals, news, proofs made ahead and rounds in any order: nobody is used who could be spared.

Beside tests/consent/test_withdrawal_interleavings.py, whose world it is: here the site is told of
epochs between rounds, proves before it is asked, remembers, and looks again before it reads. The
server may plan, wait, and train on the old plan; the prover may be slow.
"""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.certifier import Certifier
from fl_client.cohort import gather
from fl_client.coverage import left_out, select, select_checked
from fl_client.lane import LaneMemory, newest_in
from fl_client.preparation import Preparation
from protocol.canonical import body, digest
from protocol.frames import Frame, decode
from tests.consent.test_withdrawal_interleavings import (
    NORTH,
    PATIENTS,
    TERMS,
    World,
    ids_of,
    world_in,
)

pytestmark = pytest.mark.slow

WAIT = 120.0
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("withdraw"), st.sampled_from(PATIENTS)),
        st.just(("tell", None)),
        st.just(("prove", None)),
        st.just(("plan", None)),
        st.just(("restart", None)),
        st.tuples(st.just("train"), st.booleans()),  # whether proofs of the last moment are in time
    ),
    min_size=4,
    max_size=16,
)


class SlowWitness:
    """The witness's answers, held back until somebody works or ``at_once`` is set."""

    def __init__(self, witness):
        self.witness = witness
        self.waiting = []
        self.at_once = False

    def submit(self, slots, scope, blind):
        future = Future()
        self.waiting.append((future, self.witness.submit(slots, scope, blind).result()))
        if self.at_once:
            self.work()
        return future

    def work(self):
        while self.waiting:
            future, proof = self.waiting.pop(0)
            if future.set_running_or_notify_cancel():
                future.set_result(proof)


class Site:
    """What a hospital's agent does around a round's training, with its own parts."""

    def __init__(self, world: World, *, can_ask):
        self.world = world
        self.can_ask = can_ask
        self.prover = SlowWitness(world.witness)
        self.restart()

    def restart(self):
        """Begin anew with what is stored; proofs in work are lost."""
        world = self.world
        newest = newest_in(world.registry, TERMS, NORTH) if self.can_ask else None
        self.memory = LaneMemory(TERMS, world.store, newest)
        self.certifier = Certifier(TERMS, world.store, self.prover)
        self.preparation = Preparation(
            digest(TERMS), self.memory, self.choose_ahead, self.certifier
        )

    def tell(self):
        plan, chunks = self.world.plan(0)
        fields = {
            "terms": digest(TERMS),
            "epoch": body(plan.epoch),
            "chunks": [body(one) for one in chunks],
        }
        reply = decode(self.preparation.answer(Frame("prepare", fields)))
        assert reply.kind == "preparing"
        self.preparation._thread.submit(lambda: None).result(WAIT)

    def choose_ahead(self, chunks):
        known = {"openings": self.world.openings, "patients": self.world.records}
        return select_checked(TERMS, NORTH, chunks, gone=self.memory.gone(chunks), **known)

    def choose(self, plan, chunks):
        known = {"openings": self.world.openings, "patients": self.world.records}
        return select(TERMS, NORTH, plan, chunks, gone=self.memory.gone(chunks), **known)

    def train(self, plan, chunks, *, before_reading, in_time):
        """Return the patients read, the certificates, and how many are reported as left out."""
        self.prover.at_once = in_time

        def reserve(_cohort):
            before_reading()

        cohort = gather(
            lambda: self.choose(plan, chunks),
            reserve,
            plan,
            chunks,
            lane=self.memory,
            certifier=self.certifier,
            seconds=0.0,
        )
        gone = self.memory.gone(chunks)
        withdrew = left_out(TERMS, chunks, self.world.openings, self.world.records, gone=gone)
        self.prover.work()
        certificates = self.certifier.finish(cohort.certification)
        self.prover.at_once = False
        return ids_of(cohort.selections), certificates, cohort.left_out + withdrew

    def close(self):
        self.preparation.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ahead")


class Play:
    """A run of steps, and what a site may and must know at each."""

    def __init__(self, world, *, can_ask, meanwhile):
        self.world = world
        self.site = Site(world, can_ask=can_ask)
        self.meanwhile = sorted(meanwhile)
        self.gone = set()
        self.known = set()
        self.planned = None

    def withdraw(self, patient):
        self.world.withdraw(patient, "code")
        self.gone.add(patient)

    def tell(self, _):
        self.site.tell()
        self.known = set(self.gone)

    def prove(self, _):
        self.site.prover.work()

    def restart(self, _):
        self.site.close()
        self.site.restart()

    def plan(self, _):
        self.planned = set(self.gone), self.world.plan(1)

    def train(self, in_time):
        """Train on the last plan; some withdraw at the last moment, before records are read."""
        if self.planned is None:
            return
        gone_then, (plan, chunks) = self.planned
        self.planned = None
        used, certificates, reported = self.site.train(
            plan,
            chunks,
            before_reading=lambda: [self.withdraw(one) for one in self.meanwhile],
            in_time=in_time,
        )
        self.known |= self.gone if self.site.can_ask else gone_then
        assert not self.known & set(used)
        assert reported == len(PATIENTS) - len(gone_then) - len(used)
        if in_time:
            assert set(used) | self.known == set(PATIENTS)  # and nobody else was left out
        if used:  # what is read is proven, and the gate counts exactly those
            self.world.submit(plan, chunks, certificates, len(used))

    def close(self):
        self.site.close()
        self.world.close()


@settings(max_examples=25, deadline=None)
@given(
    steps=STEPS,
    can_ask=st.booleans(),
    meanwhile=st.sets(st.sampled_from(PATIENTS), max_size=2),
)
def test_nobody_is_read_who_withdrew_before_the_plan_or_before_the_site_could_know(
    folder, steps, can_ask, meanwhile
):
    play = Play(world_in(folder), can_ask=can_ask, meanwhile=meanwhile)
    try:
        for step, detail in steps:
            getattr(play, step)(detail)
    finally:
        play.close()


def test_a_round_after_news_has_nothing_to_prove_and_after_a_withdrawal_one_chunk(folder):
    world = world_in(folder)
    site = Site(world, can_ask=False)
    site.tell()
    assert len(site.prover.waiting) == 2
    site.prover.work()
    used, _, _ = site.train(*world.plan(1), before_reading=lambda: None, in_time=False)
    assert used == PATIENTS
    world.withdraw(PATIENTS[9], "code")
    site.tell()
    assert len(site.prover.waiting) == 1
    site.close()
    world.close()
