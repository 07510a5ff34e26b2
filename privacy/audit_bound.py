"""What correct guesses of who took part prove about epsilon: the bound of a one-run audit.

A coin is tossed for each of m canaries, who takes part only on heads. Training runs once. Whoever
audits then looks at all that was released and says of some canaries that they were in, of others
that they were not, and of the rest nothing. If training is (epsilon, delta)-private, an answer can
hardly be better than randomised response, however clever the guesser and however much else it
knows. Of r guesses and W correct ones, over the coins and the noise [1, theorem 5.2]::

    P[W >= v]  <=  beta + 2 m delta max_i (1/i) P[v - i <= B < v]      i = 1 ... v
    beta = P[B >= v],   B ~ Binomial(r, e^epsilon / (1 + e^epsilon))

So many correct guesses as are unlikely under an epsilon show that the truth is above it.

    >>> round(epsilon_at_least(canaries=1000, guesses=100, correct=100, delta=1e-5), 2)
    3.47
    >>> epsilon_at_least(canaries=1000, guesses=100, correct=55, delta=1e-5)
    0.0

The neighbours are those of this project: one unit is there or is not.

What holds, each line a test in tests/privacy/test_audit_bound.py:

1. Guesses by coin toss give a bound above zero at most as often as the confidence allows.
2. Guesses as good as randomised response at epsilon give a bound above epsilon no more often.
3. The bound grows with correct guesses, and falls with delta, canaries and confidence.
4. At delta = 0 it is the exact binomial interval of Clopper and Pearson.

References:
    [1] Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023,
    theorem 5.2 and appendix D. arXiv:2305.08846
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import binom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
_EPSILON_MAX: Final = 64.0
"""Above it e^epsilon / (1 + e^epsilon) is 1 in double precision, and nothing is told apart."""
_HALVINGS: Final = 50


def likelihood_at_most(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """Return a bound on the probability of so many correct guesses or more: a p-value.

    Args:
        canaries: m, each in by a fair coin of its own.
        guesses: r, at most m: those that were not abstained from. Chosen before the coins are
            looked at.
        correct: v, at most r.
        epsilon: At least 0; what training is supposed to keep.
        delta: In [0, 1]; belongs to it.

    Returns:
        In [0, 1].
    """
    assert 0 <= correct <= guesses <= canaries
    assert epsilon >= 0.0
    assert 0.0 <= delta <= 1.0
    right = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, right))
    if correct == 0 or delta == 0.0:
        return min(1.0, beta)
    counts = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - counts, guesses, right))  # P[v - i <= B < v]
    return min(1.0, beta + 2.0 * canaries * delta * float(np.max(below / counts)))


def epsilon_at_least(
    *, canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Return the epsilon that training surely passes, at ``delta``.

    Args:
        canaries: m, each in by a fair coin of its own.
        guesses: r, at most m: those that were not abstained from.
        correct: v, at most r.
        delta: In [0, 1]; of the epsilon that the result is compared with.
        confidence: Probability with which the result is below the truth, over coins and noise.

    Returns:
        At least 0; 0 where the guesses show nothing.
    """
    assert 0.0 < confidence < 1.0

    def refuted(epsilon: float) -> bool:
        found = likelihood_at_most(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return found < 1.0 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high) and high < _EPSILON_MAX:
        low, high = high, 2.0 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def best_bound(
    scores: NDArray[np.float64],
    taken: NDArray[np.bool_],
    *,
    delta: float,
    shares: Sequence[float] = (1.0, 0.5, 0.25, 0.1),
    confidence: float = CONFIDENCE,
) -> tuple[float, int, int]:
    """Return the largest bound over several amounts of abstention, with its guesses and hits.

    Half of the guesses are "in", of the highest scores, and half "out", of the lowest. Trying
    several shares and keeping the best would find too much by luck, so each is held to a part of
    the error that is allowed (Bonferroni).

    Args:
        scores: ``(canaries,)`` higher where a canary looks as if she took part; made without the
            coins.
        taken: ``(canaries,)`` the coins.
        delta: Of the epsilon that the result is compared with.
        shares: Of the canaries that are guessed; fixed beforehand.
        confidence: Of the result over all shares.

    Returns:
        The bound, the guesses and the correct ones of the share that gave it.
    """
    assert scores.shape == taken.shape
    count, each = len(scores), 1.0 - (1.0 - confidence) / len(shares)
    order = np.argsort(scores, kind="stable")
    found = []
    for share in shares:
        half = max(1, round(share * count / 2.0))
        half = min(half, count // 2)
        correct = int(taken[order[count - half :]].sum() + (~taken[order[:half]]).sum())
        bound = epsilon_at_least(
            canaries=count, guesses=2 * half, correct=correct, delta=delta, confidence=each
        )
        found.append((bound, 2 * half, correct))
    return max(found)
