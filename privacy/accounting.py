"""What a sequence of noised training steps costs: epsilon at a given delta.

Events say what was done, accountants say what it cost, and neither knows the other's reasons.

    >>> run = DpSgdEvent(sampling_rate=0.5, noise_multiplier=2.0, steps=20)
    >>> round(epsilon([run], delta=1e-5), 1)
    5.7
    >>> round(epsilon([run], delta=1e-5, accountant="rdp"), 1)
    6.2

Every number here means the same thing: the unit of privacy is the **patient** (all her records
enter or leave together), neighbouring cohorts differ by adding or removing one patient, and each
step draws every patient independently with probability ``sampling_rate`` (Poisson sampling). A
step releases the sum of the drawn patients' clipped gradients plus Gaussian noise of standard
deviation noise_multiplier * clipping_norm in every coordinate [1, Algorithm 1].

What holds, each line a test in tests/privacy/test_accounting.py:

1. PRV agrees with the privacy-loss-distribution accountant of Google's dp-accounting to 1 %.
2. RDP is never below PRV: it is the cautious bound, PRV the tight one.
3. Epsilon grows with the steps and sampling rate and falls with the noise multiplier.
4. ``noise_multiplier_for`` stays within the epsilon it was given.

References:
    [1] Abadi et al., Deep Learning with Differential Privacy, CCS 2016, Algorithm 1 and
    section 3.1. arXiv:1607.00133
    [2] Mironov, Renyi Differential Privacy, CSF 2017, propositions 1 and 3. arXiv:1702.07476
    [3] Mironov, Talwar, Zhang, Renyi Differential Privacy of the Sampled Gaussian Mechanism,
    2019, section 3.3. arXiv:1908.10530
    [4] Gopi, Lee, Wutschitz, Numerical Composition of Differential Privacy, NeurIPS 2021,
    algorithm 1. arXiv:2106.02848
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from opacus.accountants import PRVAccountant, RDPAccountant

from privacy.events import NOISE_MULTIPLIER_MAX, NOISE_MULTIPLIER_MIN, DpSgdEvent, ImpossibleEvent
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Accountant = Literal["prv", "rdp"]

_ORDERS: Final = [1.25, 1.5, 1.75, 2.5, 3.5, *map(float, range(2, 64)), 128.0, 256.0, 512.0]
"""Renyi orders tried; whole ones are quicker, and any selection gives a valid bound."""


class EpsilonUnreachable(PrivacyError):
    """No noise is large enough for the epsilon that was asked for."""

    code = "epsilon-unreachable"

    def __init__(self, epsilon: float, delta: float) -> None:
        self.epsilon = epsilon
        self.delta = delta
        super().__init__(
            f"no noise multiplier up to {NOISE_MULTIPLIER_MAX:g} keeps this many steps within "
            f"epsilon {epsilon:g} at delta {delta:g}; allow more epsilon or take fewer steps"
        )


def epsilon(events: Sequence[DpSgdEvent], delta: float, accountant: Accountant = "prv") -> float:
    """Return the epsilon that all ``events`` together cost one patient.

    Args:
        events: Mechanisms run on the same cohort, in any order.
        delta: In (0, 1); well below one over the number of patients.
        accountant: ``"prv"`` adds up privacy-loss variables numerically and reports their upper
            bound [4]; ``"rdp"`` adds Renyi divergences [2, 3]: quicker, never smaller.

    Returns:
        0.0 for no events.

    Raises:
        ImpossibleEvent: ``delta`` is outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ImpossibleEvent("delta", delta, "above 0 and below 1")
    merged = _merge(events)
    return _cost(merged, delta, accountant) if merged else 0.0


def noise_multiplier_for(
    epsilon_limit: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant = "prv",
) -> float:
    """Return the smallest noise multiplier, to 0.1 %, that keeps ``steps`` within the limit.

    Args:
        epsilon_limit: Positive; for all the steps together.
        delta: In (0, 1).
        sampling_rate: In (0, 1].
        steps: All steps of the study at this site, over all rounds.
        accountant: As for ``epsilon``.

    Raises:
        ImpossibleEvent: A value is outside its range.
        EpsilonUnreachable: Even the largest noise costs more than the limit.

    Examples:
        >>> round(noise_multiplier_for(8.0, 1e-5, 0.5, 20), 1)
        1.6
    """
    if not (epsilon_limit > 0.0 and math.isfinite(epsilon_limit)):
        raise ImpossibleEvent("epsilon_limit", epsilon_limit, "positive and finite")

    def fits(noise_multiplier: float, by: Accountant) -> bool:
        event = DpSgdEvent(sampling_rate, noise_multiplier, steps)
        return epsilon([event], delta, by) <= epsilon_limit

    high = 1.0
    while not fits(high, "rdp"):
        high *= 2.0
        if high > NOISE_MULTIPLIER_MAX:
            raise EpsilonUnreachable(epsilon_limit, delta)
    high = _smallest(NOISE_MULTIPLIER_MIN, high, lambda noise: fits(noise, "rdp"))
    if accountant == "rdp":
        return high
    # PRV needs a little less noise than RDP; a Fourier transform an answer, so start close.
    low = high
    while low > NOISE_MULTIPLIER_MIN and fits(low, "prv"):
        low, high = max(0.9 * low, NOISE_MULTIPLIER_MIN), low
    return _smallest(low, high, lambda noise: fits(noise, "prv"))


def _smallest(low: float, high: float, fits: Callable[[float], bool]) -> float:
    """Return a number at most 0.1 % above the smallest that fits; ``high`` does."""
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


@lru_cache(maxsize=1024)  # one numerical composition takes 0.3 s, and six sites ask the same
def _cost(events: tuple[DpSgdEvent, ...], delta: float, accountant: Accountant) -> float:
    bound = _prv(events, delta) if accountant == "prv" else math.inf
    # The two are bounds on the same thing, so the other one stands in where PRV does not fit.
    return bound if math.isfinite(bound) else _rdp(events, delta)


def _merge(events: Sequence[DpSgdEvent]) -> tuple[DpSgdEvent, ...]:
    """Return one event per mechanism: composition is commutative, and long sums cost time."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.sampling_rate, event.noise_multiplier)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(DpSgdEvent(rate, noise, count) for (rate, noise), count in sorted(steps.items()))


def _rdp(events: Sequence[DpSgdEvent], delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = _history(events)
    with warnings.catch_warnings():
        # Opacus warns when the best Renyi order is the first or last one: the bound still holds.
        warnings.simplefilter("ignore")
        return float(accountant.get_privacy_spent(delta=delta, alphas=_ORDERS)[0])


def _prv(events: Sequence[DpSgdEvent], delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = _history(events)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow in tails that are cut off right after
        try:
            # Relative to delta, so that the discretisation never decides the answer.
            bound = float(
                accountant.get_epsilon(delta=delta, eps_error=0.01, delta_error=delta / 1000)
            )
        except (RuntimeError, ValueError, MemoryError, OverflowError):
            return math.inf  # the domain did not fit; the caller takes the RDP bound
    return bound if math.isfinite(bound) and bound >= 0.0 else math.inf


def _history(events: Sequence[DpSgdEvent]) -> list[tuple[float, float, int]]:
    return [(event.noise_multiplier, event.sampling_rate, event.steps) for event in events]
