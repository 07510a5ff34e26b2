"""A round that meets a withdrawal goes on without her, and with nobody who is not proven."""

import secrets
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from consent.grant import new_opening
from fl_client.certifier import Certifier
from fl_client.cohort import begin, begin_again, gather
from fl_client.coverage import left_out, select_checked
from fl_client.lane import LaneMemory, LaneState, check_lane
from protocol.ids import PatientId, number_of
from protocol.messages import ChunkState
from records.dataset import Patient, TableRow
from tests.fl_client.lane_world import (
    CHUNKS,
    DATASET,
    NORTH,
    NOW,
    PATIENTS,
    SLOTS,
    STUDY,
    TERMS,
    HandProver,
    LaneWorld,
)

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


def work_once_asked(prover, jobs):
    while len(prover.jobs) < jobs:
        time.sleep(0.01)
    prover.work()


def test_who_withdrew_since_the_plan_is_left_out_under_the_plans_own_root(world, certifier, prover):
    state = world.state()
    cohort = begin(choose(world, state), certifier, PLAN)
    prover.work()
    threading.Thread(target=work_once_asked, args=(prover, CHUNKS + 2), daemon=True).start()
    again = begin_again(cohort, choose(world, state, {1, 9}), certifier, PLAN, seconds=60)
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


class Twins:
    """An openings book in which two leaves, of one chunk or of two, are one patient's."""

    def __init__(self, openings, pairs):
        self.openings, self.pairs = openings, pairs

    def opening_at(self, place):
        patient, opening = self.openings.opening_at(place)
        return self.pairs.get(patient, patient), opening


def test_a_patient_with_two_live_leaves_is_chosen_once(world):
    pairs = {PATIENTS[1]: PATIENTS[0], PATIENTS[SLOTS + 1]: PATIENTS[2]}
    book = SimpleNamespace(openings=Twins(world.openings, pairs), records=world.records)
    selections = choose(book, world.state())
    chosen = [patient.id for one in selections for patient in one.patients]
    assert len(chosen) == len(set(chosen)) == CHUNKS * SLOTS - 2
    for one in selections:
        assert sum(slot.used for slot in one.slots) == len(one.patients)


@pytest.mark.parametrize("other", [{"study": "another"}, {"dataset": "other-records"}])
def test_nobody_is_chosen_for_what_she_granted_to_another_study_or_of_other_records(world, other):
    granted = {"study": STUDY, "dataset": DATASET} | other
    lane = world.registry.open_lane(granted["study"], NORTH, granted["dataset"], SLOTS, SLOTS)
    ((_, first),) = [world.openings.opening_at(world.state().chunks[0].chunk * SLOTS)]
    terms = replace(
        first.terms,
        study=number_of(granted["study"], bits=64),
        dataset=number_of(granted["dataset"], bits=32),
    )
    patient = PatientId("of another study")
    salt = world.openings.hospital_salt
    opening, code = new_opening(patient, salt, terms, entropy=secrets.token_bytes)
    receipt = world.registry.publish(lane, opening.leaf(), code.revoke_hash, now=NOW)
    world.openings.add(patient, opening, receipt)
    world.records[patient] = Patient(patient, 1, (TableRow(key=patient, values=(1.0,)),))
    (chunk,) = lane.chunks
    foreign = ChunkState(
        chunk=chunk,
        leaves=tuple(world.registry.chunk_leaves(chunk)),
        siblings=tuple(world.registry.chunk_path(chunk)),
    )
    state = world.state()
    sent = LaneState(state.epoch, (*state.chunks, foreign))
    check_lane(TERMS, sent)  # as much the registry's as the others
    chosen = {one.id for selection in choose(world, sent) for one in selection.patients}
    assert chosen == set(PATIENTS)


def gathered(world, certifier, *, reserve, seconds=0.0):
    """Gather a round's patients from the lane as it is now; news comes from the registry."""
    state = world.state()
    plan = SimpleNamespace(epoch=state.epoch)
    lane = LaneMemory(TERMS, world.store, world.newest)

    def chosen():
        return select_checked(
            TERMS,
            NORTH,
            state.chunks,
            openings=world.openings,
            patients=world.records,
            gone=lane.gone(state.chunks),
        )

    return gather(
        chosen, reserve, plan, state.chunks, lane=lane, certifier=certifier, seconds=seconds
    )


def test_who_withdraws_while_a_second_choice_is_proved_is_not_read_either(world):
    """Proofs of a second choice may take minutes; each turn here somebody else withdraws."""
    leaving = [1, 9, 17, 2]
    prover = HandProver()

    class Waiting(Certifier):
        def late(self, certification, chunks, *, seconds):
            if leaving:
                world.withdraw(leaving.pop())
            prover.work()
            return super().late(certification, chunks, seconds=seconds)

    certifier = Waiting(TERMS, world.store, prover)
    world.first = True

    def reserve(_cohort):
        if world.first:
            world.first = False
            world.withdraw(leaving.pop())

    cohort = gathered(world, certifier, reserve=reserve)
    prover.work()
    assert not leaving
    gone = {PATIENTS[number] for number in (1, 9, 17, 2)}
    assert {patient.id for patient in cohort.patients} == set(PATIENTS) - gone
    assert proven(certifier, cohort) == len(cohort.patients)
    assert cohort.left_out == 0


def test_the_ledger_is_asked_about_the_patients_of_every_choice(world, certifier, prover):
    asked = []

    def reserve(cohort):
        if not asked:
            world.withdraw(1)
        asked.append(cohort)

    cohort = gathered(world, certifier, reserve=reserve)
    assert len(asked) == 2
    assert asked[-1] == cohort
    prover.work()
