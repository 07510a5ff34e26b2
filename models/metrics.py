"""How a model is judged: by how it ranks patients, and how sure we may be of that.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    >>> auc(np.array([1, 1]), np.array([0.1, 0.9])) is None
    True

What holds, each line a test in tests/models/test_metrics.py:

1. AUC is the share of (positive, negative) pairs ranked rightly, ties counting half.
2. AUC is unchanged by any increasing map of the scores, and is None where one class is missing.
3. The bootstrap interval is the same for the same seed and contains the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A range that covers the true value in ``level`` of repetitions, about."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Confusion:
    """Shares decided rightly at one threshold; None where the class is missing."""

    sensitivity: float | None
    specificity: float | None
    threshold: float


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float | None:
    """Return the area under the ROC curve by rank sums [1].

    Args:
        labels: ``(patients,)`` 0 or 1.
        scores: ``(patients,)``, larger means more likely positive.

    Returns:
        0 to 1, or None if there are only positives or only negatives.

    References:
        [1] Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    assert labels.shape == scores.shape
    positive = labels == 1
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    rank_sum = float(rankdata(scores)[positive].sum())  # ties share their mean rank
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def confusion(labels: NDArray[Any], scores: NDArray[Any], threshold: float) -> Confusion:
    """Return sensitivity and specificity when scores of at least ``threshold`` are positive."""
    assert labels.shape == scores.shape
    called = scores >= threshold
    sick, well = labels == 1, labels == 0
    return Confusion(
        sensitivity=float(called[sick].mean()) if sick.any() else None,
        specificity=float((~called[well]).mean()) if well.any() else None,
        threshold=threshold,
    )


def auc_interval(
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 1000,
) -> Interval | None:
    """Return a percentile bootstrap interval of the AUC over patients [1].

    Positives and negatives are drawn apart, so no draw lacks a class.

    Args:
        labels: ``(patients,)`` 0 or 1.
        scores: ``(patients,)``.
        seed: Of the draws.
        level: Coverage aimed at, in (0, 1).
        draws: Bootstrap samples.

    Returns:
        None where the AUC is None.

    References:
        [1] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    assert 0.0 < level < 1.0
    estimate = auc(labels, scores)
    if estimate is None:
        return None
    generator = np.random.default_rng(seed)
    sick, well = scores[labels == 1], scores[labels == 0]
    truth = np.repeat([1, 0], [len(sick), len(well)])
    found = []
    for _ in range(draws):
        again = [generator.choice(sick, len(sick)), generator.choice(well, len(well))]
        found.append(auc(truth, np.concatenate(again)))
    low, high = np.quantile(np.array(found, dtype=float), [(1 - level) / 2, (1 + level) / 2])
    # In tiny samples the percentiles can miss the estimate itself.
    return Interval(min(float(low), estimate), max(float(high), estimate), level)
