"""From an opened sum to the next model, and the public step sizes of the next round.

A site's update is scaled by its number of patients over the study's reference number before it is
quantised, so the sum over sites divided by the sum of weights is FedAvg's weighted mean. What the
server does with it is its half of the study's algorithm (``models.algorithms``). All of it happens
to an opened, already noised sum: it is post-processing and costs no privacy.

Step sizes are public and common to all sites, otherwise sums of integers would not be sums of
updates. A coordinate's spread at a site is its Gaussian noise, known from the study's terms, and
its signal, guessed from what the last opened sum shows beyond noise. Where sites share the noise
of the sum, the grid is fixed by the terms, and noise that a full sum can spare is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_server.model_state import SLICE, ModelState
from models.algorithms.catalogue import algorithm_of
from models.algorithms.interface import Algorithm, Constants, GlobalState
from privacy.mechanism import round_plan, update_step
from privacy.noise_shares import SurplusRefused, surplus_noise
from privacy.parameters import ParameterSet
from protocol.ids import SiteId
from protocol.summation import SurplusNoise
from protocol.terms import StudyTerms

SPREADS = 4.5
"""Standard deviations of a coordinate that the quantised range holds; beyond it, it saturates."""
SPREADS_FIRST = 8.0
"""The same for the first round, when nothing is known of the signal yet."""
SIGNAL_MARGIN = 4.0
"""How much larger than its mean over sites one site's squared signal is taken to be."""


def study_algorithm(terms: StudyTerms) -> Algorithm:
    """Return the server's half of the study's algorithm.

    Raises:
        AlgorithmUnusable: The study's constants do not fit it.
    """
    constants = Constants.of(terms.training, steps=terms.privacy.steps, sites=len(terms.sites))
    return algorithm_of(constants)


def first_state(
    terms: StudyTerms, parameters: ParameterSet, vector: NDArray[np.float32]
) -> ModelState:
    """Return what a study with these initial weights ``(parameters,)`` starts from."""
    state = study_algorithm(terms).first(vector)
    return ModelState(state.vector, state.momentum, first_steps(terms, parameters), state.carried)


def noise_spread(terms: StudyTerms) -> float:
    """Return the standard deviation of one coordinate's noise of one round in a site's update.

    A step moves the model by ``learning_rate`` times a clipped, noised sum over
    ``sampling_rate * patients``; scaling by ``patients / reference`` cancels the site's own size.
    How the noises of the steps add up, the algorithm says.
    """
    privacy, training = terms.privacy, terms.training
    if privacy.mechanism == "site-level":  # on the whole update, once
        return privacy.noise_multiplier * privacy.clipping_norm
    per_step = privacy.noise_multiplier * privacy.clipping_norm * training.learning_rate
    per_step /= privacy.sampling_rate * training.reference_patients
    return per_step * study_algorithm(terms).noise_growth


def first_steps(terms: StudyTerms, parameters: ParameterSet) -> NDArray[np.float64]:
    """Return the step size of each tensor for the first round.

    Returns:
        ``(tensors,)``, in units of the weights.
    """
    if terms.privacy.mechanism == "summed":
        return np.full(len(terms.training.tensor_sizes), update_step(terms))
    spread = np.full(len(terms.training.tensor_sizes), noise_spread(terms))
    return SPREADS_FIRST * spread / parameters.value_max


def next_steps(
    terms: StudyTerms,
    parameters: ParameterSet,
    mean: NDArray[np.float64],
    sites: int,
    *,
    largest_share: float | None = None,
) -> NDArray[np.float64]:
    """Return each tensor's step size after a round.

    Args:
        terms: The study's.
        parameters: The encryption's parameter set.
        mean: ``(parameters,)`` mean over sites of the scaled updates just opened.
        sites: How many sites it is the mean of.
        largest_share: The largest site's share of their patients; an even one when not given.

    Returns:
        ``(tensors,)``, in units of the weights.
    """
    means = split(mean, terms.training.tensor_sizes)
    return steps_of_tensors(terms, parameters, means, sites, largest_share=largest_share)


