"""The metrics rank patients as the definition says, and know when they cannot."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from models.metrics import auc, auc_interval, confusion, share_interval

ranked = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=1, max_size=30)


@given(ranked)
def test_auc_is_the_share_of_pairs_ranked_rightly(pairs):
    labels, scores = np.array(pairs).T
    sick, well = scores[labels == 1], scores[labels == 0]
    found = auc(labels, scores)
    if len(sick) == 0 or len(well) == 0:
        assert found is None
        return
    differences = sick[:, None] - well[None, :]
    assert abs(found - ((differences > 0) + 0.5 * (differences == 0)).mean()) < 1e-12
    assert abs(found - roc_auc_score(labels, scores)) < 1e-12


@given(ranked)
def test_an_increasing_map_of_the_scores_leaves_auc_alone(pairs):
    labels, scores = np.array(pairs).T
    assert auc(labels, scores) == auc(labels, np.exp(scores / 3.0))


def test_the_interval_repeats_with_its_seed_and_contains_the_estimate():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 80)
    scores = labels + generator.normal(size=80)
    first = auc_interval(labels, scores, seed=2, draws=200)
    assert first == auc_interval(labels, scores, seed=2, draws=200)
    assert first.low <= auc(labels, scores) <= first.high
    assert 0.05 < first.high - first.low < 0.4


def test_there_is_no_interval_without_both_classes():
    assert auc_interval(np.ones(3), np.arange(3.0), seed=1) is None


def test_sensitivity_and_specificity_are_shares_of_their_class():
    found = confusion(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.6, 0.2, 0.5, 0.4]), 0.5)
    assert (found.sensitivity, found.specificity) == (0.5, 2 / 3)


def test_specificity_is_unknown_without_negatives():
    assert confusion(np.array([1]), np.array([0.7]), 0.5).specificity is None


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_shares_interval_contains_the_share_and_narrows_with_more_patients(right, wrong):
    found = share_interval(right, right + wrong)
    if right + wrong == 0:
        assert found is None
        return
    assert 0.0 <= found.low <= right / (right + wrong) <= found.high <= 1.0
    more = share_interval(4 * right, 4 * (right + wrong))
    assert more.high - more.low < found.high - found.low


def test_wilsons_interval_is_the_published_formula():
    z, n, p = 1.959964, 10, 0.9
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = share_interval(9, 10)
    assert np.allclose([found.low, found.high], [centre - reach, centre + reach], atol=1e-6)


def test_a_missing_class_has_no_interval():
    found = confusion(np.array([1, 1]), np.array([0.7, 0.2]), 0.5)
    assert found.specificity_interval is None
    assert found.sensitivity_interval.low < 0.5 < found.sensitivity_interval.high
