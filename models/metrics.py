"""How a model is judged: by how it ranks patients, and how sure we may be of that.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    >>> auc(np.array([1, 1]), np.array([0.1, 0.9])) is None
    True

What holds, each line a test in tests/models/test_metrics.py:

1. AUC is the share of (positive, negative) pairs ranked rightly, ties counting half.
2. AUC is unchanged by any increasing map of the scores, and is None where one class is missing.
3. The bootstrap interval is the same for the same seed and contains the estimate.
4. A share's interval contains the share, and narrows as more patients are counted.

Two models are compared in ``models.comparison``; calibration and overlap of masks have modules of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, rankdata

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
    sensitivity_interval: Interval | None = None
    specificity_interval: Interval | None = None


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


def confusion(
    labels: NDArray[Any], scores: NDArray[Any], threshold: float, *, level: float = 0.95
) -> Confusion:
    """Return sensitivity and specificity when scores of at least ``threshold`` are positive.

    The intervals are Wilson's, see ``share_interval``.
    """
    assert labels.shape == scores.shape
    called = scores >= threshold
    sick, well = labels == 1, labels == 0
    found, found_interval = _share(called[sick], level)
    spared, spared_interval = _share(~called[well], level)
    return Confusion(found, spared, threshold, found_interval, spared_interval)


def share_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval | None:
    """Return Wilson's score interval of a share [1], or None if nothing was tried.

    Shares near 0 or 1 of few patients are the rule here, where the usual interval fails; Wilson's
    covers about as often as it says [2].

    Examples:
        >>> share_interval(9, 10)  # doctest: +ELLIPSIS
        Interval(low=0.5958..., high=0.9821..., level=0.95)

    References:
        [1] Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
        [2] Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, Statistical
        Science 2001, section 3.1.1.
    """
    assert 0 <= successes <= trials
    assert 0.0 < level < 1.0
    if trials == 0:
        return None
    found = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(float(found.low), float(found.high), level)


def _share(right: NDArray[Any], level: float) -> tuple[float | None, Interval | None]:
    successes, trials = int(right.sum()), len(right)
    return (successes / trials if trials else None, share_interval(successes, trials, level=level))


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
