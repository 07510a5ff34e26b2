"""What code made of a patient is kept under no name of hers, and once deleted is in no byte."""

import sqlite3

import numpy as np
import pytest

from fl_client import feature_store
from fl_client.feature_store import FILE, FeatureStore, Made, forget, step_of
from protocol.errors import StorageFailed
from protocol.ids import PatientId
from tests.fl_client.feature_world import STEP

OWNER, STRANGER = PatientId("owner-4711"), PatientId("stranger-4712")
STEP_A, STEP_B = "a" * 64, "b" * 64


def features(value, count=500):
    return Made(np.full((count, 2), value, np.float32), failed=False)


@pytest.fixture
def folder(tmp_path):
    """A hospital's folder, where two steps made something of two patients."""
    store = FeatureStore(tmp_path / FILE)
    for step in (STEP_A, STEP_B):
        store.keep(step, store.person(OWNER), "1" * 64, features(1.1))
        store.keep(step, store.person(STRANGER), "2" * 64, features(2.2))
    store.close()
    return tmp_path


@pytest.fixture
def store(folder):
    opened = FeatureStore(folder / FILE)
    yield opened
    opened.close()


def bytes_of(folder):
    return b"".join(one.read_bytes() for one in folder.iterdir())


def holds(folder, value):
    return np.float32(value).tobytes() * 8 in bytes_of(folder)


def persons(store, step):
    return {person for person, _ in store.read(step, (2,))}


def test_who_is_forgotten_is_in_no_byte_and_everybody_else_stays(folder, store):
    assert holds(folder, 1.1)
    assert store.holds(OWNER) == 2
    assert forget(folder, OWNER) == 2
    assert store.holds(OWNER) == 0
    assert not holds(folder, 1.1)
    assert holds(folder, 2.2)
    assert persons(store, STEP_A) == persons(store, STEP_B) == {store.person(STRANGER)}
    assert store.person(OWNER).encode() not in bytes_of(folder)


def test_who_was_never_run_and_a_hospital_without_code_are_nothing_to_do(folder, tmp_path):
    assert forget(folder, PatientId("nobody")) == 0
    assert forget(tmp_path / "elsewhere", OWNER) == 0
    assert not (tmp_path / "elsewhere").exists()


def test_the_file_names_no_patient_and_means_nothing_beside_another(folder, store, tmp_path):
    other = FeatureStore(tmp_path / "other.db")
    assert OWNER.encode() not in bytes_of(folder)
    assert other.person(OWNER) != store.person(OWNER) == FeatureStore(folder / FILE).person(OWNER)
    other.close()


def test_only_what_is_wanted_is_kept(folder, store):
    assert store.steps() == {STEP_A, STEP_B}
    assert store.keep_only({STEP_A: {store.person(OWNER)}}) == 3
    assert (store.steps(), store.counts()) == ({STEP_A}, (1, 0))
    assert not holds(folder, 2.2)
    assert store.keep_only({}) == 1
    assert not holds(folder, 1.1)


def test_who_is_in_a_round_no_longer_goes_and_is_overwritten_when_it_is_tidied(folder, store):
    keep = {store.person(STRANGER)}
    store.forget_others(STEP_A, keep)
    assert persons(store, STEP_A) == keep
    assert len(persons(store, STEP_B)) == 2
    assert store.keep_only({STEP_A: keep, STEP_B: keep}) == 1
    assert not holds(folder, 1.1)


def killed(*_arguments, **_known):
    raise KeyboardInterrupt


def test_a_death_before_the_rewrite_is_made_up_for(folder, store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "write_anew", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(folder, OWNER)
    again = FeatureStore(folder / FILE)
    assert again.keep_only({one: {again.person(STRANGER)} for one in (STEP_A, STEP_B)}) == 0
    again.close()
    assert not holds(folder, 1.1)


def test_a_reader_in_the_way_is_said_and_the_rewrite_made_up_for(folder, store, monkeypatch):
    monkeypatch.setattr(feature_store, "REWRITE_WAIT_SECONDS", 0.1)
    reader = sqlite3.connect(folder / FILE)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM patient_features").fetchone()
    with pytest.raises(StorageFailed, match="again"):
        forget(folder, OWNER)
    assert persons(store, STEP_A) == {store.person(STRANGER)}
    reader.close()
    assert forget(folder, OWNER) == 0
    assert not holds(folder, 1.1)


def test_new_records_take_the_place_of_the_old_ones(folder, store):
    store.keep(STEP_A, store.person(OWNER), "3" * 64, features(3.3))
    assert (store.person(OWNER), "1" * 64) not in store.read(STEP_A, (2,))
    assert store.counts() == (4, 0)


def test_what_the_first_version_kept_is_dropped_to_the_last_byte(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as first:
        first.execute("CREATE TABLE features (patient TEXT, features BLOB)")
        first.execute("INSERT INTO features VALUES ('x', ?)", [features(1.1).values.tobytes()])
    first.close()
    assert holds(tmp_path, 1.1)
    assert forget(tmp_path, OWNER) == 0
    assert not holds(tmp_path, 1.1)


def test_another_step_or_shape_is_kept_apart():
    other = STEP.model_copy(update={"function": "steps:choosy"})
    assert len({step_of(STEP, (2,)), step_of(STEP, (3,)), step_of(other, (2,))}) == 3
