"""DeLong's variance is that of the obvious sum over pairs, and the bootstrap agrees."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.comparison import auc_covariance, compare_aucs
from models.metrics import auc

patients = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(-4, 4)), min_size=4, max_size=25
)


def obvious(labels, scores):
    """The covariance by the definition: every pair compared, one structural component each."""
    sick, well = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    wins = [
        (one[sick][:, None] > one[well]) + 0.5 * (one[sick][:, None] == one[well]) for one in scores
    ]
    of_sick = np.cov([each.mean(axis=1) for each in wins])
    of_well = np.cov([each.mean(axis=0) for each in wins])
    return of_sick / len(sick) + of_well / len(well)


@settings(max_examples=60, deadline=None)
@given(patients)
def test_the_covariance_is_that_of_the_sum_over_pairs(rows):
    labels, first, second = np.array(rows).T
    found = auc_covariance(labels, first, second)
    if min((labels == 1).sum(), (labels == 0).sum()) < 2:
        assert found is None
        return
    areas, covariance = found
    assert np.allclose(areas, [auc(labels, first), auc(labels, second)])
    assert np.allclose(covariance, obvious(labels, (first, second)))


@settings(max_examples=30, deadline=None)
@given(patients)
def test_swapping_the_models_swaps_the_sign_alone(rows):
    labels, first, second = np.array(rows).T
    one, other = compare_aucs(labels, first, second), compare_aucs(labels, second, first)
    if one is None:
        assert other is None
        return
    assert np.isclose(one.difference, -other.difference)
    assert np.isclose(one.p_value, other.p_value)
    assert np.isclose(one.interval.low, -other.interval.high)


def test_a_model_compared_with_itself_differs_by_nothing():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9])
    found = compare_aucs(labels, scores, scores * 2 + 1)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_the_interval_agrees_with_the_bootstrap_over_patients():
    generator = np.random.default_rng(4)
    labels = np.repeat([0, 1], [90, 60])
    first = 2 * labels + generator.normal(size=150)
    second = first + 2 * generator.normal(size=150)
    found = compare_aucs(labels, first, second)
    draws = []
    for _ in range(800):
        again = np.concatenate([generator.integers(0, 90, 90), generator.integers(90, 150, 60)])
        draws.append(auc(labels[again], first[again]) - auc(labels[again], second[again]))
    low, high = np.quantile(draws, [0.025, 0.975])
    width = found.interval.high - found.interval.low
    assert abs(found.interval.low - low) < 0.15 * width
    assert abs(found.interval.high - high) < 0.15 * width
    assert found.p_value < 0.05


def test_equal_models_are_called_different_about_as_often_as_stated():
    generator = np.random.default_rng(5)
    labels = np.repeat([0, 1], [40, 40])
    rejected = 0
    for _ in range(400):
        shared = labels + generator.normal(size=80)
        pair = [shared + generator.normal(size=80) for _ in range(2)]
        rejected += compare_aucs(labels, *pair).p_value < 0.05
    assert 6 <= rejected <= 38  # 20 expected, four standard deviations
