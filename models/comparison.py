"""Is one model's AUC larger than another's on the same patients? DeLong's test.

The two AUCs are correlated because they rank the same patients, so their intervals may overlap
although one model is surely better. DeLong's estimate of the covariance [1] needs no draw and no
assumption about the scores; it is computed from mid-ranks [2].

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> better = np.array([0.1, 0.2, 0.4, 0.3, 0.8, 0.9])
    >>> found = compare_aucs(labels, better, -better)
    >>> round(found.difference, 3)
    0.778

What holds, each line a test in tests/models/test_comparison.py:

1. The AUCs are those of ``models.metrics.auc``; swapping the models swaps the sign alone.
2. The variance is that of the obvious sum over pairs, and agrees with the bootstrap.
3. A model compared with itself differs by nothing, with p = 1.

References:
    [1] DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves, Biometrics 1988, section 3.
    [2] Sun and Xu, Fast Implementation of DeLong's Algorithm, IEEE Signal Processing Letters 2014,
    algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm, rankdata

from models.metrics import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Comparison:
    """Two models on the same patients.

    Attributes:
        first: AUC of the first.
        second: AUC of the second.
        difference: First minus second.
        interval: Of the difference, normal approximation.
        p_value: Two-sided, of the difference being zero; 1 where both rank alike.
    """

    first: float
    second: float
    difference: float
    interval: Interval
    p_value: float


def auc_covariance(
    labels: NDArray[Any], *scores: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return each model's AUC and DeLong's covariance of them.

    Args:
        labels: ``(patients,)`` 0 or 1.
        scores: One ``(patients,)`` array per model.

    Returns:
        ``(models,)`` AUCs and their ``(models, models)`` covariance, or None where a class has
        fewer than two patients, because a single one has no variance.
    """
    assert scores
    assert all(one.shape == labels.shape for one in scores)
    sick, well = labels == 1, labels == 0
    positives, negatives = int(sick.sum()), int(well.sum())
    if positives < 2 or negatives < 2:
        return None
    of_sick, of_well = [], []
    for one in scores:
        together = rankdata(one)
        # Share of the other class that this patient outranks, ties counting half.
        of_sick.append((together[sick] - rankdata(one[sick])) / negatives)
        of_well.append(1.0 - (together[well] - rankdata(one[well])) / positives)
    placed_sick, placed_well = np.array(of_sick), np.array(of_well)  # (models, patients of a class)
    covariance = np.cov(placed_sick) / positives + np.cov(placed_well) / negatives
    return placed_sick.mean(axis=1), np.atleast_2d(covariance)


def compare_aucs(
    labels: NDArray[Any], first: NDArray[Any], second: NDArray[Any], *, level: float = 0.95
) -> Comparison | None:
    """Compare two models on the same patients; None where a class has fewer than two patients."""
    assert 0.0 < level < 1.0
    found = auc_covariance(labels, first, second)
    if found is None:
        return None
    (one, other), covariance = found
    difference = float(one - other)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    deviation = math.sqrt(max(variance, 0.0))
    reach = float(norm.ppf((1 + level) / 2)) * deviation
    if deviation > 0.0:
        p_value = float(2 * norm.sf(abs(difference) / deviation))
    else:
        p_value = 1.0 if difference == 0.0 else 0.0
    interval = Interval(difference - reach, difference + reach, level)
    return Comparison(float(one), float(other), difference, interval, p_value)
