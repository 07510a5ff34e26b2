"""What a study's code made is kept for who takes part and while rounds are to come, no longer."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fl_client.feature_store import FILE, FeatureStore, Made, step_of
from fl_client.jobs import Job
from fl_client.retention import taking_part, tidy
from protocol.errors import DiskFull
from protocol.ids import PatientId
from tests.fl_client.feature_world import feature_job
from tests.fl_client.job_world import OFFICER, Clock, World, frame_for, resident_at
from tests.fl_client.lane_world import PATIENTS, STUDY, TERMS, LaneWorld


@pytest.fixture
def lane(tmp_path):
    made = LaneWorld(tmp_path)
    learn(made)
    yield made
    made.close()


def learn(lane):
    """Let the hospital hear how its lane stands."""
    state = lane.newest()
    lane.store.consents.keep_lane(
        STUDY, state.epoch.number, {one.chunk: one.leaves for one in state.chunks}
    )


def job_of(terms):
    features = feature_job(World())[0].training.features
    training = terms.training.model_copy(update={"features": features})
    return Job(World().manifest(terms), terms.model_copy(update={"training": training}), "", None)


def keep_all(folder, terms, patients=PATIENTS):
    store = FeatureStore(folder / FILE)
    step = step_of(terms.training.features, terms.training.input_shape)
    for one in patients:
        store.keep(step, store.person(one), "0" * 64, Made(np.ones((1, 2), np.float32), False))
    return store


@pytest.fixture
def kept(lane):
    """Features of every patient of the lane, under a job that runs."""
    job = job_of(TERMS)
    store = keep_all(lane.folder, job.terms)
    yield lane, job, store
    store.close()


def test_who_takes_part_in_a_study_that_goes_on_is_kept(kept):
    lane, job, store = kept
    assert taking_part(STUDY, lane.store, lane.openings) == set(PATIENTS)
    assert tidy(lane.folder, [job], lane.store) == 0
    assert store.counts() == (len(PATIENTS), 0)


def test_who_withdrew_elsewhere_goes_once_the_hospital_hears_of_it(kept):
    lane, job, store = kept
    lane.withdraw(3, 4)
    assert tidy(lane.folder, [job], lane.store) == 0
    learn(lane)
    assert tidy(lane.folder, [job], lane.store) == 2
    assert store.counts() == (len(PATIENTS) - 2, 0)


def test_whose_grant_ended_here_goes_though_the_registry_has_not_heard(kept):
    lane, job, _ = kept
    lane.store.consents.end([lane.newest().chunks[0].leaves[5]])
    assert tidy(lane.folder, [job], lane.store) == 1


def test_whose_openings_are_destroyed_goes(kept):
    lane, job, _ = kept
    lane.openings.destroy(PATIENTS[0])
    assert tidy(lane.folder, [job], lane.store) == 1


def test_of_a_study_whose_last_round_is_answered_nothing_is_kept(kept):
    lane, job, store = kept
    for number in range(1, TERMS.rounds + 1):
        assert tidy(lane.folder, [job], lane.store) == 0
        lane.store.keep_answer(STUDY, number, "0" * 64, b"reply", None)
    assert tidy(lane.folder, [job], lane.store) == len(PATIENTS)
    assert store.counts() == (0, 0)


def test_one_step_of_two_studies_is_kept_while_either_needs_it(kept):
    lane, job, _ = kept
    other = replace(job, terms=job.terms.model_copy(update={"study": "other"}))
    assert tidy(lane.folder, [other, job], lane.store) == 0
    assert tidy(lane.folder, [other], lane.store) == len(PATIENTS)


def test_where_no_code_ever_ran_there_is_nothing_to_do(tmp_path):
    assert tidy(tmp_path, [], None) == 0
    assert list(tmp_path.iterdir()) == []


# By the resident process


@pytest.fixture
def residing(tmp_path):
    """A resident with an approved job that brings code, and features that may stay."""
    world, clock = World(), Clock()
    terms, manifest, bundle = feature_job(world)
    resident, _ = resident_at(tmp_path, world, clock)
    resident.answer(world.offer(manifest, terms, bundle=bundle))
    resident.book.allow_code(OFFICER)
    resident.book.approve(manifest.hash, OFFICER, left=lambda _job: math.inf)
    store = keep_all(tmp_path, terms, [PatientId("owner")])
    yield resident, clock, store, manifest
    store.close()


@pytest.fixture
def taking(monkeypatch):
    """The patient takes part, as far as the hospital knows."""
    monkeypatch.setattr("fl_client.retention.taking_part", lambda *_: {PatientId("owner")})


@pytest.mark.usefixtures("taking")
def test_what_an_approved_job_made_stays_from_one_start_to_the_next(residing):
    resident, _, store, _ = residing
    resident.refresh()
    resident.close()
    assert store.counts() == (1, 0)


def refused(resident, _clock, manifest):
    resident.book.refuse(manifest.hash, OFFICER, reason="no")


def forbidden(resident, _clock, _manifest):
    resident.book.allow_code(OFFICER, allowed=False)


def expired(_resident, clock, _manifest):
    clock.pass_(days=31)


def left(resident, _clock, _manifest):
    resident.duty.order("leave", OFFICER, reason="no")


@pytest.mark.usefixtures("taking")
@pytest.mark.parametrize("ended", [refused, forbidden, expired, left])
def test_what_a_job_made_that_runs_no_more_goes_without_a_restart(residing, ended):
    resident, clock, store, manifest = residing
    resident.refresh()
    ended(resident, clock, manifest)
    clock.pass_(minutes=1)
    resident.refresh()
    assert store.counts() == (0, 0)


@pytest.mark.usefixtures("taking")
def test_the_last_round_is_followed_by_the_deletion_at_the_next_look(residing, monkeypatch):
    resident, _, store, manifest = residing
    resident.refresh()
    monkeypatch.setattr(type(resident.store), "answered", lambda *_: [manifest.rounds])
    resident.refresh()
    assert store.counts() == (1, 0), "nothing was answered since it looked"
    resident.answer(frame_for("train", manifest.study, manifest.rounds))
    resident.refresh()
    assert store.counts() == (0, 0)


def test_after_a_crash_the_next_start_deletes_what_is_left(residing):
    resident, _, store, _ = residing
    resident.refresh()
    assert store.counts() == (0, 0), "nobody takes part"


def test_a_disk_that_refuses_keeps_no_process_from_ending(residing, monkeypatch):
    resident, _, store, _ = residing

    def full(*_):
        raise DiskFull(FILE)

    monkeypatch.setattr("fl_client.resident.tidy", full)
    resident.close()
    assert store.counts() == (1, 0)
