"""Volumes as fixed filters see them, and the small convex model that is trained on top.

Three-dimensional segmentation has few patients and many weights. Here nothing is learned but how
much each of 17 filter responses, and each place, speaks for each class: 648 numbers, to which noise
does little harm. The filters are derivatives and soft histograms of Gaussian scale space [1], made
from no data at all; places are cosines of low frequency over the grid (as in the discrete cosine
transform), so that a response may mean other things in front than behind::

    log-odds of class c at voxel v  =  sum_p  place[c, p] P[p, v]
                                     + sum_kq look[c, k, q] Q[q, v] response[k, v]

What holds, each line a test in tests/experiments/test_volume_features.py:

1. Thinned responses are the responses at every third voxel, and the model says there what it says
   of the whole volume.
2. Opacus' per-sample gradients are those of a loop.

References:
    [1] Koenderink and van Doorn, Representation of Local Geometry in the Visual System, 1987.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE: Final = 3
"""Of every third voxel along each axis a patient's gradient is made: 27 times as quick, and
neighbours say nearly the same."""
PLACES: Final = (4, 5, 4)
LOOKS: Final = (2, 2, 2)
LOOK_SCALE: Final = 2.0
"""What a response weighs against a place in the gradient that is clipped."""
SCALES: Final = (0.7, 1.5, 3.0)
SHADES: Final = ((-1.5, -0.75, 0.0, 0.75, 1.5), (-1.0, -0.3, 0.3, 1.0), (-0.6, 0.0, 0.6))
"""Centres of the histogram's soft bins at each scale, in standard deviations of the volume."""
WIDTHS: Final = (0.5, 0.45, 0.4)
RESPONSES: Final = sum(map(len, SHADES)) + 5


def responses(volumes: Tensor) -> Tensor:
    """Return ``(batch, RESPONSES, *grid)`` of standardised ``(batch, 1, *grid)`` volumes."""
    blurred = [_blur(volumes, scale) for scale in SCALES]
    found = [
        torch.exp(-((level - shade) ** 2) / (2 * width**2))
        for level, shades, width in zip(blurred, SHADES, WIDTHS, strict=True)
        for shade in shades
    ]
    level = _blur(volumes, 1.0)
    found += [torch.roll(level, -1, axis) - torch.roll(level, 1, axis) for axis in (2, 3, 4)]
    found += [blurred[0] - blurred[1], blurred[1] - blurred[2]]
    return torch.cat(found, dim=1)


def thinned(values: Tensor) -> Tensor:
    """Return every third voxel of ``(batch, ..., depth, height, width)``."""
    first = STRIDE // 2
    return values[..., first::STRIDE, first::STRIDE, first::STRIDE]


class PlacedHead(nn.Module):
    """The model above, for whole volumes of ``grid`` and for thinned ones; starts at zero."""

    def __init__(self, grid: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(classes, int(np.prod(PLACES))))
        self.look = nn.Parameter(torch.zeros(classes, RESPONSES, int(np.prod(LOOKS))))
        places, looks = _cosines(grid, PLACES), LOOK_SCALE * _cosines(grid, LOOKS)
        # Not buffers, which Opacus does not take beside trained parameters; never saved either.
        self.waves = {
            waves[0][0].numel(): tuple(wave.flatten(1) for wave in waves)
            for waves in ((places, looks), (thinned(places), thinned(looks)))
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes, *grid)`` from ``(batch, RESPONSES, *grid)``."""
        flat = x.flatten(2)  # (batch, responses, voxels)
        places, looks = self.waves[flat.shape[2]]
        weights = self.look @ looks  # (classes, responses, voxels)
        each = [(own[None] * flat).sum(dim=1) for own in weights]
        logits = (self.place @ places)[None] + torch.stack(each, dim=1)
        return logits.reshape(len(x), -1, *x.shape[2:])


def _blur(volumes: Tensor, scale: float) -> Tensor:
    reach = int(3 * scale + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * scale**2))
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(kernel), reach
        volumes = functional.conv3d(volumes, kernel.view(shape), padding=padding)
    return volumes


def _cosines(grid: tuple[int, int, int], orders: tuple[int, int, int]) -> Tensor:
    """Return ``(prod(orders), *grid)`` products of cosines, each of mean square one."""
    axes = []
    for side, order in zip(grid, orders, strict=True):
        middle = (torch.arange(side) + 0.5) / side
        waves = [torch.cos(np.pi * k * middle) * (2**0.5 if k else 1.0) for k in range(order)]
        axes.append(torch.stack(waves))
    return torch.einsum("ax,by,cz->abcxyz", *axes).reshape(-1, *grid)
