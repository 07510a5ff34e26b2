"""Draw integers with the law of a discrete Gaussian, exactly but for a stated distance.

The law is P(x) proportional to exp(-x^2 / 2 sigma^2) over the integers. Rounding a floating-point
Gaussian is another law, and how far off nobody proves. Here the magnitude's interval comes from a
table of cumulative weights of 128 bits, its place inside the interval is uniform, and a rejection
step makes the weights inside the interval right [1, 2]::

    interval i with weight exp(-(i w)^2 / 2 sigma^2)     w integers wide, cut at the last interval
    place u uniform over 0 .. w - 1, and a sign          the candidate is x = +-(i w + u)
    keep with probability exp(-u (u + 2 i w) / 2 sigma^2), and -0 never

A candidate is proposed with exp(-(i w)^2 / 2 sigma^2) and kept with what is missing to
exp(-x^2 / 2 sigma^2). Floating point only decides when the drawn number is further than 2**-48 from
the probability; in between, exact arithmetic does, with as many more random bits as it takes.

    >>> SMUDGING_LIKE = DiscreteGaussian(sigma=Fraction(2**48), width=2**44, intervals=13 * 16)
    >>> SMUDGING_LIKE.largest == 13 * 2**48 - 1
    True
    >>> drawn = SMUDGING_LIKE.sample(5, RandomStream.from_system())
    >>> drawn.dtype, drawn.size
    (dtype('int64'), 5)

What holds, each a test in tests/privacy/test_discrete_gaussian.py:

1. No sample is larger than ``largest``, the cut.
2. The law is within a statistical distance of ``intervals`` * 2**-127 of the discrete Gaussian
   cut there: each weight of the table is off by less than 2**-127, and nothing else is rounded.
3. Where floating point cannot decide, the exact comparison decides the same for every neighbour.

The time taken depends on the samples' rejections, not on the values that are kept.

References:
    [1] Devroye, Non-Uniform Random Variate Generation, 1986, II.3 (rejection).
    [2] Karney, Sampling Exactly from the Normal Distribution, ACM TOMS 42(1), 2016, section 7.
    [3] Micciancio and Walter, Gaussian Sampling over the Integers, CRYPTO 2017, section 3 (what
    distance to the law security needs).
"""

from __future__ import annotations

import decimal
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from privacy.randomness import RandomStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TABLE_BITS: Final = 128
_DIGITS: Final = 60  # of the decimals the table is made from: 199 bits
_DOUBT: Final = 2.0**-48  # 16 times what exp of a double, its argument and the draw can be off
_WORD: Final = 64
_SIGN: Final = np.uint64(_WORD - 1)


@dataclass(frozen=True)
class DiscreteGaussian:
    """A discrete Gaussian over the integers, centred on zero and cut.

    Attributes:
        sigma: The parameter of the law above; its standard deviation, for all but tiny ones.
        width: Integers in one interval of magnitudes, a power of two.
        intervals: How many; the cut is at ``width * intervals``.
    """

    sigma: Fraction
    width: int
    intervals: int

    def __post_init__(self) -> None:
        assert self.intervals >= 2
        assert self.width & (self.width - 1) == 0
        assert 1 <= self.width * self.intervals <= 2**53, "doubles hold every magnitude"
        assert self.width * self.intervals >= self.sigma, "a cut below sigma is another law"

    @property
    def largest(self) -> int:
        """The largest magnitude that can be drawn."""
        return self.width * self.intervals - 1

    def sample(self, n: int, stream: RandomStream) -> NDArray[np.int64]:
        """Return ``(n,)`` independent integers.

        Args:
            n: How many.
            stream: Secret, wherever a secret depends on the samples.
        """
        found: list[NDArray[np.int64]] = []
        missing = n
        while missing > 0:
            kept = self._kept(missing + missing // 16 + 8, stream)
            found.append(kept[:missing])
            missing -= found[-1].size
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def _kept(self, n: int, stream: RandomStream) -> NDArray[np.int64]:
        """Return those of ``n`` candidates that are kept."""
        interval = self._intervals(stream.words(n), stream).astype(np.int64)
        place = stream.words(n)
        negative = (place >> _SIGN).astype(np.bool_)
        inside = (place & np.uint64(self.width - 1)).astype(np.int64)
        magnitude = interval * self.width + inside
        keep = ~(negative & (magnitude == 0))
        if self.width > 1:
            keep &= self._accepted(magnitude, inside, stream)
        return np.where(negative, -magnitude, magnitude)[keep]

    def _intervals(self, high: NDArray[np.uint64], stream: RandomStream) -> NDArray[np.intp]:
        """Return the interval of each draw, of which ``high`` are the 64 highest bits."""
        highest = self._highest
        found = np.searchsorted(highest, high, side="right")
        # A draw that shares its high bits with a limit lies on either side of it.
        unclear = np.flatnonzero((found > 0) & (highest[found - 1] == high))
        for at in unclear.tolist():
            low = int(stream.words(1)[0])
            found[at] = bisect_right(self._limits, int(high[at]) << _WORD | low)
        return found

    def _accepted(
        self, magnitude: NDArray[np.int64], inside: NDArray[np.int64], stream: RandomStream
    ) -> NDArray[np.bool_]:
        """Return whether each candidate is kept, with probability exp(-gap / 2 sigma^2)."""
        gap = inside.astype(np.float64) * (2 * magnitude - inside).astype(np.float64)
        wanted = np.exp(gap * float(-1 / (2 * self.sigma**2)))
        drawn = stream.words(magnitude.size)
        margin = wanted - np.multiply(drawn, 2.0**-_WORD, dtype=np.float64)
        accepted = margin > 0
        for at in np.flatnonzero(np.abs(margin) <= _DOUBT).tolist():
            exact = int(inside[at]) * (2 * int(magnitude[at]) - int(inside[at]))
            accepted[at] = self._is_below(int(drawn[at]), exact, stream)
        return accepted

    def _is_below(self, drawn: int, gap: int, stream: RandomStream) -> bool:
        """Return whether a draw that starts with 64 bits is below exp(-gap / 2 sigma^2)."""
        bits, exponent = _WORD, Fraction(gap) / (2 * self.sigma**2)
        while True:
            with decimal.localcontext(prec=_DIGITS + bits // 3):
                probability = _exp_minus(exponent) * 2**bits
                if drawn + 1 < probability - 1:
                    return True
                if drawn > probability + 1:
                    return False
            bits, drawn = bits + _WORD, drawn << _WORD | int(stream.words(1)[0])

    @cached_property
    def _limits(self) -> list[int]:
        """Where each interval but the last ends, as 128-bit integers."""
        with decimal.localcontext(prec=_DIGITS):
            step = Fraction(self.width) ** 2 / (2 * self.sigma**2)
            weights = [_exp_minus(step * i**2) for i in range(self.intervals)]
            scale = 2**_TABLE_BITS / sum(weights)
            limits, before = [], decimal.Decimal(0)
            for weight in weights[:-1]:
                before += weight
                limits.append(int(before * scale))
            return limits

    @cached_property
    def _highest(self) -> NDArray[np.uint64]:
        return np.array([limit >> _WORD for limit in self._limits], dtype=np.uint64)


def _exp_minus(exponent: Fraction) -> decimal.Decimal:
    quotient = decimal.Decimal(exponent.numerator) / decimal.Decimal(exponent.denominator)
    return (-quotient).exp()
