"""Calibration counts every patient once and is nought where probabilities are the truth."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from models.calibration import calibration

patients = st.lists(
    st.tuples(st.integers(0, 1), st.floats(0, 1, width=32)), min_size=1, max_size=40
)


@given(patients, st.integers(1, 12))
def test_every_patient_is_in_one_bin_and_the_error_is_their_mean_gap(rows, bins):
    labels, likely = np.array([label for label, _ in rows]), np.array([p for _, p in rows])
    found = calibration(labels, likely, bins=bins)
    assert sum(one.patients for one in found.table) == len(rows)
    assert all(one.low <= one.predicted <= one.high + 1e-9 for one in found.table)
    gaps = [one.patients * abs(one.predicted - one.observed) for one in found.table]
    assert np.isclose(found.error, sum(gaps) / len(rows))
    assert 0.0 <= found.error <= 1.0


@given(patients)
def test_the_brier_score_is_that_of_scikit_learn(rows):
    labels, likely = np.array([label for label, _ in rows]), np.array([p for _, p in rows])
    assert np.isclose(
        calibration(labels, likely).brier, brier_score_loss(labels, likely, labels=[0, 1])
    )


def test_the_table_is_that_of_scikit_learn():
    generator = np.random.default_rng(2)
    likely = generator.uniform(size=500)
    labels = (generator.uniform(size=500) < likely).astype(int)
    observed, predicted = calibration_curve(labels, likely, n_bins=10)
    found = calibration(labels, likely)
    assert np.allclose([one.observed for one in found.table], observed)
    assert np.allclose([one.predicted for one in found.table], predicted)
    assert found.error < 0.1


def test_certain_and_right_probabilities_are_perfectly_calibrated():
    found = calibration(np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]))
    assert (found.brier, found.error) == (0.0, 0.0)


def test_a_site_of_one_class_and_one_patient_has_a_calibration():
    found = calibration(np.array([1]), np.array([0.7]))
    assert np.isclose(found.error, 0.3)
