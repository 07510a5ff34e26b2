"""Do predicted probabilities mean what they say? Brier score, calibration error and its table.

A model is calibrated if of the patients given 0.3, three in ten are positive. AUC cannot see this,
and clipping and noise disturb it, so it is reported beside every AUC.

    >>> found = calibration(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]), bins=2)
    >>> round(found.brier, 3), round(found.error, 3), [one.patients for one in found.table]
    (0.025, 0.15, [2, 2])

What holds, each line a test in tests/models/test_calibration.py:

1. Every patient is in one bin; the error is the patients' mean gap and lies in [0, 1].
2. Probabilities equal to the labels give zero, for the error and the Brier score.
3. Sites with one class, or one patient, have all three.

References:
    Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 1950.
    Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015:
    expected calibration error over bins of equal width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS: Final = 10
"""Of equal width: the common choice, and coarse enough for a hundred patients."""


@dataclass(frozen=True)
class Bin:
    """One row of the reliability table.

    Attributes:
        low: Least probability, included.
        high: Largest, excluded except in the last bin.
        patients: How many fall in.
        predicted: Their mean probability.
        observed: The share of them that is positive.
    """

    low: float
    high: float
    patients: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """How well probabilities match outcomes; ``table`` holds the bins that are not empty."""

    brier: float
    error: float
    bins: int
    table: tuple[Bin, ...]


def calibration(
    labels: NDArray[Any], probabilities: NDArray[Any], *, bins: int = BINS
) -> Calibration:
    """Return Brier score, expected calibration error and reliability table.

    Args:
        labels: ``(patients,)`` 0 or 1, at least one.
        probabilities: ``(patients,)`` of the positive class, in [0, 1].
        bins: Of equal width over [0, 1].
    """
    assert labels.shape == probabilities.shape
    assert len(labels) > 0
    assert bins >= 1
    assert ((probabilities >= 0.0) & (probabilities <= 1.0)).all()
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, bins - 1)
    table = []
    for index in np.unique(place):
        inside = place == index
        table.append(
            Bin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                patients=int(inside.sum()),
                predicted=float(probabilities[inside].mean()),
                observed=float(labels[inside].mean()),
            )
        )
    gaps = sum(one.patients * abs(one.predicted - one.observed) for one in table)
    return Calibration(
        brier=float(np.mean((probabilities - labels) ** 2)),
        error=gaps / len(labels),
        bins=bins,
        table=tuple(table),
    )
