"""A fixed bank of oriented wavelets that turns a grey image into 63 maps of texture energy.

Nothing here is trained, so nothing here can leak a patient: the filters follow from a formula
and every map is normalised within its own image. With a few hundred patients and noise in every
gradient, a linear layer on such features beats networks that must learn theirs [1].

    >>> stem = WaveletStem((1, 64, 64))
    >>> tuple(stem(torch.zeros(2, 1, 64, 64)).shape)
    (2, 63, 16, 16)

What holds, each line a test in tests/models/test_wavelets.py:

1. No parameter is trained, and an image's maps do not depend on the rest of its batch.
2. Multiplying an image by a positive constant, or adding one, changes nothing.
3. The maps of one image have l2 norm 4 together, so each gradient of a linear layer on them is
   bounded before any clipping.
4. Equal shapes give equal filters in every process: the bank is a formula, not a file.

References:
    [1] Tramer and Boneh, Differentially Private Learning Needs Better Features (or Much More
    Data), ICLR 2021, section 2. arXiv:2011.11660
    [2] Bruna and Mallat, Invariant Scattering Convolution Networks, 2013: modulus of oriented
    band-pass filters, averaged locally (section 2). arXiv:1203.1513
    [3] Field, Relations between the statistics of natural images and the response properties of
    cortical cells, JOSA A 1987: log-Gabor filters.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALES: Final = 9
"""Half-octave steps from 2 radians per pixel down to an eighth of that, 1/16 of the sampling."""
ORIENTATIONS: Final = 6
CHANNELS: Final = SCALES * (ORIENTATIONS + 1)
"""Six oriented energies and one signed isotropic band at each scale."""
CELL: Final = 4
"""Pixels per side of one cell of the maps."""
NORM: Final = 4.0
"""Of an image's maps. Beside them a bias, whose gradient is as large as that of a map of norm 1,
takes a seventeenth of the squared gradient and so of the clipping norm."""
WINDOW: Final = 1.5
"""Standard deviation in cells of the local average that ends the stem [2]. Wider forgives a lesion
for being elsewhere than in training, narrower keeps where things are."""
_HIGHEST_FREQUENCY: Final = 2.0  # radians per pixel; pi is the highest an image can hold
_LOG_BANDWIDTH: Final = math.log(0.65)  # two octaves wide at half height, as in [3]
_ANGULAR_WIDTH: Final = 0.8  # of the spacing of the orientations: neighbours overlap by half
_ISOTROPIC_WEIGHT: Final = 2.0  # one signed band weighs as much as its six energies together
_COARSE_BELOW: Final = 0.8  # radians per pixel; bands below it lose nothing at every 4th pixel
_TINY: Final = 1e-5  # keeps a constant image finite


class WaveletStem(nn.Module):
    """Map ``(batch, 1, height, width)`` to ``(batch, 63, height / 4, width / 4)``.

    Args:
        input_shape: ``(1, height, width)``, both divisible by 4 and at least 32.
    """

    filters: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = input_shape
        assert channels == 1
        assert min(height, width) >= 32
        assert height % CELL == 0
        assert width % CELL == 0
        # All three follow from the shape, so they are not part of the model's state.
        self.register_buffer("filters", _filters(height, width), persistent=False)
        self.register_buffer("rows", _window(height // CELL), persistent=False)
        self.register_buffer("columns", _window(width // CELL), persistent=False)
        self.output_shape = (CHANNELS, height // CELL, width // CELL)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the maps of each image; no gradient flows back through them."""
        bands = [_band(*response) for response in self.responses(images)]
        maps = torch.cat(bands, dim=1)  # (batch, 63, height / 4, width / 4)
        maps = self.rows @ maps @ self.columns.mT
        norms = maps.flatten(1).norm(dim=1).clamp(min=_TINY)
        return maps * (NORM / norms)[:, None, None, None]

    def responses(self, images: Tensor) -> list[tuple[Tensor, Tensor, int]]:
        """Return each scale's six energies, its signed band, and the stride both are sampled at."""
        spectrum = torch.fft.fft2(images[:, 0])  # (batch, height, width)
        found = []
        for scale in range(SCALES):
            stride = stride_of(scale)
            filtered = every(spectrum[:, None] * self.filters[scale], stride)
            response = torch.fft.ifft2(filtered)  # (batch, 7, height / stride, width / stride)
            found.append((response[:, :-1].abs(), response[:, -1:].real, stride))
        return found


def stride_of(scale: int) -> int:
    """Return at which pixels the maps of a scale are sampled."""
    return CELL if _frequency(scale) < _COARSE_BELOW else CELL // 2


def _frequency(scale: int) -> float:
    return _HIGHEST_FREQUENCY * 2.0 ** (-scale / 2)


def _band(energy: Tensor, signed: Tensor, stride: int) -> Tensor:
    """Return one scale's 7 maps, each family with mean 0 and variance 1 within its image."""
    pool = CELL // stride
    if pool > 1:
        energy, signed = functional.avg_pool2d(energy, pool), functional.avg_pool2d(signed, pool)
    return torch.cat([_normalise(energy), _ISOTROPIC_WEIGHT * _normalise(signed)], dim=1)


def _window(cells: int) -> Tensor:
    """Return the ``(cells, cells)`` matrix that averages along one side, each row summing to 1."""
    place = torch.arange(cells, dtype=torch.float64)
    weights = torch.exp(-((place[:, None] - place[None, :]) / WINDOW).square() / 2)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def every(spectrum: Tensor, stride: int) -> Tensor:
    """Fold a spectrum so that its inverse is the image at every ``stride``-th pixel."""
    *leading, height, width = spectrum.shape
    folded = spectrum.reshape(*leading, stride, height // stride, stride, width // stride)
    return folded.mean(dim=(-4, -2))


def _normalise(maps: Tensor) -> Tensor:
    centred = maps - maps.mean(dim=(1, 2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + _TINY)


def _filters(height: int, width: int) -> Tensor:
    """Return ``(9, 7, height, width)`` log-Gabor transfer functions, real and zero at zero."""
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)[:, None] * (2 * math.pi)
    horizontal = torch.fft.fftfreq(width, dtype=torch.float64)[None, :] * (2 * math.pi)
    radius = (vertical.square() + horizontal.square()).sqrt()
    angle = torch.atan2(vertical, horizontal.expand(height, width))
    radius[0, 0] = 1.0  # any positive number: the filters are set to zero there
    scales = []
    for scale in range(SCALES):
        distance = torch.log(radius / _frequency(scale)) / _LOG_BANDWIDTH
        radial = torch.exp(-distance.square() / 2)
        radial[0, 0] = 0.0
        # One half of the plane only, at twice the gain: the modulus is then the local energy.
        oriented = [2.0 * radial * _angular(angle, k) for k in range(ORIENTATIONS)]
        scales.append(torch.stack([*oriented, radial]))
    return torch.stack(scales).float()


def _angular(angle: Tensor, orientation: int) -> Tensor:
    spacing = math.pi / ORIENTATIONS
    offset = torch.remainder(angle - orientation * spacing + math.pi, 2 * math.pi) - math.pi
    return torch.exp(-(offset / (_ANGULAR_WIDTH * spacing)).square() / 2)
