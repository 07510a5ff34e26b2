"""How well a drawn mask agrees with the true one: Dice and the 95th-percentile Hausdorff distance.

Both come from MONAI, one number per record and class, the background left out. What an empty mask
means is decided here, because libraries disagree: where both masks are empty the model was right
and Dice is 1; where one of them is, Dice is 0; a distance needs two surfaces, so it is None
unless both masks hold the class.

What holds, each line a test in tests/models/test_overlap.py:

1. Dice is twice the intersection over the sum of both; equal masks have Dice 1 and distance 0.
2. Distances are in millimetres if the voxels' sizes are, and symmetric.
3. Empty masks are treated as said, never as NaN.

References:
    [1] Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 1945.
    [2] Maier-Hein et al., Metrics Reloaded, Nature Methods 2024: percentiles of the Hausdorff
    distance, and empty references.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def dice(found: NDArray[Any], truth: NDArray[Any], *, classes: int) -> NDArray[np.float64]:
    """Return ``(records, classes - 1)`` Dice coefficients.

    Args:
        found: ``(records, *grid)`` classes as predicted.
        truth: ``(records, *grid)`` classes as drawn.
        classes: How many there are, the background included.
    """
    values = compute_dice(
        _one_hot(found, classes), _one_hot(truth, classes), include_background=False,
        ignore_empty=False,
    )  # fmt: skip
    return np.asarray(values.double().numpy())


def hausdorff_95(
    found: NDArray[Any],
    truth: NDArray[Any],
    *,
    classes: int,
    spacing: Sequence[float] | None = None,
) -> list[list[float | None]]:
    """Return the 95th percentile of distances between surfaces, per record and class.

    Args:
        found: ``(records, *grid)`` classes as predicted.
        truth: ``(records, *grid)`` classes as drawn.
        classes: How many there are, the background included.
        spacing: Size of a voxel along each axis; by default 1.

    Returns:
        ``records`` lists of ``classes - 1`` distances, None where either mask lacks the class.
    """
    with warnings.catch_warnings():
        # MONAI warns of each empty mask, which is what None says, and of its own old argument.
        warnings.filterwarnings("ignore", message="the (prediction|ground truth) of class")
        warnings.filterwarnings(
            "ignore", message=".*always_return_as_numpy", category=FutureWarning
        )
        values = compute_hausdorff_distance(
            _one_hot(found, classes), _one_hot(truth, classes), include_background=False,
            percentile=95.0, spacing=None if spacing is None else list(spacing),
        ).tolist()  # fmt: skip
    return [[one if math.isfinite(one) else None for one in row] for row in values]


def _one_hot(masks: NDArray[Any], classes: int) -> Tensor:
    labels = torch.from_numpy(np.ascontiguousarray(masks)).long()
    assert int(labels.min()) >= 0
    assert int(labels.max()) < classes
    return functional.one_hot(labels, classes).movedim(-1, 1)
