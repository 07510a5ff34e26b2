"""Every recipe can be built and keeps its promise of epsilon."""

import pytest

from models.networks import NETWORKS
from models.recipes import UnknownModality, recipe_for
from privacy.accounting import epsilon, noise_multiplier_for
from privacy.events import DpSgdEvent

MODALITIES = ["image", "table"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_recipe_names_a_network_that_is_built_here(modality):
    assert recipe_for(modality).network in NETWORKS


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_noise_of_a_recipe_keeps_all_its_steps_within_epsilon(modality):
    recipe = recipe_for(modality)
    steps = recipe.rounds * recipe.steps
    noise = noise_multiplier_for(recipe.epsilon, recipe.delta, recipe.sampling_rate, steps)
    spent = epsilon([DpSgdEvent(recipe.sampling_rate, noise, steps)], recipe.delta)
    assert 0.98 * recipe.epsilon < spent <= recipe.epsilon


def test_an_unknown_kind_of_data_is_refused():
    with pytest.raises(UnknownModality):
        recipe_for("video")
