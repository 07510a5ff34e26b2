"""The wavelet stem in real arithmetic, for formats that know neither FFT nor complex numbers.

A discrete Fourier transform of one side is a product with a fixed cosine and sine matrix, so the
two-dimensional one is four products of real matrices. At 64 by 64 that is as fast as the FFT.

What holds, tested in tests/models/test_export.py: its maps equal those of ``WaveletStem``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.wavelets import SCALES, WaveletStem, every, stride_of


class RealWaveletStem(WaveletStem):
    """``WaveletStem`` whose transforms are products of real matrices."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape)
        _, height, width = input_shape
        sides = {side // stride for side in (height, width) for stride in (1, 2, 4)}
        for side in sides:
            cosine, sine = _matrices(side)
            self.register_buffer(f"cosine_{side}", cosine, persistent=False)
            self.register_buffer(f"sine_{side}", sine, persistent=False)

    def responses(self, images: Tensor) -> list[tuple[Tensor, Tensor, int]]:
        """Return each scale's six energies, its signed band, and the stride both are sampled at."""
        height, width = self.filters.shape[-2:]
        pixels = images[:, 0]
        real, imaginary = self._transform(pixels, torch.zeros_like(pixels), height, width, -1.0)
        found = []
        for scale in range(SCALES):
            stride, bank = stride_of(scale), self.filters[scale]
            rows, columns = height // stride, width // stride
            over, across = self._transform(
                every(real[:, None] * bank, stride),
                every(imaginary[:, None] * bank, stride),
                rows,
                columns,
                1.0,
            )
            over, across = over / (rows * columns), across / (rows * columns)
            energy = (over[:, :-1].square() + across[:, :-1].square()).sqrt()
            found.append((energy, over[:, -1:], stride))
        return found

    def _transform(
        self, real: Tensor, imaginary: Tensor, height: int, width: int, sign: float
    ) -> tuple[Tensor, Tensor]:
        """Return both parts of the sums over rows and columns with ``exp(sign * i * angle)``."""
        cosine, sine = self._pair(height, sign)
        real, imaginary = cosine @ real - sine @ imaginary, cosine @ imaginary + sine @ real
        cosine, sine = self._pair(width, sign)
        return real @ cosine - imaginary @ sine, imaginary @ cosine + real @ sine

    def _pair(self, side: int, sign: float) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"cosine_{side}"), sign * self.get_buffer(f"sine_{side}")


def _matrices(side: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(side, dtype=torch.float64)
    angle = torch.remainder(place[:, None] * place[None, :], side) * (2 * math.pi / side)
    return angle.cos().float(), angle.sin().float()
