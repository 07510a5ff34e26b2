"""Settings that were tuned once and are good defaults: what to train, and how, per kind of data.

A recipe is where a study starts, not a law; whoever has public data of the same kind should tune
on that. Tuning on private data costs privacy too, so these come from synthetic phantoms, from one
public set of breast ultrasound and from two public tables.

    >>> recipe_for("image").network
    'sonogram'
    >>> recipe_for("table").reference_patients
    64

What holds, each line a test in tests/models/test_recipes.py:

1. Every recipe names a network that is built here, and its noise keeps all its steps at one site
   within its epsilon.
2. An unknown kind of data is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigurationError

REFERENCE_PATIENTS: Final = 64
"""R of ``privacy.dpsgd``: a typical site's patients; any public number gives the same model."""


class UnknownModality(ConfigurationError):
    """There is no recipe for this kind of data."""

    code = "modality-unknown"

    def __init__(self, modality: str) -> None:
        self.modality = modality
        super().__init__(
            f"there is no recipe for {modality!r} data; choose one of {', '.join(_RECIPES)}, or "
            "write out a Recipe of your own"
        )


@dataclass(frozen=True)
class Recipe:
    """How a study trains.

    Attributes:
        network: As ``models.networks.build`` names it.
        rounds: Rounds of the study.
        steps: Noisy steps per site and round.
        sampling_rate: Probability with which each patient is drawn into a step.
        clipping_norm: Bound on the l2 norm of one patient's gradient.
        lr: Of a site's plain SGD.
        server_lr: Factor on the mean update; after the noise, so it costs no privacy.
        server_momentum: Share of the last step the server takes again; likewise free.
        epsilon: Allowed at each site for all rounds; the unit of privacy is the patient.
        delta: Belongs to ``epsilon``.
        augment: Whether drawn images are mirrored at random.
        views: Records averaged into one patient's gradient.
        reference_patients: Public scale of the updates, equal at all sites.
        pooled_epochs: Passes of the baseline that pools all data without privacy.
        pooled_lr: Its learning rate.
    """

    network: str
    rounds: int
    steps: int
    sampling_rate: float
    clipping_norm: float
    lr: float
    server_lr: float = 1.0
    server_momentum: float = 0.0
    epsilon: float = 8.0
    delta: float = 1e-5
    augment: bool = False
    views: int = 1
    reference_patients: int = REFERENCE_PATIENTS
    pooled_epochs: int = 30
    pooled_lr: float = 2e-3


_IMAGE: Final = Recipe(
    network="sonogram",
    rounds=10,
    # Under a fixed epsilon more steps mean more noise in each, and the two nearly cancel; two a
    # round keep the sites' models close together between meetings.
    steps=2,
    # Large draws waste least: noise per patient falls up to a rate of one, and time rises.
    sampling_rate=0.5,
    # A gradient is the residual, at first 1/2, times a map of norm 4: about 2. Cutting it in half
    # evens out what patients add, and the learning rate makes up for it.
    clipping_norm=1.0,
    lr=2.0,
    augment=True,
    # A linear layer on a few hundred records needs no more before it learns them by heart.
    pooled_epochs=10,
)
_TABLE: Final = Recipe(
    network="mlp",
    rounds=10,
    steps=2,
    sampling_rate=0.5,
    clipping_norm=1.0,
    lr=1.0,
    # A thousand parameters need so little that strict privacy costs the federation next to
    # nothing; a site alone feels it.
    epsilon=2.0,
)
_RECIPES: Final = {"image": _IMAGE, "table": _TABLE}


def recipe_for(modality: str) -> Recipe:
    """Return the defaults for ``"image"`` or ``"table"`` data.

    Raises:
        UnknownModality: There is no such kind.
    """
    if modality not in _RECIPES:
        raise UnknownModality(modality)
    return _RECIPES[modality]
