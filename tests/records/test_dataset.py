"""Patients are counted once, and what is loaded is what was listed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PatientId, SiteId
from records.dataset import (
    ImageFile,
    Patient,
    PatientInTwoPlaces,
    RecordChanged,
    Source,
    StudyData,
    TableRow,
    patient_digest,
)
from records.files import FileMissing
from records.image import ImageLoader

SOURCE = Source("test", "test", True, "patient", "table", "a", "b", "c", "none", "")
values = st.tuples(st.none() | st.floats(allow_nan=False), st.none() | st.floats(allow_nan=False))
rows = st.builds(TableRow, key=st.text(max_size=5), values=values)


@given(st.lists(rows, min_size=1, max_size=5), st.randoms())
def test_a_patients_digest_ignores_the_order_of_her_records(records, random):
    shuffled = list(records)
    random.shuffle(shuffled)
    ordered = patient_digest(Patient(PatientId("a"), 0, tuple(records)))
    assert ordered == patient_digest(Patient(PatientId("b"), 1, tuple(shuffled)))
    assert 0 <= ordered < 2**248


@given(rows, rows)
def test_different_rows_have_different_digests(one, other):
    same = (one.key, [repr(value) for value in one.values]) == (
        other.key,
        [repr(value) for value in other.values],
    )
    assert (one.digest == other.digest) == same


def test_a_patients_digest_is_the_truncated_hash_of_her_sorted_digests():
    records = (TableRow("b", (1.0,)), TableRow("a", (None,)))
    whole = hashlib.sha256(b"".join(sorted(record.digest for record in records))).digest()
    patient = Patient(PatientId("a"), 0, records)
    assert patient_digest(patient) == int.from_bytes(whole[:31], "big")


def person(name):
    return Patient(PatientId(name), 0, (TableRow(name, (0.0,)),))


def test_a_patient_at_two_sites_is_refused():
    sites = {SiteId("north"): (person("a"),), SiteId("south"): (person("a"),)}
    with pytest.raises(PatientInTwoPlaces):
        StudyData(SOURCE, sites, (), (1,))


def test_a_patient_both_trained_and_tested_on_is_refused():
    with pytest.raises(PatientInTwoPlaces):
        StudyData(SOURCE, {SiteId("north"): (person("a"),)}, (person("a"),), (1,))


def listed(path):
    return ImageFile(path, hashlib.sha256(path.read_bytes()).digest())


def test_loading_opens_the_files_of_the_patients_asked_for_and_no_other(tmp_path, make_png):
    patients = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        path.write_bytes(make_png(number))
        patients.append(Patient(PatientId(str(number)), number % 2, (listed(path),)))
    for number in (0, 3):
        (tmp_path / f"{number}.png").unlink()
    arrays = ImageLoader().load(patients[1:3])
    assert arrays.x.shape == (2, 1, 64, 64)
    assert arrays.x.dtype == np.float32
    assert arrays.y.tolist() == [1, 0]
    assert arrays.patient.tolist() == [0, 1]
    with pytest.raises(FileMissing):
        ImageLoader().load(patients[3:])


def test_every_record_of_a_patient_carries_her_label_and_position(tmp_path, make_png):
    images = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(make_png(number))
        images.append(listed(path))
    patients = [
        Patient(PatientId("one"), 0, tuple(images[:1])),
        Patient(PatientId("two"), 1, tuple(images[1:])),
    ]
    arrays = ImageLoader().load(patients)
    assert arrays.y.tolist() == [0, 1, 1]
    assert arrays.patient.tolist() == [0, 1, 1]


def test_loading_nobody_gives_empty_arrays():
    arrays = ImageLoader().load([])
    assert arrays.x.shape == (0, 1, 64, 64)
    assert arrays.y.shape == arrays.patient.shape == (0,)


def test_a_file_that_changed_after_it_was_listed_is_refused(tmp_path, make_png):
    path = tmp_path / "a.png"
    path.write_bytes(make_png(1))
    patient = Patient(PatientId("a"), 0, (listed(path),))
    path.write_bytes(make_png(2))
    with pytest.raises(RecordChanged):
        ImageLoader().load([patient])
