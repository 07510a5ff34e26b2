"""The first forms of a site's update: as training made it, and as it may be sent.

Every stage on the way out takes only what the stage before returns, so that mypy refuses a
skipped stage::

    Update ─▶ NoisedUpdate ─▶ QuantisedUpdate ─▶ PackedUpdate ─▶ MaskedUpdate ─▶ EncryptedUpdate
              dpsgd           quantisation       packing         masks           bfv
    patients' gradients ────▶ IntegerUpdate   ─▶
                              summed_noise

A ``NoisedUpdate`` is made in three places: by differentially private training (``privacy.dpsgd``),
by noise on a whole site's update (``privacy.site_level``), and by ``declare_public`` for a study
whose patients' data is public. An ``IntegerUpdate`` is made in one, ``privacy.summed_noise``.
Whoever reviews a change looks for these four.

    >>> update = Update(np.zeros(3, dtype=np.float32))
    >>> declare_public(update, "the table is published with scikit-learn").public_because
    'the table is published with scikit-learn'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Update:
    """New weights minus old weights of one site in one round. It stays in the hospital.

    Attributes:
        vector: ``(parameters,)`` in the units of the weights.
    """

    vector: NDArray[np.float32]

    def __post_init__(self) -> None:
        assert self.vector.ndim == 1
        assert self.vector.dtype == np.float32


@dataclass(frozen=True)
class NoisedUpdate:
    """An update of which each patient's share was clipped and covered by noise.

    Attributes:
        vector: ``(parameters,)`` in the units of the weights.
        public_because: Empty, or why noise was not needed (see ``declare_public``).
    """

    vector: NDArray[np.float32]
    public_because: str = ""

    def __post_init__(self) -> None:
        assert self.vector.ndim == 1
        assert self.vector.dtype == np.float32


@dataclass(frozen=True)
class IntegerUpdate:
    """A site's patients' gradients as integers, with this site's share of noise added.

    One share may be too little noise for this vector by itself: it is made to be added, under
    encryption and masks, to those of the other sites, and only the sum is private as promised.

    Attributes:
        values: ``(parameters,)`` in units of a public grid.
    """

    values: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.values.ndim == 1
        assert self.values.dtype == np.int64


def declare_public(update: Update, reason: str) -> NoisedUpdate:
    """Let an update pass without noise, for a study that demands no differential privacy.

    Args:
        update: Made from records whose patients need no protection from the opened sum.
        reason: Why that is so; it travels with the update.
    """
    assert reason.strip(), "an update is not public without a reason"
    return NoisedUpdate(update.vector, public_because=reason)
