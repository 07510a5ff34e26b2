"""From an opened sum to the next model, and the public step sizes of the next round.

A site's update is scaled by its number of patients over the study's reference number before it is
quantised, so the sum over sites divided by the sum of weights is FedAvg's weighted mean [1]; the
server then takes a step along it with momentum [2]. Both happen to an opened, already noised sum:
they are post-processing and cost no privacy.

Step sizes are public and common to all sites, otherwise sums of integers would not be sums of
updates. A coordinate's spread at a site is its Gaussian noise, known from the study's terms, and
its signal, guessed from what the last opened sum shows beyond noise.

References:
    [1] McMahan et al., Communication-Efficient Learning, AISTATS 2017, Algorithm 1.
    [2] Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, 2019, section 3
        (FedAvgM). arXiv:1909.06335
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_server.store import ModelState
from privacy.parameters import ParameterSet
from protocol.messages import StudyTerms

SPREADS = 4.5
"""Standard deviations of a coordinate that the quantised range holds; beyond it, it saturates."""
SPREADS_FIRST = 8.0
"""The same for the first round, when nothing is known of the signal yet."""
SIGNAL_MARGIN = 4.0
"""How much larger than its mean over sites one site's squared signal is taken to be."""


def noise_spread(terms: StudyTerms) -> float:
    """Return the standard deviation of one coordinate's noise in a site's scaled update.

    A step moves the model by ``learning_rate`` times a clipped, noised sum over
    ``sampling_rate * patients``; scaling by ``patients / reference`` cancels the site's own size.
    """
    privacy, training = terms.privacy, terms.training
    per_step = privacy.noise_multiplier * privacy.clipping_norm * training.learning_rate
    return per_step * privacy.steps**0.5 / (privacy.sampling_rate * training.reference_patients)


def first_steps(terms: StudyTerms, parameters: ParameterSet) -> NDArray[np.float64]:
    """Return the step size of each tensor for the first round.

    Returns:
        ``(tensors,)``, in units of the weights.
    """
    spread = np.full(len(terms.training.tensor_sizes), noise_spread(terms))
    return SPREADS_FIRST * spread / parameters.value_max


def next_steps(
    terms: StudyTerms, parameters: ParameterSet, mean: NDArray[np.float64], sites: int
) -> NDArray[np.float64]:
    """Return each tensor's step size after a round.

    Args:
        terms: The study's.
        parameters: The encryption's parameter set.
        mean: ``(parameters,)`` mean over sites of the scaled updates just opened.
        sites: How many sites it is the mean of.

    Returns:
        ``(tensors,)``, in units of the weights.
    """
    noise = noise_spread(terms) ** 2
    steps = []
    for part in split(mean, terms.training.tensor_sizes):
        signal = max(0.0, float(np.mean(part**2)) - noise / sites)
        steps.append(SPREADS * (noise + SIGNAL_MARGIN * signal) ** 0.5 / parameters.value_max)
    return np.array(steps)


def per_coordinate(
    steps: NDArray[np.float64], tensor_sizes: tuple[int, ...]
) -> NDArray[np.float64]:
    """Spread tensor step sizes over the coordinates: ``(tensors,)`` to ``(parameters,)``."""
    return np.repeat(steps, tensor_sizes)


def apply_sum(
    terms: StudyTerms,
    parameters: ParameterSet,
    before: ModelState,
    integers: NDArray[np.int64],
    *,
    weight: int,
    sites: int,
) -> ModelState:
    """Return the model after a round.

    Args:
        terms: The study's.
        parameters: The encryption's parameter set.
        before: The model the round trained from, with the steps it was quantised by.
        integers: ``(parameters,)`` the opened sum.
        weight: Sum of the sites' proven patients, from the sum's weight slot.
        sites: How many sites are in the sum.
    """
    training = terms.training
    total = integers * per_coordinate(before.steps, training.tensor_sizes)
    mean = total / (weight / training.reference_patients)
    momentum = training.server_momentum * before.momentum.astype(np.float64) + mean
    vector = before.vector.astype(np.float64) + training.server_learning_rate * momentum
    return ModelState(
        vector.astype(np.float32),
        momentum.astype(np.float32),
        next_steps(terms, parameters, total / sites, sites),
    )


def split(vector: NDArray[np.float64], sizes: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Cut a flat vector into its tensors."""
    return np.split(vector, np.cumsum(sizes)[:-1])
