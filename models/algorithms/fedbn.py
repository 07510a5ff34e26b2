"""FedBN: the scales and shifts of normalisation layers stay at their site.

Sites with other scanners or laboratories see the same disease at another scale. Their
normalisation layers learn that; averaging them would blur it, so they are left out of the sum [1].
Here the layers have no running statistics (``models.networks``), and it is their affine parameters
that stay home.

They are trained, clipped and noised together with everything else: the shared part of an update
depends on them, so a patient's whole gradient has to be bounded. What leaves is the same update
with zeros in their places, a function of the noised one. The global model keeps the first values
in these places; a site puts its own there.

References:
    [1] Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization,
        ICLR 2021, Algorithm 1. arXiv:2102.07623
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.algorithms.interface import (
    Algorithm,
    AlgorithmUnusable,
    Beginning,
    Learn,
    StateMismatch,
    Vector,
    Wide,
)

NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001  # the common base of 1-D to 3-D
    nn.modules.batchnorm._BatchNorm,  # noqa: SLF001  # likewise
)


class NothingStaysHome(AlgorithmUnusable):
    """The network has no normalisation layer, so FedBN would be FedAvg under another name."""

    code = "network-without-norms"

    def __init__(self) -> None:
        super().__init__("fedbn", "its network has no normalisation layer with parameters")


@dataclass(frozen=True)
class FedBn(Algorithm):
    """FedAvg of all but the parameters that ``home`` marks.

    Attributes:
        home: ``(parameters,)`` true for what stays at its site. The server needs none.
    """

    home: NDArray[np.bool_] | None = None

    def begin(self, sent: Vector, kept: Wide | None, patients: int) -> Beginning:
        """Start at the model sent, with the site's own normalisation."""
        return replace(super().begin(sent, kept, patients), start=self.personal(sent, kept))

    def shared(self, update: Vector) -> Vector:
        """Return the update with zeros where the site keeps it."""
        return np.where(self._home, np.float32(0), update)

    def end(self, beginning: Beginning, update: Vector, entered: Wide, learn: Learn) -> Wide | None:
        """Return the site's own normalisation after the round."""
        del entered, learn
        unscaled = self.constants.reference_patients / beginning.patients
        after = beginning.start.astype(np.float64) + unscaled * update.astype(np.float64)
        return after[self._home]

    def personal(self, sent: Vector, kept: Wide | None) -> Vector:
        """Return the global model with the site's own normalisation in its place."""
        if kept is None:
            return sent
        if kept.shape != (int(self._home.sum()),):
            found = "the normalisation this site kept"
            raise StateMismatch(found, int(self._home.sum()), kept.size)
        own = sent.copy()
        own[self._home] = kept.astype(np.float32)
        return own

    @property
    def _home(self) -> NDArray[np.bool_]:
        assert self.home is not None, "the site's half of FedBN is made for its network"
        return self.home


def home_mask(module: nn.Module) -> NDArray[np.bool_]:
    """Return which entries of a network's vector belong to normalisation layers.

    Returns:
        ``(parameters,)`` in the order of ``models.networks.to_vector``.

    Raises:
        NothingStaysHome: There are none.
    """
    at_home = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, NORMS)
        for parameter in layer.parameters()
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    mask = np.concatenate([np.full(one.numel(), id(one) in at_home) for one in trained])
    if not mask.any():
        raise NothingStaysHome
    return mask
