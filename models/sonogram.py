"""A fixed front for ultrasound pictures that learned from drawings and never saw a patient.

A small convolutional trunk was trained to find, outline and describe lesions in synthetic pictures
(``experiments/pretrain_sonogram.py`` draws them, trains the trunk and writes the weights). Beside
its features stand the wavelets of ``models.wavelets``. Both are then centred and scaled along
directions that were learned from the drawings too, so that a head trained in few noisy steps does
not spend them on what all pictures share. Under differential privacy such a front is worth more
than any setting of the training [1]::

    image, mirrored image ─▶ trunk    ─▶ mean ─▶ whitened, 288 numbers ────────── norm 1   ─┐
                         └─▶ wavelets ─▶ mean over cells ─▶ whitened, 256 ─────── norm 1   ─┼─▶ x s
    image ──────────────────▶ wavelets, 15 of 16 rows of the map, 15,120 ──────── norm 0.4 ─┘

A linear head's prediction is noised by the noise multiplier times the norm of the features, however
many they are. That is why the whole map may ride along at a small weight: it costs next to nothing
under noise, fills the one ciphertext that the head needs anyway, and leaves a large cohort free to
learn what the drawings do not show.

    >>> tuple(SonogramStem((1, 64, 64))(torch.zeros(2, 1, 64, 64)).shape)
    (2, 15664)

What holds, each line a test in tests/models/test_sonogram.py:

1. No parameter is trained, and an image's features do not depend on the rest of its batch.
2. The features of one image have l2 norm 4 together, so each gradient of a linear head is bounded
   before any clipping.
3. The weights are the file whose SHA-256 stands here, or nothing is built.

References:
    [1] Tramer and Boneh, Differentially Private Learning Needs Better Features (or Much More
    Data), ICLR 2021. arXiv:2011.11660
    [2] Tobin et al., Domain Randomization for Transferring Deep Neural Networks from Simulation to
    the Real World, IROS 2017 (train on many crude drawings instead of one good one).
    arXiv:1703.06907
    [3] Kessy, Lewin, Strimmer, Optimal Whitening and Decorrelation, The American Statistician
    2018, section 2 (here with the square root of the usual exponent, and a floor).
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.wavelets import CHANNELS, WaveletStem
from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIDE: Final = 64
"""Rows and columns the trunk was trained on; other sizes are scaled to it."""
WIDTHS: Final = (24, 48, 96)
TRUNK: Final = 3 * WIDTHS[-1]
"""Features of the trunk: mean inside the lesion it sees, mean everywhere, and largest."""
WAVELETS: Final = 256
"""Directions kept of the wavelets averaged over 4 by 4 cells."""
POOL: Final = 4
ROWS: Final = 15
"""Rows of the 16 by 16 wavelet map that the head sees; the last one is margin in most pictures."""
MAP_NORM: Final = 0.4
NORM: Final = 4.0
"""Of an image's features, as in ``models.wavelets``; the bias stands beside them as a 1."""
FEATURES: Final = TRUNK + WAVELETS + CHANNELS * ROWS * SIDE // POOL
WEIGHTS: Final = Path(__file__).parent / "weights" / "sonogram.npz"
WEIGHTS_SHA256: Final = "8223388a3f01e66aa9043dd41eecbf8f0ceb013ef7c50f7daab02631b5b749c6"
_GROUPS: Final = 8
_TINY: Final = 1e-5  # keeps a constant image finite


class WeightsDamaged(ConfigurationError):
    """The file of pretrained weights is absent, or not the one this version was made with."""

    code = "pretrained-weights-damaged"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"the pretrained weights {path.name} are missing or changed; install the package again"
        )


class Trunk(nn.Module):
    """Convolutions from ``(batch, 1, 64, 64)`` to features and a coarse outline of the lesion."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.fine = nn.Sequential(
            _block(1, first, 2, kernel=5), _block(first, second, 2), _block(second, second, 1)
        )
        self.middle = nn.Sequential(_block(second, third, 2), _block(third, third, 1))
        self.coarse = _block(third, third, 2)
        self.outline = nn.Conv2d(second + third, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(batch, 288)`` features and ``(batch, 1, 16, 16)`` log-odds of lesion."""
        fine = self.fine(images)  # (batch, 48, 16, 16)
        middle = self.middle(fine)  # (batch, 96, 8, 8)
        coarse = self.coarse(middle)  # (batch, 96, 4, 4)
        wide = functional.interpolate(middle, scale_factor=2.0, mode="bilinear")
        outline = self.outline(torch.cat([fine, wide], dim=1))
        inside = functional.avg_pool2d(torch.sigmoid(outline), 2)  # (batch, 1, 8, 8)
        lesion = (middle * inside).sum(dim=(2, 3)) / (inside.sum(dim=(2, 3)) + 0.5)
        features = torch.cat([lesion, middle.mean(dim=(2, 3)), coarse.amax(dim=(2, 3))], dim=1)
        return features, outline


