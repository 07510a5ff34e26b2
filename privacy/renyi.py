"""Renyi differential privacy of every event: one number for each order, adding up over releases.

    >>> event = SummedNoiseEvent(1.0, sensitivity=100.0, share_deviation=200.0, honest=4,
    ...     dimension=10_000, steps=1)
    >>> central = DpSgdEvent(1.0, event.noise_multiplier, 1)
    >>> bool(abs(divergence(event, 8.0) - divergence(central, 8.0)) < 1e-9)
    True

A Gaussian release of noise multiplier z has divergence a / 2 z^2 at order a [1, proposition 7];
Poisson sampling of it is [2], as Opacus computes it. What is not textbook is the sum of discrete
Gaussians. Let Z be the sum of n draws of parameter s, W one draw of parameter sqrt(n) s, and D an
integer vector of norm at most S, which differs from zero in at most d' = min(d, S^2) coordinates,
since a non-zero integer is at least 1. With Poisson's summation formula the probabilities of Z and
W in a coordinate differ by a factor of at most exp(tau / 2), where [3, section 3]::

    tau = 10 * sum over k = 1 .. n - 1 of exp(-2 pi^2 s^2 k / (k + 1))

so that, with a = S / (sqrt(n) s), the divergence at order alpha between Z + D and Z is at most::

    alpha a^2 / 2 + tau d'                                     (the loss is W's, up to tau)
    alpha / 2 * (a^2 + 2 tau min(S^2, S sqrt(d')) / (sqrt(n) s) + tau^2 d')     (a chain of three)

Sampling by Poisson at rate q then costs, at a whole order alpha, with D_k the bound above::

    log(1 + sum over k = 2 .. alpha of C(alpha, k) q^k (1 - q)^(alpha - k) (exp((k-1) D_k) - 1))
        / (alpha - 1)

which is the sum of [4, theorem 6] with each term rewritten, and needs that the divergence of the
mixture from Z is at least that of Z from the mixture. [2] shows this for pairs of densities that
a reflection swaps; docs/privacy-accounting.md proves it for integers too, and both lines above.

What holds, each line a test in tests/privacy/test_renyi.py:

1. The divergence of a sum is at least the one summed up from its probabilities, in one dimension,
   for shares so narrow that the sum is visibly no discrete Gaussian, both ways, with sampling.
2. For wide shares it is that of the central Gaussian to one part in a million.
3. It grows with the order, the sampling rate and the steps, and falls with the honest shares.

References:
    [1] Mironov, Renyi Differential Privacy, CSF 2017. arXiv:1702.07476
    [2] Mironov, Talwar, Zhang, Renyi Differential Privacy of the Sampled Gaussian Mechanism, 2019,
    section 3. arXiv:1908.10530
    [3] Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning
    with Secure Aggregation, ICML 2021. arXiv:2102.06387
    [4] Zhu and Wang, Poisson Subsampled Renyi Differential Privacy, ICML 2019.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import gammaln, logsumexp

from privacy.events import DpSgdEvent, Event, SummedNoiseEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WHOLE_ORDERS: Final = (*map(float, range(2, 65)), 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0)
"""Orders tried first; a bound at any order is a bound."""
_FINER: Final = 10
"""Parts into which the space around the best whole order is cut."""


def divergence(event: Event, order: float) -> float:
    """Return the Renyi divergence of ``order`` that ``event`` can show about one unit.

    Args:
        event: What was done.
        order: Above 1; whole where ``event`` samples patients into a sum of shares.

    Returns:
        Not negative; infinite where floating point cannot hold it.
    """
    assert order > 1.0
    return event.steps * _release(_alone(event), order)


def epsilon_by_renyi(events: Sequence[Event], delta: float) -> float:
    """Return epsilon at ``delta`` from the sum of the events' divergences.

    The conversion is that of Balle et al. 2020, theorem 21 (arXiv:1905.09982), at the best of the
    orders tried.
    """
    orders = list(WHOLE_ORDERS)
    bounds = [_epsilon_at(events, delta, order) for order in orders]
    best = int(np.argmin(bounds))
    if not any(_needs_whole_order(event) for event in events):
        low = orders[best - 1] if best > 0 else 1.0
        high = orders[min(best + 1, len(orders) - 1)]
        finer = np.linspace(low, high, 2 * _FINER + 1)[1:-1]
        bounds += [_epsilon_at(events, delta, float(order)) for order in finer]
    return max(0.0, min(bounds))


def _epsilon_at(events: Sequence[Event], delta: float, order: float) -> float:
    total = math.fsum(divergence(event, order) for event in events)
    converted = (
        total - (math.log(delta) + math.log(order)) / (order - 1.0) + math.log1p(-1.0 / order)
    )
    return converted if math.isfinite(converted) else math.inf


def _needs_whole_order(event: Event) -> bool:
    return isinstance(event, SummedNoiseEvent) and event.sampling_rate < 1.0


@lru_cache(maxsize=16384)  # rounds repeat one another, and a ledger asks after each
def _release(event: Event, order: float) -> float:
    """Return the divergence of one release."""
    if isinstance(event, SummedNoiseEvent):
        found = _of_sum(event, order)
    else:
        # It brings torch, and who only holds ledgers needs neither.
        from opacus.accountants.analysis import rdp as opacus_rdp  # noqa: PLC0415 - see above

        rate, noise = event.sampling_rate, event.noise_multiplier
        found = float(opacus_rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=order))
    # Written so that what is not a number bounds nothing.
    return found if found >= 0.0 else math.inf


def _alone(event: Event) -> Event:
    """Return ``event`` with one release, so that runs of any length share a computation."""
    if isinstance(event, DpSgdEvent):
        return DpSgdEvent(event.sampling_rate, event.noise_multiplier, 1)
    if isinstance(event, SummedNoiseEvent):
        return SummedNoiseEvent(
            event.sampling_rate,
            event.sensitivity,
            event.share_deviation,
            event.honest,
            event.dimension,
            1,
        )
    return DpSgdEvent(1.0, event.noise_multiplier, 1)


def _of_sum(event: SummedNoiseEvent, order: float) -> float:
    if event.sampling_rate == 1.0:
        return float(_unsampled(event, np.array([order]))[0])
    assert order == int(order), "sampling a sum of shares is bounded at whole orders only"
    alpha, rate = int(order), event.sampling_rate
    k = np.arange(2, alpha + 1, dtype=np.float64)
    exponents = (k - 1.0) * _unsampled(event, k)
    with np.errstate(over="ignore", divide="ignore"):
        excess = exponents + np.log(-np.expm1(-exponents))  # log(exp(exponents) - 1)
    binomial = gammaln(alpha + 1) - gammaln(k + 1) - gammaln(alpha - k + 1)
    terms = binomial + k * math.log(rate) + (alpha - k) * math.log1p(-rate) + excess
    total = float(logsumexp(terms))
    # For a total above 700, log(1 + exp(total)) is total, and exp would overflow.
    grown = math.log1p(math.exp(total)) if total < 700.0 else total
    return grown / (order - 1.0)


def _unsampled(event: SummedNoiseEvent, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the divergence between the sum with a patient and without, at each order."""
    total_deviation = math.sqrt(event.honest) * event.share_deviation
    norm = event.sensitivity
    touched = min(float(event.dimension), norm**2)
    tau = tau_of(event.share_deviation, event.honest)
    squared = (norm / total_deviation) ** 2
    crossed = 2.0 * tau * min(norm**2, norm * math.sqrt(touched)) / total_deviation
    loss_up_to_tau = orders * squared / 2.0 + tau * touched
    chain_of_three = orders / 2.0 * (squared + crossed + tau**2 * touched)
    return np.minimum(loss_up_to_tau, chain_of_three)


@lru_cache(maxsize=1024)
def tau_of(share_deviation: float, honest: int) -> float:
    """Return how far a sum of ``honest`` shares is from one discrete Gaussian, per coordinate.

    Examples:
        >>> tau_of(3.0, 1)
        0.0
        >>> tau_of(1.0, 2) < 6e-4, tau_of(4.0, 100) < 1e-67
        (True, True)
    """
    k = np.arange(1, honest, dtype=np.float64)
    return 10.0 * float(np.exp(-2.0 * np.pi**2 * share_deviation**2 * k / (k + 1.0)).sum())
