"""A round that meets a withdrawal goes on without her, and with nobody who is not proven."""

import threading
from types import SimpleNamespace

import pytest

from fl_client.certifier import Certifier
from fl_client.cohort import begin, begin_again
from fl_client.coverage import left_out, select_checked
from tests.fl_client.lane_world import CHUNKS, NORTH, SLOTS, TERMS, HandProver, LaneWorld

PLAN = SimpleNamespace(epoch=SimpleNamespace(number=1))


@pytest.fixture
def world(tmp_path):
    world = LaneWorld(tmp_path)
    yield world
    world.close()


@pytest.fixture
def prover():
    return HandProver()


@pytest.fixture
def certifier(world, prover):
    return Certifier(TERMS, world.store, prover)


def choose(world, state, gone=()):
    return select_checked(
        TERMS,
        NORTH,
        state.chunks,
        openings=world.openings,
        patients=world.records,
        gone={state.chunks[0].chunk * SLOTS + number for number in gone},
    )


def proven(certifier, cohort):
    certificates = certifier.finish(cohort.certification)
    return sum(one.public_inputs[1] for one in certificates)


def test_who_withdrew_since_the_plan_is_left_out_under_the_plans_own_root(world, certifier, prover):
    state = world.state()
    cohort = begin(choose(world, state), certifier, PLAN)
    prover.work()
    threading.Timer(0.05, prover.work).start()
    again = begin_again(cohort, choose(world, state, {1, 9}), certifier, PLAN, seconds=10)
    assert len(prover.jobs) == CHUNKS + 2  # the chunks of the two, and no other
    assert len(again.patients) == CHUNKS * SLOTS - 2 == proven(certifier, again)
    assert [one.root for one in again.selections] == [one.root for one in cohort.selections]
    assert again.left_out == 0


def test_a_chunk_that_cannot_be_proved_in_time_is_left_out_whole_and_counted(
    world, certifier, prover
):
    state = world.state()
    cohort = begin(choose(world, state), certifier, PLAN)
    prover.work()
    again = begin_again(cohort, choose(world, state, {1}), certifier, PLAN, seconds=0.01)
    assert again.left_out == SLOTS - 1
    assert len(again.patients) == (CHUNKS - 1) * SLOTS == proven(certifier, again)
    assert not {patient.id for patient in again.patients} & {
        f"patient {number}" for number in range(SLOTS)
    }


def test_chunks_that_did_not_change_are_waited_for_later_and_never_left_out(
    world, certifier, prover
):
    state = world.state()
    cohort = begin(choose(world, state), certifier, PLAN)  # nothing is proved yet
    again = begin_again(cohort, choose(world, state, {1}), certifier, PLAN, seconds=0.01)
    assert len(again.selections) == CHUNKS - 1
    prover.work()
    assert proven(certifier, again) == (CHUNKS - 1) * SLOTS


def test_a_chunk_of_which_all_withdrew_needs_no_proof(world, certifier, prover):
    state = world.state()
    cohort = begin(choose(world, state), certifier, PLAN)
    prover.work()
    again = begin_again(cohort, choose(world, state, range(SLOTS)), certifier, PLAN, seconds=10)
    assert len(prover.jobs) == CHUNKS
    assert proven(certifier, again) == (CHUNKS - 1) * SLOTS


def test_only_who_could_have_taken_part_counts_as_left_out(world):
    state = world.state()
    first = state.chunks[0].chunk * SLOTS
    records = dict(world.records)
    del records["patient 2"]
    gone = {first + number for number in (1, 2)}
    assert left_out(TERMS, state.chunks, world.openings, records, gone=gone) == 1
