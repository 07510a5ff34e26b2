"""Round a noised update to small signed integers, at random, so that rounding has no bias.

A value x becomes floor(x / step + u) with u uniform over [0, 1): the integer below x / step or the
one above, each as likely as x is near to it [1]. Sums over sites therefore have the right mean.
Step sizes are public and the same at all sites, else a sum of integers is no sum of updates.

    >>> stream = RandomStream.from_seed(1)
    >>> noised = NoisedUpdate(np.array([0.5, -0.25, 9.0], dtype=np.float32))
    >>> quantise(noised, 0.25, 4, stream)
    QuantisedUpdate(values=array([ 2, -1,  7], dtype=int16), bits=4, saturated=1)

What holds, each line a property test in tests/privacy/test_quantisation.py:

1. Unbiased: the expectation of ``values * step`` is the update, where nothing saturates.
2. Near: every value that does not saturate is less than one step off.
3. In range: magnitudes are at most 2**(bits - 1) - 1, and every value cut to that is counted.

References:
    [1] Alistarh et al., QSGD, NeurIPS 2017, section 3.1 (stochastic quantisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from privacy.randomness import RandomStream
from privacy.update import NoisedUpdate
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS_MAX: Final = 24
"""Doubles hold a value of so many bits, and what is missing to it, without rounding."""
_SHORT_BITS: Final = 16


class NonFiniteUpdate(PrivacyError):
    """An update holds a NaN or an infinity."""

    code = "update-non-finite"

    def __init__(self, entries: int) -> None:
        self.entries = entries
        super().__init__(
            f"training diverged: {entries} entries of the update are not finite, so nothing is "
            "sent; lower the learning rate"
        )


class StepsUnusable(PrivacyError):
    """A step size is zero, negative, not finite, or there are not as many as values."""

    code = "steps-unusable"

    def __init__(self) -> None:
        super().__init__(
            "the round's step sizes cannot be used: each must be finite and positive, one for "
            "every parameter; ask the server for a correct plan"
        )


@dataclass(frozen=True)
class QuantisedUpdate:
    """An update in integers; times the step sizes it is the update again.

    Attributes:
        values: ``(parameters,)`` integers of magnitude at most 2**(bits - 1) - 1.
        bits: Bits of one value, sign included.
        saturated: How many values were beyond that and were cut.
    """

    values: NDArray[np.int16] | NDArray[np.int32]
    bits: int
    saturated: int


def quantise(
    update: NoisedUpdate,
    steps: NDArray[np.float64] | float,
    bits: int = 8,
    stream: RandomStream | None = None,
) -> QuantisedUpdate:
    """Round ``update`` to multiples of ``steps``, up or down at random.

    Args:
        update: ``(parameters,)`` noised values; no other kind of update is taken.
        steps: ``(parameters,)`` or one for all; positive, in the units of the weights.
        bits: 2 to 24; bits of one value, sign included.
        stream: Where the rounding draws from; the operating system's when not given.

    Raises:
        NonFiniteUpdate: A value is NaN or infinite.
        StepsUnusable: A step size is not positive and finite, or their number is wrong.
    """
    assert 2 <= bits <= BITS_MAX
    stream = stream if stream is not None else RandomStream.from_system()
    finite = np.isfinite(update.vector)
    if not finite.all():
        raise NonFiniteUpdate(int(np.count_nonzero(~finite)))
    scale = np.asarray(steps, dtype=np.float64)
    usable = scale.ndim == 0 or scale.shape == update.vector.shape
    if not (usable and np.isfinite(scale).all() and (scale > 0).all()):
        raise StepsUnusable

    limit = 2 ** (bits - 1) - 1
    with np.errstate(over="ignore"):  # beyond any float is beyond the limit, and saturates
        scaled: NDArray[np.float64] = update.vector / scale
    # A value on the grid stays there for every u; one just above the limit may still round to it.
    rounded = np.floor(scaled + stream.uniform(scaled.size))
    clipped = np.clip(rounded, -limit, limit)
    saturated = int(np.count_nonzero(rounded != clipped))
    short = bits <= _SHORT_BITS
    kept = clipped.astype(np.int16) if short else clipped.astype(np.int32)
    return QuantisedUpdate(kept, bits, saturated)


def dequantise(
    integers: NDArray[np.int64], steps: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the sum of updates that a sum of quantised values stands for.

    Args:
        integers: ``(parameters,)`` one site's values or any sum of them.
        steps: ``(parameters,)`` or one for all; those the values were quantised by.

    Returns:
        ``(parameters,)`` in the units of the weights.
    """
    return np.multiply(integers, steps, dtype=np.float64)
