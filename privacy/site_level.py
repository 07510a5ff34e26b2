"""Hide that a whole hospital took part: clip its update, add noise, and call the unit a site.

Between two neighbours one site with all its patients is there or not. Its update is clipped to
``clipping_norm`` as one vector, so that is what adding or removing the site moves a sum by, and
the site itself adds noise for it [1]. Training before that needs no noise. What it promises to a
patient is less than it seems: that the others learn little of what her hospital sent, not that
her hospital's update says little about her among its own patients.

    >>> raw = Update(np.array([3.0, 4.0], dtype=np.float32))
    >>> clip(raw, clipping_norm=1.0).vector
    array([0.6, 0.8], dtype=float32)

What holds, each line a test in tests/privacy/test_site_level.py:

1. A clipped update has a norm of at most ``clipping_norm``, but for float rounding below 1e-6.
2. The noise has deviation ``noise_multiplier * clipping_norm`` in every coordinate.
3. An update that is not finite counts as zero: to refuse it would tell, without noise, what the
   records did to a model that the server chose.

References:
    [1] McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018,
    Algorithm 1 (FlatClip), where a trusted server adds the noise. arXiv:1710.06963
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privacy.events import ImpossibleEvent, SiteLevelEvent
from privacy.randomness import RandomStream
from privacy.update import NoisedUpdate, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClippedUpdate:
    """A site's update with a bounded norm; it still needs noise.

    Attributes:
        vector: ``(parameters,)`` in the units of the weights.
        clipping_norm: What its norm is at most.
    """

    vector: NDArray[np.float32]
    clipping_norm: float


def clip(update: Update, clipping_norm: float) -> ClippedUpdate:
    """Scale ``update`` down until its l2 norm is at most ``clipping_norm``.

    Args:
        update: ``(parameters,)``; zero where it is not finite.
        clipping_norm: Positive, in the units of the weights.

    Raises:
        ImpossibleEvent: The norm cannot be meant.
    """
    if not (clipping_norm > 0.0 and math.isfinite(clipping_norm)):
        raise ImpossibleEvent("clipping_norm", clipping_norm, "positive and finite")
    if not np.isfinite(update.vector).all():
        return ClippedUpdate(np.zeros_like(update.vector), clipping_norm)
    wide = update.vector.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    scaled = wide * (clipping_norm / max(clipping_norm, norm))
    return ClippedUpdate(scaled.astype(np.float32), clipping_norm)


def add_noise(
    update: ClippedUpdate, noise_multiplier: float, stream: RandomStream
) -> tuple[NoisedUpdate, SiteLevelEvent]:
    """Return the update with Gaussian noise, and what to account for.

    Args:
        update: Clipped.
        noise_multiplier: Noise standard deviation / clipping norm.
        stream: Privacy holds if it is ``secret``.

    Raises:
        ImpossibleEvent: The noise is out of range.
    """
    event = SiteLevelEvent(noise_multiplier, 1)
    noise = stream.normal(update.vector.size, np.float32)
    deviation = np.float32(noise_multiplier * update.clipping_norm)
    return NoisedUpdate(update.vector + deviation * noise), event