class SonogramStem(nn.Module):
    """Map ``(batch, 1, height, width)`` to ``(batch, 15664)`` features of norm 4.

    Args:
        input_shape: ``(1, height, width)``; other sides than 64 are scaled to it.

    Raises:
        WeightsDamaged: The weights are not there, or not the ones of this version.
    """

    trunk_mean: Tensor
    trunk_basis: Tensor
    wavelet_mean: Tensor
    wavelet_basis: Tensor

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        assert input_shape[0] == 1
        self.wavelets = WaveletStem((1, SIDE, SIDE))
        self.trunk = Trunk()
        for parameter in self.trunk.parameters():
            parameter.requires_grad_(False)
        weights = load_weights()
        for name in ("trunk_mean", "trunk_basis", "wavelet_mean", "wavelet_basis"):
            self.register_buffer(name, weights.pop(name), persistent=False)
        if not self.trunk.outline.weight.is_meta:  # a network that is only counted has no numbers
            self.trunk.load_state_dict(weights)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features of each image; no gradient flows back through them."""
        if images.shape[-2:] != (SIDE, SIDE):
            images = functional.interpolate(
                images,
                (SIDE, SIDE),
                mode="bilinear",
                align_corners=False,
                antialias=max(images.shape[-2:]) > SIDE,
            )
        trunk, wavelets, whole = raw_features(self.trunk, self.wavelets, images)
        parts = [
            _unit((trunk - self.trunk_mean) @ self.trunk_basis),
            _unit((wavelets - self.wavelet_mean) @ self.wavelet_basis),
            MAP_NORM * _unit(whole),
        ]
        return NORM * _unit(torch.cat(parts, dim=1))


class SonogramNet(nn.Module):
    """The fixed front, then one trained linear layer: 15,665 parameters, one ciphertext."""

    def __init__(self, input_shape: Sequence[int], outputs: int = 1) -> None:
        super().__init__()
        self.stem = SonogramStem(tuple(input_shape))
        self.head = nn.Linear(FEATURES, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(batch, outputs)`` log-odds."""
        return self.head(self.stem(images))


def raw_features(
    trunk: Trunk, wavelets: WaveletStem, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return trunk features, averaged wavelets and the wavelet map, before any whitening.

    Returns:
        ``(batch, 288)`` and ``(batch, 1008)``, means of the image and its mirror image, and
        ``(batch, 15120)`` of the image as it is.
    """
    mirrored = images.flip(-1)
    features = (trunk(images)[0] + trunk(mirrored)[0]) / 2
    maps = wavelets(images)  # (batch, 63, 16, 16)
    both = (maps + wavelets(mirrored)) / 2
    pooled = functional.avg_pool2d(both, POOL).flatten(1)
    return features, pooled, maps[:, :, :ROWS].flatten(1)


def load_weights() -> dict[str, Tensor]:
    """Return the tensors of the weights' file, by name.

    Raises:
        WeightsDamaged: It is not there, or not the one of this version.
    """
    try:
        content = WEIGHTS.read_bytes()
    except OSError as error:
        raise WeightsDamaged(WEIGHTS) from error
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise WeightsDamaged(WEIGHTS)
    stored: Any = np.load(BytesIO(content), allow_pickle=False)
    return {name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files}


def whitening(
    features: NDArray[np.float64], *, keep: int, floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and basis that centre features, decorrelate them and even out their spread.

    Each feature is divided by its deviation, each principal direction by the fourth root of its
    variance: half of whitening [3], since the directions with little spread hold mostly noise.

    Args:
        features: ``(records, features)`` of public data.
        keep: Directions kept, the widest first.
        floor: Added to the variances of directions.

    Returns:
        ``(features,)`` and ``(features, keep)``; apply as ``(x - mean) @ basis``.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A feature that the drawings hardly move must not drown the others where pictures do move it.
    deviation = np.maximum(deviation, 0.1 * np.median(deviation)) + _TINY
    _, spreads, directions = np.linalg.svd((features - mean) / deviation, full_matrices=False)
    variances = spreads[:keep] ** 2 / len(features)
    return mean, directions[:keep].T / deviation[:, None] / (variances + floor) ** 0.25


def _block(before: int, after: int, stride: int, *, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.GroupNorm(_GROUPS, after),
        nn.ReLU(),
    )


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=1, keepdim=True).clamp(min=_TINY)