def steps_of_tensors(
    terms: StudyTerms,
    parameters: ParameterSet,
    means: Iterable[NDArray[np.float64]],
    sites: int,
    *,
    largest_share: float | None = None,
) -> NDArray[np.float64]:
    """Return ``next_steps`` of means that come tensor by tensor."""
    if terms.privacy.mechanism == "summed":
        return first_steps(terms, parameters)
    noise = noise_spread(terms) ** 2
    growth = study_algorithm(terms).spread_growth(largest_share or 1 / sites)
    steps = []
    for part in means:
        signal = max(0.0, float(np.mean(part**2)) - noise / sites)
        spread = (growth**2 * noise + SIGNAL_MARGIN * signal) ** 0.5
        steps.append(SPREADS * spread / parameters.value_max)
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
    integers: NDArray[np.signedinteger[Any]],
    *,
    weight: int,
    sites: int,
    largest: int | None = None,
) -> ModelState:
    """Return the model after a round.

    Args:
        terms: The study's.
        parameters: The encryption's parameter set.
        before: The model the round trained from, with the steps it was quantised by.
        integers: ``(parameters,)`` the opened sum.
        weight: Sum of the sites' proven patients, from the sum's weight slot.
        sites: How many sites are in the sum.
        largest: The largest site's patients; as many as the others' when not given.
    """
    total = integers * per_coordinate(before.steps, terms.training.tensor_sizes)
    after = study_algorithm(terms).step(
        GlobalState(before.vector, before.momentum, before.carried),
        total,
        weight=weight,
        sites=sites,
    )
    share = None if largest is None else largest / weight
    return ModelState(
        after.vector,
        after.momentum,
        next_steps(terms, parameters, total / sites, sites, largest_share=share),
        after.carried,
    )


@dataclass(frozen=True)
class Stepping:
    """``apply_sum`` over a model that comes in slices: the same, bit by bit, in little memory.

    ``steps`` are those the round's updates were quantised by; the rest is as there.
    """

    terms: StudyTerms
    parameters: ParameterSet
    steps: NDArray[np.float64]
    integers: NDArray[np.signedinteger[Any]]
    weight: int
    sites: int
    largest: int

    def slices(self, before: Callable[[int], GlobalState]) -> Iterator[GlobalState]:
        """Yield the model after the round, ``before(count)`` being its next ``count`` numbers."""
        algorithm = study_algorithm(self.terms)
        for tensor, step in self._tensors():
            for start in range(0, tensor.size, SLICE):
                total = tensor[start : start + SLICE] * step
                yield algorithm.step(
                    before(total.size), total, weight=self.weight, sites=self.sites
                )

    def next_steps(self) -> NDArray[np.float64]:
        """Return each tensor's step size after the round."""
        means = (tensor * step / self.sites for tensor, step in self._tensors())
        return steps_of_tensors(
            self.terms,
            self.parameters,
            means,
            self.sites,
            largest_share=self.largest / self.weight,
        )

    def _tensors(self) -> Iterator[tuple[NDArray[np.signedinteger[Any]], np.float64]]:
        at = 0
        for size, step in zip(self.terms.training.tensor_sizes, self.steps, strict=True):
            yield self.integers[at : at + size], step
            at += size


def without_surplus(
    terms: StudyTerms,
    integers: NDArray[np.signedinteger[Any]],
    shown: Sequence[SurplusNoise],
    *,
    roster: int,
    arrived: int,
) -> tuple[NDArray[np.signedinteger[Any]], tuple[SiteId, ...]]:
    """Return the opened sum without the noise it can spare, and the sites whose seeds were odd.

    Args:
        terms: The study's.
        integers: ``(parameters,)`` the opened sum.
        shown: What sites in the sum showed; of the others the noise stays.
        roster: Sites in the round's plan.
        arrived: Sites in the sum.
    """
    if not shown:
        return integers, ()
    left, odd = integers.astype(np.int64), []
    for one in shown:
        plan = round_plan(terms, roster)
        try:
            left -= surplus_noise(plan, arrived, one.seeds, integers.size)
        except SurplusRefused:
            odd.append(one.site)
    return left, tuple(odd)


def split(vector: NDArray[np.float64], sizes: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Cut a flat vector into its tensors."""
    return np.split(vector, np.cumsum(sizes)[:-1])
