"""The privacy terms of a run: how much noise its epsilon takes, and whose noise it is.

*per-site*  every site adds what would be enough if its update were seen alone.
*summed*    sites share the noise of the sum, one step a round (docs/summed-noise.md). As many
            colluders are assumed as the secure sum itself withstands.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from models.recipes import Recipe
from portal.home import Settings
from privacy.accounting import noise_multiplier_for
from privacy.sharing import colluders
from privacy.summed_noise import grid_for, sensitivity, share_deviation_for
from protocol.terms import PrivacyTerms

NOISES: Final = ("per-site", "summed")
ACCOUNTANT: Final = "prv"
ENCRYPTION: Final = {"members": "packed-bfv-8", "threshold": "threshold-bfv-8"}
"""The parameter set for each way of opening; under differential privacy 8 bits are enough."""
ENCRYPTION_SUMMED: Final = {"members": "packed-bfv-20", "threshold": "threshold-bfv-20"}
"""The same where every patient is rounded by herself: a finer grid costs less noise than bytes."""
SUMMED_LR: Final = {"image": 4.0, "table": 2.0}
"""One step a round in place of two, over all patients, so each may be twice as long."""


def with_noise(recipe: Recipe, noise: str, modality: str) -> Recipe:
    """Return the recipe, changed where noise is shared: every patient once a round."""
    if noise != "summed":
        return recipe
    return replace(recipe, steps=1, sampling_rate=1.0, lr=SUMMED_LR[modality])


def encryption_of(settings: Settings) -> str:
    """Return the parameter set of a run."""
    sets = ENCRYPTION_SUMMED if settings.mechanism == "summed" else ENCRYPTION
    return sets[settings.opening]


def honest_of(sites: int, sites_min: int) -> int:
    """Return how many shares count in a sum of the fewest sites, over all that may be called.

    Examples:
        >>> honest_of(6, 5)
        3
    """
    return sites_min - min(colluders(called) for called in range(sites_min, sites + 1))


def privacy_terms(
    settings: Settings, recipe: Recipe, *, sites: int, sites_min: int, dimension: int
) -> PrivacyTerms:
    """Return the terms that keep a run within its epsilon.

    Args:
        settings: Of the run.
        recipe: As ``with_noise`` gave it.
        sites: Registered sites.
        sites_min: Fewest of them in a sum.
        dimension: The model's parameters.
    """
    terms = PrivacyTerms(
        epsilon=settings.epsilon,
        delta=settings.delta,
        sampling_rate=recipe.sampling_rate,
        noise_multiplier=1.0,
        clipping_norm=recipe.clipping_norm,
        steps=recipe.steps,
        accountant=ACCOUNTANT,
    )
    if settings.mechanism != "summed":
        steps = recipe.steps * settings.rounds
        noise = noise_multiplier_for(
            settings.epsilon, settings.delta, recipe.sampling_rate, steps, ACCOUNTANT
        )
        return terms.model_copy(update={"noise_multiplier": noise})
    grid, honest = grid_for(dimension), honest_of(sites, sites_min)
    share = share_deviation_for(
        settings.epsilon,
        settings.delta,
        recipe.sampling_rate,
        settings.rounds,
        honest,
        sensitivity(grid, dimension),
        dimension,
    )
    shared = {
        "mechanism": "summed",
        "noise_multiplier": share * math.sqrt(honest) / grid,
        "honest": honest,
        "grid": grid,
    }
    return terms.model_copy(update=shared)
