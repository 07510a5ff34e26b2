"""A table's row becomes features by itself alone, and four real hospitals stay four."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.files import FileMissing
from records.split import TooFewPatients
from records.tables import (
    FEATURE_MAX,
    HEART,
    HEART_SITES,
    WISCONSIN,
    TableLoader,
    TableMalformed,
    prepare,
    read_heart,
    read_wisconsin,
    width,
)

HEALTHY = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
ILL = "67,1,4,160,0,?,2,108,1,1.5,2,?,?,2"
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("columns", [HEART, WISCONSIN])
def test_features_are_bounded_whatever_the_values(columns):
    @given(st.lists(numbers, min_size=len(columns), max_size=len(columns)))
    def check(values):
        features = prepare(values, columns)
        assert features.shape == (width(columns),)
        assert features.dtype == np.float32
        assert (abs(features) <= FEATURE_MAX).all()

    check()


def test_a_row_is_prepared_without_looking_at_others(hospitals):
    study = read_heart(hospitals, seed=1)
    patients = study.sites["va"]
    loader = TableLoader(HEART)
    together = loader.load(patients)
    for index, patient in enumerate(patients):
        np.testing.assert_array_equal(loader.load([patient]).x[0], together.x[index])


def test_what_was_not_measured_is_zero_and_said_where_hospitals_may_lack_it():
    missing = prepare([None] * len(HEART), HEART)
    assert missing.sum() == 2  # the two flags, of cholesterol and of vessels
    assert not prepare([None] * len(WISCONSIN), WISCONSIN).any()
    zero_cholesterol = [55, 1, 4, 130, 0, 0, 0, 140, 0, 1, 2, 1, 3]
    # After age, sex, four kinds of pain, blood pressure and cholesterol itself.
    assert prepare(zero_cholesterol, HEART)[7:9].tolist() == [0, 1]


@pytest.fixture
def hospitals(tmp_path):
    """Four small hospitals; switzerland has a single healthy patient."""
    for name in HEART_SITES:
        healthy = 1 if name == "switzerland" else 6
        rows = [HEALTHY] * healthy + [ILL] * 9
        (tmp_path / f"processed.{name}.data").write_text("\n".join(rows) + "\n\n")
    return tmp_path


def test_every_hospital_is_a_site_and_gives_a_third_of_each_class(hospitals):
    study = read_heart(hospitals, seed=1)
    assert {site: len(there) for site, there in study.sites.items()} == {
        "cleveland": 10,
        "hungarian": 10,
        "switzerland": 7,
        "va": 10,
    }
    assert len(study.test) == 3 * 5 + 3
    assert study == read_heart(hospitals, seed=1)
    assert study != read_heart(hospitals, seed=2)


def test_equal_rows_of_two_patients_have_different_digests(hospitals):
    patients = read_heart(hospitals, seed=1).test
    assert len({patient.records[0].digest for patient in patients}) == len(patients)


def test_a_missing_hospital_is_refused(hospitals):
    (hospitals / "processed.va.data").unlink()
    with pytest.raises(FileMissing):
        read_heart(hospitals, seed=1)


@pytest.mark.parametrize(
    "line",
    [
        HEALTHY.rsplit(",", 1)[0],
        HEALTHY + ",1",
        HEALTHY.replace("233", "high"),
        HEALTHY.replace("233", "nan"),
        HEALTHY[:-1] + "5",
        HEALTHY[:-1] + "?",
        "\u00e9" + HEALTHY,
    ],
)
def test_a_malformed_line_is_refused_by_its_number(hospitals, line):
    (hospitals / "processed.va.data").write_text(f"{HEALTHY}\n{line}\n")
    with pytest.raises(TableMalformed, match="line 2"):
        read_heart(hospitals, seed=1)


def test_an_empty_table_is_refused(hospitals):
    (hospitals / "processed.va.data").write_text("\n")
    with pytest.raises(TableMalformed):
        read_heart(hospitals, seed=1)


def test_wisconsin_is_split_over_the_sites_and_loads():
    study = read_wisconsin(sites=6, seed=1)
    patients = [*study.test, *(patient for site in study.sites.values() for patient in site)]
    assert len({patient.id for patient in patients}) == 569
    assert sum(patient.label for patient in patients) == 212
    assert min(len(site) for site in study.sites.values()) >= 24
    arrays = TableLoader(WISCONSIN).load(study.test)
    assert arrays.x.shape == (len(study.test), *study.input_shape) == (113, 30)
    assert study == read_wisconsin(sites=6, seed=1)


def test_wisconsin_values_lie_within_the_published_ranges():
    study = read_wisconsin(sites=2, seed=1)
    x = TableLoader(WISCONSIN).load([p for site in study.sites.values() for p in site]).x
    assert (abs(x) < 2).mean() > 0.99


def test_wisconsin_over_more_sites_than_patients_is_refused():
    with pytest.raises(TooFewPatients):
        read_wisconsin(sites=500, seed=1)


def test_the_real_hospitals_open_and_keep_their_counts(real):
    study = read_heart(real("heart_disease_4sites"), seed=7)
    total = {site: len(there) for site, there in study.sites.items()}
    for patient in study.test:
        total[patient.id.rsplit("-", 1)[0]] += 1
    assert total == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
    healthy = [patient.label for patient in study.sites["switzerland"]].count(0)
    assert healthy == 5
    x = TableLoader(HEART).load(study.test).x
    assert np.isfinite(x).all()
    assert x.shape[1:] == study.input_shape
