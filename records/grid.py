"""Bring a volume to what a network sees: standardised alone, on one grid.

Zero mean and unit variance over its own voxels make groups of scanners with other scales alike, and
no number taken from other patients enters [1].

    >>> fit_grid(np.ones((2, 2, 5)), (4, 2, 3)).sum()
    np.float64(12.0)

What holds, each line a property test in tests/records/test_volumes.py:

1. Multiplying a volume by a positive constant, or adding one, changes nothing.
2. The centre stays the centre, and whatever fits is kept.

References:
    [1] Isensee et al., nnU-Net, Nature Methods 2021: per-image z-scores for magnetic resonance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTRAST_MIN: Final = 1e-6
"""Below this standard deviation a volume is one flat shade, and stays flat."""


def standardised(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the volume with zero mean and unit variance, or all zero if it is flat."""
    values = voxels.astype(np.float64)
    spread = values.std()
    if not spread > CONTRAST_MIN * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(voxels)
    return np.asarray((values - values.mean()) / spread, dtype=np.float32)


def fit_grid(values: NDArray[Any], grid: tuple[int, ...]) -> NDArray[Any]:
    """Cut or pad an array with zeros about its centre to the shape ``grid``."""
    fitted = np.zeros(grid, dtype=values.dtype)
    source, target = [], []
    for have, want in zip(values.shape, grid, strict=True):
        taken = min(have, want)
        source.append(slice((have - taken) // 2, (have - taken) // 2 + taken))
        target.append(slice((want - taken) // 2, (want - taken) // 2 + taken))
    fitted[tuple(target)] = values[tuple(source)]
    return fitted
