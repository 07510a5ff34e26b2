"""Patients' gradients as integers, so that hospitals can share the noise of their sum.

Where every hospital must be private by itself, n of them add n times the noise that the sum would
need. Here a secure sum opens nothing but the sum, so each adds a share (``privacy.noise_shares``)
that is enough together with those of other honest ones [1, 2]. One private step a round, at each
site::

    patient drawn ─▶ mean gradient over views ─▶ clip to C ─▶ round to a grid ─┐
    patient drawn ─▶ ...                                                       ├─▶ + ─▶ + share
    ...                                                                        ┘

A patient's clipped gradient is rounded up or down at random, coordinate by coordinate, and drawn
again until its norm is within a bound that depends on nothing about her ("conditional rounding"
[1]). Rounded patients are added up, so adding or removing one moves the sum over all hospitals by
at most that bound. With G grid units to a clipping norm, d coordinates, beta the chance to draw
again, and in grid units::

    sensitivity^2 = min((G + sqrt d)^2,  G^2 + d/4 + sqrt(2 ln(1/beta)) (G + sqrt(d)/2))

The first is the triangle inequality: rounding moves each coordinate by less than 1. The second: a
coordinate y_j becomes f_j + B_j, where f_j = floor(y_j) and the coin B_j has mean y_j - f_j. The
squared norm has mean |y|^2 + sum_j Var B_j <= G^2 + d/4 and varies by sum_j (2 f_j + 1) B_j, whose
terms are independent with ranges |2 f_j + 1| <= 2 |y_j| + 1; Hoeffding's bound gives the rest.

    >>> gradient = np.array([3.0, -4.0])
    >>> clip_and_round(gradient, clipping_norm=1.0, grid=10, stream=RandomStream.from_seed(0))
    array([ 6, -8])

What holds, each line a test in tests/privacy/test_summed_noise.py:

1. Adding or removing one patient moves a sum by at most the sensitivity, whatever her records are.
2. Rounding has a bias of at most 2**-20 sqrt(d) grid units: it is unbiased before it is drawn
   again, and then moves inside a cube of side 1.
3. The integers of a sum follow from the sum of what the sites hold: nothing is cut before it.
4. ``share_deviation_for`` stays within the epsilon it was given.

The integers a site sends may lie outside the range of a quantised value. To cut them would make
the sum depend on more than the sum. Packing is linear, so that an overflow shows in the sum only,
after the noise (``privacy.packing``); up to ``patients_max`` patients there is none.

References:
    [1] Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning
    with Secure Aggregation, ICML 2021. arXiv:2102.06387
    [2] Truex et al., A Hybrid Approach to Privacy-Preserving Federated Learning, AISec 2019
    (shares of noise under encryption, by the number of honest parties). arXiv:1812.03224
    Assumptions, and who may collude: docs/summed-noise.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn

from privacy.accounting import EpsilonUnreachable, epsilon
from privacy.events import NOISE_MULTIPLIER_MAX, ImpossibleEvent, SummedNoiseEvent
from privacy.noise_shares import NoisePlan, NoiseShare, sampler
from privacy.packing import VALUE_LIMIT, ValuesTooLarge
from privacy.parameters import ParameterSet
from privacy.patient_gradients import Cohort, leave_gradients, log_loss, mirror, unhook
from privacy.randomness import RandomStream
from privacy.update import IntegerUpdate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from privacy.patient_gradients import RecordLoss

GRID_MIN: Final = 1024
_GRID_PER_ROOT: Final = 16
"""Grid units to a clipping norm, over the root of the dimension: rounding then adds less than one
part in a thousand to the squared sensitivity, and drawing again less than one in a hundred."""
AGAIN_BITS: Final = 20
"""A rounding is drawn again with a probability of at most 2**-20: beta above."""
_DRAWS_MAX: Final = 64
PATIENTS_AT_ONCE: Final = 64
"""Patients whose gradients are in memory together."""


# The grid


def grid_for(dimension: int) -> int:
    """Return how many grid units a clipping norm should have: a power of two.

    Examples:
        >>> grid_for(1_000), grid_for(16_129), grid_for(1_000_000)
        (1024, 2048, 16384)
    """
    assert dimension >= 1
    wanted = _GRID_PER_ROOT * math.sqrt(dimension)
    return max(GRID_MIN, 1 << math.ceil(math.log2(wanted)))


def sensitivity(grid: int, dimension: int) -> float:
    """Return the largest norm of one patient's integers, in grid units.

    Args:
        grid: Grid units to a clipping norm.
        dimension: Coordinates.

    Examples:
        >>> round(sensitivity(2048, 16_129), 1)
        2051.7
    """
    return math.sqrt(_norm_squared_max(grid, dimension))


def _norm_squared_max(grid: int, dimension: int) -> int:
    """Return the integer that the squared norm of a rounded patient is compared with."""
    assert grid >= 1
    root = math.sqrt(dimension)
    tail = math.sqrt(2 * AGAIN_BITS * math.log(2)) * (grid + root / 2)
    return math.floor(min((grid + root) ** 2, grid**2 + dimension / 4 + tail))


def clip_and_round(
    gradient: NDArray[np.float64], clipping_norm: float, grid: int, stream: RandomStream
) -> NDArray[np.int64]:
    """Return one patient's gradient as integers, of norm at most ``sensitivity``.

    Args:
        gradient: ``(parameters,)``; zero where it is not finite.
        clipping_norm: Bound on its norm before rounding.
        grid: Grid units to a clipping norm.
        stream: Where the rounding draws from.

    Returns:
        ``(parameters,)`` integers in grid units.
    """
    norm = float(np.linalg.norm(gradient))
    if not math.isfinite(norm):
        return np.zeros(gradient.size, dtype=np.int64)
    scaled = gradient * (grid / max(clipping_norm, norm))
    limit = _norm_squared_max(grid, gradient.size)
    for _ in range(_DRAWS_MAX):
        rounded = np.floor(scaled + stream.uniform(scaled.size)).astype(np.int64)
        if int(rounded @ rounded) <= limit:
            return rounded
    # Once in 2**1280; still within the bound, which is what must never fail.
    return np.zeros(gradient.size, dtype=np.int64)


def step_size(
    *,
    clipping_norm: float,
    grid: int,
    lr: float,
    sampling_rate: float,
    reference_patients: int,
) -> float:
    """Return what one grid unit of the sum is worth in the weights, before the mean is taken.

    The mean gradient over the sites' n patients is (C / G) sum / (q n); a step of ``lr`` along it,
    times n over ``reference_patients``, is what ``privacy.dpsgd`` sends. It is public.
    """
    return lr * clipping_norm / (grid * sampling_rate * reference_patients)


def patients_max(parameters: ParameterSet, plan: NoisePlan, grid: int, dimension: int) -> int:
    """Return how many drawn patients a sum holds that cannot overflow, whatever their gradients.

    More patients overflow only if their gradients agree in one coordinate, which the check sum
    finds but for 2**-32; the round then closes without an update, and only the sum decided it.

    Args:
        parameters: Of the encryption.
        plan: Of the round.
        grid: Grid units to a clipping norm.
        dimension: Coordinates.
    """
    room = min(parameters.field_max, plan.fewest * parameters.value_max)
    noise = plan.most * sum(sampler(deviation).largest for deviation in plan.deviations)
    return max(0, (room - noise) // math.floor(sensitivity(grid, dimension)))


def check_size(patients: int, plan: NoisePlan, grid: int, dimension: int) -> None:
    """See that one site's integers can be packed, whatever its patients' gradients are.

    Said of their number alone and before a gradient is taken, so that a refusal tells nothing of
    the patients.

    Args:
        patients: Whom the site may draw.
        plan: Of the round.
        grid: Grid units to a clipping norm.
        dimension: Coordinates.

    Raises:
        ValuesTooLarge: They might not.
    """
    noise = sum(sampler(deviation).largest for deviation in plan.deviations)
    if patients * math.floor(sensitivity(grid, dimension)) + noise >= VALUE_LIMIT:
        raise ValuesTooLarge


# Privacy


def event_of(
    plan: NoisePlan, *, sampling_rate: float, grid: int, dimension: int, steps: int = 1
) -> SummedNoiseEvent:
    """Return what ``steps`` rounds under a plan are accounted for as.

    Rounds of more sites than the fewest have the same noise in their sum, in smaller shares.
    """
    return SummedNoiseEvent(
        sampling_rate=sampling_rate,
        sensitivity=sensitivity(grid, dimension),
        share_deviation=plan.share_deviation,
        honest=plan.honest,
        dimension=dimension,
        steps=steps,
    )


def share_deviation_for(  # noqa: PLR0917 - one mechanism's numbers, in the order of its event
    epsilon_limit: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    honest: int,
    sensitivity: float,  # as ``sensitivity`` returns it
    dimension: int,
) -> float:
    """Return the smallest deviation of a share, to 0.1 %, that keeps ``steps`` within the limit.

    Args:
        epsilon_limit: Positive; for all the steps together.
        delta: In (0, 1).
        sampling_rate: In (0, 1].
        steps: All rounds of the study.
        honest: Shares that are certain to be in the sum and unknown to whoever looks.
        sensitivity: In grid units.
        dimension: Coordinates.

    Returns:
        In grid units, with the smallest sum of noise at least 0.1 sensitivities.

    Raises:
        ImpossibleEvent: A value is outside its range.
        EpsilonUnreachable: Even the largest noise costs more than the limit.

    Examples:
        >>> round(share_deviation_for(8.0, 1e-5, 1.0, 10, 3, 2051.7, 16_129) / 2051.7, 1)
        1.2
    """
    if not (epsilon_limit > 0.0 and math.isfinite(epsilon_limit)):
        raise ImpossibleEvent("epsilon_limit", epsilon_limit, "positive and finite")
    unit = sensitivity / math.sqrt(honest)

    def fits(noise_multiplier: float) -> bool:
        share = noise_multiplier * unit
        event = SummedNoiseEvent(sampling_rate, sensitivity, share, honest, dimension, steps)
        return epsilon([event], delta, "rdp") <= epsilon_limit

    low = high = 0.125
    while not fits(high):
        low, high = high, 2 * high
        if high > NOISE_MULTIPLIER_MAX:
            raise EpsilonUnreachable(epsilon_limit, delta)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high * unit


# Training


def train_summed(
    module: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    patient: NDArray[np.int64],
    *,
    sampling_rate: float,
    clipping_norm: float,
    grid: int,
    share: NoiseShare,
    stream: RandomStream,
    patients: int | None = None,
    views: int = 1,
    augment: bool = False,
    loss: RecordLoss = log_loss,
    on_step: Callable[[int], None] | None = None,
) -> IntegerUpdate:
    """Return the drawn patients' gradients at the module's weights, as integers with noise.

    The module is left as it came: a round is one step, and the server takes it.

    Args:
        module: From ``(batch, *input_shape)`` to what ``loss`` takes; holds the round's start.
        x: ``(records, *input_shape)``.
        y: ``(records, ...)`` targets, by default ``(records,)`` 0 or 1.
        patient: ``(records,)`` from 0 to n - 1, each patient at least once; whose record it is.
        sampling_rate: Probability with which a patient is drawn.
        clipping_norm: Bound on the l2 norm of one patient's gradient.
        grid: Grid units to a clipping norm, equal at all sites.
        share: This site's share of the round's noise.
        stream: Decides draws, rounding and noise. Privacy holds if it is ``secret``.
        patients: n, where the caller knows it: checked against ``patient``.
        views: Records averaged into one patient's gradient before clipping.
        augment: Mirror each drawn image left to right with probability one half.
        loss: Of each record by itself.
        on_step: Called with 1 at the end.

    Returns:
        ``(parameters,)`` minus the sum of the clipped gradients, in grid units, plus the share;
        ``step_size`` turns a sum of them into an update.

    Raises:
        ImpossibleEvent: The sampling rate or clipping norm is out of range.
        ValuesTooLarge: So many patients' integers might not be packed exactly.
    """
    if not (clipping_norm > 0.0 and math.isfinite(clipping_norm)):
        raise ImpossibleEvent("clipping_norm", clipping_norm, "positive and finite")
    if not 0.0 < sampling_rate <= 1.0:
        raise ImpossibleEvent("sampling_rate", sampling_rate, "above 0 and at most 1")
    parameters = [p for p in module.parameters() if p.requires_grad]
    dimension = sum(p.numel() for p in parameters)
    assert len(x) == len(y) == len(patient)
    assert views >= 1
    cohort = Cohort(patient)
    assert patients is None or patients == cohort.size
    check_size(cohort.size, share.plan, grid, dimension)
    total = np.zeros(dimension, dtype=np.int64)
    records = cohort.draw(sampling_rate, views, stream)
    rounding = stream.child("rounding")
    hooked = GradSampleModule(module, loss_reduction="sum")
    hooked.train()
    try:
        for start in range(0, len(records), PATIENTS_AT_ONCE * views):
            some = records[start : start + PATIENTS_AT_ONCE * views]
            inputs = torch.from_numpy(x[some])
            if augment:
                inputs = mirror(inputs, stream)
            leave_gradients(hooked, parameters, inputs, y[some], views=views, record_loss=loss)
            for gradient in _rows(parameters):
                total -= clip_and_round(gradient, clipping_norm, grid, rounding)
            hooked.zero_grad(set_to_none=True)
    finally:
        unhook(hooked, parameters)
    if on_step is not None:
        on_step(1)
    return IntegerUpdate(total + share.draw(total.size, stream.child("noise")))


def _rows(parameters: list[nn.Parameter]) -> list[NDArray[np.float64]]:
    """Return each patient's ``(parameters,)`` gradient, in the order of the weights' vector."""
    joined = torch.cat([p.grad_sample.flatten(1) for p in parameters], dim=1)
    return list(joined.double().numpy())
