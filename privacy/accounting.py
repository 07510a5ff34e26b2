"""What a sequence of events costs: epsilon at a given delta.

Events say what was done (privacy/events.py), accountants say what it cost, and neither knows the
other's reasons.

    >>> run = DpSgdEvent(sampling_rate=0.5, noise_multiplier=2.0, steps=20)
    >>> round(epsilon([run], delta=1e-5), 1)
    5.7
    >>> round(epsilon([run], delta=1e-5, accountant="rdp"), 1)
    6.2

A number without its unit means nothing: ``statement`` returns it with unit, sampling and the
accountant that really made it, and that is what is printed anywhere.

    >>> print(statement([run], delta=1e-5).text())
    epsilon 5.70 (delta 1e-05, unit: patient, sampling: Poisson at rate 0.5, accountant: PRV)

PRV adds up privacy-loss variables numerically [1] and fits releases with Gaussian noise. RDP adds
Renyi divergences (privacy/renyi.py) and fits everything, so a list that holds a sum of shares is
accounted by it. Both are bounds on the same thing, and whenever PRV answers, RDP is asked too: an
answer of PRV above RDP's, or none, is a mistake of arithmetic, is logged, and the larger counts.

What holds, each line a test in tests/privacy/test_accounting.py:

1. PRV agrees with the privacy-loss distributions of Google's dp-accounting to 1 %, and RDP with
   its Renyi accountant.
2. RDP is never below PRV: it is the cautious bound, PRV the tight one.
3. Epsilon grows with the steps and sampling rate and falls with the noise multiplier.
4. ``noise_multiplier_for`` stays within the epsilon it was given.
5. Events of different units of privacy are never added.

References:
    [1] Gopi, Lee, Wutschitz, Numerical Composition of Differential Privacy, NeurIPS 2021,
    algorithm 1. arXiv:2106.02848
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from privacy.events import (
    NOISE_MULTIPLIER_MAX,
    NOISE_MULTIPLIER_MIN,
    DpSgdEvent,
    Event,
    ImpossibleEvent,
    SummedNoiseEvent,
    merged,
)
from privacy.renyi import epsilon_by_renyi
from privacy.statement import Accountant as Accountant  # noqa: PLC0414 - the word for callers
from privacy.statement import PrivacyStatement, sampling_of
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("bithive.privacy")

_WASTED: Final = 1.001
"""Noise found is at most this times the least that is enough."""
_SECANTS_MAX: Final = 20
_APART: Final = 0.01
"""PRV's answer may pass RDP's by its own discretisation, at most this part of it."""


class EpsilonUnreachable(PrivacyError):
    """No noise is large enough for the epsilon that was asked for."""

    code = "epsilon-unreachable"

    def __init__(self, epsilon: float, delta: float, sampling: str = "as asked for") -> None:
        self.epsilon = epsilon
        self.delta = delta
        asked = PrivacyStatement(epsilon, delta, "patient", sampling, "rdp")
        super().__init__(
            f"no noise multiplier up to {NOISE_MULTIPLIER_MAX:g} keeps this many steps within "
            f"{asked.text(6)}; allow more epsilon or take fewer steps"
        )


class UnitsMixed(PrivacyError):
    """Events that protect different units, patients and sites, were to be added up."""

    code = "privacy-units-mixed"

    def __init__(self, units: Sequence[str]) -> None:
        self.units = tuple(units)
        super().__init__(
            f"one epsilon cannot speak of {' and '.join(units)} at once; account for each unit of "
            "privacy by itself, or state a site's event for patients first (for_patients)"
        )


def epsilon(events: Sequence[Event], delta: float, accountant: Accountant = "prv") -> float:
    """Return the epsilon that all ``events`` together cost one unit of privacy.

    Args:
        events: Mechanisms run on the same cohort, in any order, all of one unit.
        delta: In (0, 1); well below one over the number of patients.
        accountant: ``"prv"`` where it fits, or ``"rdp"``: quicker, never smaller.

    Returns:
        0.0 for no events.

    Raises:
        ImpossibleEvent: ``delta`` is outside (0, 1).
        UnitsMixed: The events protect different units.
    """
    return _cost(_checked(events, delta), delta, accountant)[0]


def statement(
    events: Sequence[Event], delta: float, accountant: Accountant = "prv"
) -> PrivacyStatement:
    """Return the epsilon of ``epsilon`` with everything it must be printed with.

    Args:
        events: As for ``epsilon``.
        delta: As for ``epsilon``.
        accountant: As for ``epsilon``; the statement names the one that made the number.

    Raises:
        ImpossibleEvent: ``delta`` is outside (0, 1).
        UnitsMixed: The events protect different units.
    """
    together = _checked(events, delta)
    spent, used = _cost(together, delta, accountant)
    unit = together[0].unit if together else "patient"
    return PrivacyStatement(spent, delta, unit, sampling_of(together), used)


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

    def cost(noise_multiplier: float, by: Accountant) -> float:
        return epsilon([DpSgdEvent(sampling_rate, noise_multiplier, steps)], delta, by)

    def fits(noise_multiplier: float) -> bool:
        return cost(noise_multiplier, "rdp") <= epsilon_limit

    high = 1.0
    while not fits(high):
        high *= 2.0
        if high > NOISE_MULTIPLIER_MAX:
            raise EpsilonUnreachable(epsilon_limit, delta)
    high = _smallest(NOISE_MULTIPLIER_MIN, high, fits)
    if accountant == "rdp":
        return high
    return _descend(high, epsilon_limit, lambda noise: cost(noise, "prv"))


def _smallest(low: float, high: float, fits: Callable[[float], bool]) -> float:
    """Return a number at most 0.1 % above the smallest that fits; ``high`` does."""
    while high / low > _WASTED:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _descend(high: float, limit: float, cost: Callable[[float], float]) -> float:
    """Return the same by secants: PRV needs a little less noise than RDP, and is slow to ask."""
    at_high = cost(high)
    low, at_low = high, at_high
    while at_low <= limit and low > NOISE_MULTIPLIER_MIN:
        high, at_high = low, at_low
        low = max(0.99 * low * at_low / limit, NOISE_MULTIPLIER_MIN)
        at_low = cost(low)
    for _ in range(_SECANTS_MAX):
        if high / low <= _WASTED or at_low <= limit:
            break
        # Epsilon is nearly a power of the noise; aim just above, then look just below.
        slope = math.log(high / low) / math.log(at_low / at_high)
        aimed = low * (at_low / limit) ** slope * (1.0 + 0.3 * (_WASTED - 1.0))
        noise = min(max(aimed, low * _WASTED), high / _WASTED)
        at_noise = cost(noise)
        if at_noise <= limit:
            high, at_high = noise, at_noise
        else:
            low, at_low = noise, at_noise
    return high


def _checked(events: Sequence[Event], delta: float) -> tuple[Event, ...]:
    if not 0.0 < delta < 1.0:
        raise ImpossibleEvent("delta", delta, "above 0 and below 1")
    units = sorted({event.unit for event in events})
    if len(units) > 1:
        raise UnitsMixed(units)
    return merged(events)


@lru_cache(maxsize=1024)  # one numerical composition takes 0.3 s, and six sites ask the same
def _cost(
    events: tuple[Event, ...], delta: float, accountant: Accountant
) -> tuple[float, Accountant]:
    """Return epsilon, and the accountant that made it."""
    if not events:
        return 0.0, accountant
    cautious = epsilon_by_renyi(events, delta)
    if accountant == "rdp" or any(isinstance(event, SummedNoiseEvent) for event in events):
        return cautious, "rdp"
    tight = _prv(events, delta, cautious)
    by_prv = PrivacyStatement(tight, delta, events[0].unit, sampling_of(events), "prv")
    return _cross_checked(by_prv, cautious)


def _cross_checked(by_prv: PrivacyStatement, cautious: float) -> tuple[float, Accountant]:
    """Return PRV's bound where RDP's confirms it, else the larger that is finite."""
    tight = by_prv.epsilon
    by_rdp = replace(by_prv, epsilon=cautious, accountant="rdp")
    if not (math.isfinite(tight) and tight >= 0.0):
        log.warning("accountant-without-answer: PRV gave none, so this counts: %s", by_rdp.text(6))
        return cautious, "rdp"
    if tight > (1.0 + _APART) * cautious:
        log.warning(
            "accountants-disagree: %s is above %s, so the larger counts; report the events that "
            "led to this",
            by_prv.text(6),
            by_rdp.text(6),
        )
        return tight, "prv"
    return min(tight, cautious), "prv"


def _prv(events: Sequence[Event], delta: float, cautious: float) -> float:
    # It brings torch, and who only holds ledgers needs neither.
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - see above

    accountant = PRVAccountant()
    accountant.history = [(one.noise_multiplier, one.sampling_rate, one.steps) for one in events]
    # A grid as fine as the answer is small; relative to delta, so that it never decides.
    error = min(0.004 * cautious, max(0.01, 0.001 * cautious))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow in tails that are cut off right after
        try:
            return float(
                accountant.get_epsilon(delta=delta, eps_error=error, delta_error=delta / 1000)
            )
        except (RuntimeError, ValueError, MemoryError, OverflowError, ZeroDivisionError):
            return math.inf  # the domain did not fit
