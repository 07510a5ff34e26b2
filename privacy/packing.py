"""Lay out quantised values in slots so that sums of ciphertexts are sums of values, and can tell.

A slot is an integer mod t. Packed into it are ``fields`` signed values v_0, v_1, ... as one signed
number, v_0 + v_1 2^f + v_2 2^2f + ..., taken mod t. Nothing marks a field as negative: a negative
field borrows from the one above it. Sums of such numbers are the packed sums, and where every
summed field stays inside f bits the fields come apart again from the lowest up, each giving back
what it borrowed. One slot of ciphertext i, the first, is a check word of value i + 1; the first
ciphertext also has a slot with the site's weight and one with the check sum of its values; unused
fields and slots are zero::

    ciphertext 0   | 1 | weight | check sum | word 0 | word 1 | ...
    ciphertext 1   | 2 | word N-3 | ...                     ... | 0 | 0 |

The check sum is c = r_0 v_0 + r_1 v_1 + ... mod t over the values v_k of the update, in its order.
The r_k are public: the k-th four bytes, little-endian, of a keystream that the parameter set's
name fixes. Check sums add up as values do, so the sum's check sum must be that of the values which
come apart. This is what finds fields that overflowed, possible from more than ``field_max //
value_max`` sites on:

- If no summed field leaves its f bits, they come apart exactly and the check sum agrees, always.
- If one does, the values that come apart are not the summed ones: they differ by e, an integer
  vector with some e_k not 0. Both are far below t/2, and t is prime, so e_k has an inverse mod t
  and the check sums agree only if r_k = -(sum of r_j e_j over j != k) / e_k mod t. Whatever the
  other r_j are, that is at most one of the 2**32 < t values of r_k. So an overflow, of one field
  or of several that cancel in a plain sum, passes with a probability of at most 2**-32, over r
  uniform and independent of the updates.

Honest updates are independent of r. A site that chooses its values knowing r can make an overflow
that passes; it gains nothing on just sending a wrong update, against which packing has no answer.

Opened under the wrong key, or after somebody changed a ciphertext without knowing what it does
to the slots, check words, check sum, unused slots and ranges are wrong except with probability
below 1/t. It is no signature: who holds the key, or adds to a ciphertext on purpose, can make a
sum that passes; the commitments to ciphertexts in the round's receipts answer for that.

What holds, each line a property test in tests/privacy/test_packing.py:

1. Exact: the unpacked sum of n packed updates mod t is the sum of the n updates, for every n whose
   extremes fit the fields, and for larger n up to ``max_sites`` it is that or it is refused.
2. The weight of the sum is the sum of the weights.
3. A sum that is opened as one of another number of sites is refused.
4. Integers from ``VALUE_LIMIT`` on are refused, and none below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from privacy.parameters import WEIGHT_MAX, ParameterSet
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.update import IntegerUpdate
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEFORE_WORDS: Final = 2
"""Weight and check sum."""
_CHUNK: Final = 2**15
"""Halves of values whose products with 32-bit factors are added in 64 bits."""
_HALF: Final = 15
"""Bits of the lower half of a value."""
VALUE_LIMIT: Final = 1 << 2 * _HALF
"""What a value stays below: both its halves then have 15 bits, and their sums fit 64."""


class ValuesTooLarge(PrivacyError):
    """A site's integers are too large to be packed and summed exactly."""

    code = "values-too-large"

    def __init__(self) -> None:
        # How large they are would tell about patients.
        super().__init__(
            f"integers of an update reach {VALUE_LIMIT}, above which check sums are not exact; "
            "train on fewer patients a round, or with a coarser grid in the study's terms"
        )


class SumCorrupt(PrivacyError):
    """An opened sum is not a sum of that many packed updates under this key.

    The sentence does not say which of the checks failed: whoever made the ciphertext may be
    asking, and each answer would tell about the key.
    """

    code = "sum-corrupt"

    def __init__(self) -> None:
        super().__init__(
            "the opened sum fails its checks: an upload was made under another key, a ciphertext "
            "was changed on the way or the values were too large for so many sites; discard the "
            "round and run it again, with fewer sites if it happens twice"
        )


@dataclass(frozen=True)
class PackedUpdate:
    """An update laid out in slots, without masks.

    Attributes:
        words: ``(ciphertexts * ring_degree,)`` integers below t.
        length: How many values they hold.
        parameters: The layout they follow.
    """

    words: NDArray[np.uint64]
    length: int
    parameters: ParameterSet


def pack(
    values: QuantisedUpdate | IntegerUpdate, weight: int, parameters: ParameterSet
) -> PackedUpdate:
    """Lay out one site's values, its weight, their check sum and the check words.

    Args:
        values: ``(length,)`` quantised to the parameter set's bits; or integers below
            ``VALUE_LIMIT``, of which only the sum has to fit: packing is linear mod t, so what
            comes of a sum that does not fit follows from the sum alone, whatever its parts were.
        weight: 1 to 2**40; the site's proven patients.
        parameters: How to pack.

    Raises:
        ValuesTooLarge: An integer is not below the limit.
    """
    assert isinstance(values, IntegerUpdate) or values.bits == parameters.value_bits
    assert 1 <= weight <= WEIGHT_MAX
    if values.values.max(initial=0) >= VALUE_LIMIT or values.values.min(initial=0) <= -VALUE_LIMIT:
        raise ValuesTooLarge
    length = values.values.size
    count = parameters.ciphertexts(length)
    slots = np.zeros((count, parameters.ring_degree), dtype=np.int64)
    words = _join_fields(values.values, parameters)
    body = np.zeros(count * (parameters.ring_degree - 1), dtype=np.int64)
    body[:_BEFORE_WORDS] = weight, _check_sum(values.values, parameters)
    body[_BEFORE_WORDS : _BEFORE_WORDS + words.size] = words
    slots[:, 0] = np.arange(1, count + 1)
    slots[:, 1:] = body.reshape(count, -1)
    slots %= parameters.plain_modulus
    return PackedUpdate(slots.reshape(-1).astype(np.uint64), length, parameters)


def unpack(
    words: NDArray[np.uint64], length: int, n_sites: int, parameters: ParameterSet
) -> tuple[NDArray[np.int64], int]:
    """Return the summed values and the summed weight of an opened sum.

    Args:
        words: ``(ciphertexts * ring_degree,)`` slots of the sum, masks removed.
        length: How many values each update holds.
        n_sites: How many updates were added.
        parameters: How they were packed.

    Returns:
        ``(length,)`` sums of values, and the sum of weights.

    Raises:
        TooManySites: More sites than fields have room for.
        SumCorrupt: This is no sum of ``n_sites`` updates of this length, or a field overflowed.
    """
    parameters.check_sites(n_sites)
    count = parameters.ciphertexts(length)
    if words.size != count * parameters.ring_degree or bool(
        (words >= np.uint64(parameters.plain_modulus)).any()
    ):
        raise SumCorrupt
    slots = words.astype(np.int64).reshape(count, parameters.ring_degree)
    body = slots[:, 1:].reshape(-1)
    used = _BEFORE_WORDS + -(-length // parameters.fields)
    weight, check_sum = map(int, body[:_BEFORE_WORDS])
    sums, intact = _split_fields(body[_BEFORE_WORDS:used], parameters)
    intact &= check_sum == _check_sum(sums[:length], parameters)
    intact &= np.array_equal(slots[:, 0], n_sites * np.arange(1, count + 1))
    intact &= not body[used:].any()
    intact &= not sums[length:].any()
    intact &= int(np.abs(sums).max()) <= n_sites * parameters.value_max
    intact &= n_sites <= weight <= n_sites * WEIGHT_MAX
    if not intact:
        raise SumCorrupt
    return sums[:length], weight


def _check_sum(values: NDArray[np.integer[Any]], parameters: ParameterSet) -> int:
    """Return the sum of ``(length,)`` values, each times its public factor, mod t."""
    stream = RandomStream.from_seed(0, "packing", "check sum", parameters.name)
    total = 0
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK].astype(np.int64)
        factors = np.frombuffer(stream.bytes(4 * chunk.size), dtype="<u4").astype(np.int64)
        low = chunk & ((1 << _HALF) - 1)
        total += int(low @ factors) + (int((chunk >> _HALF) @ factors) << _HALF)
    return total % parameters.plain_modulus


def _join_fields(values: NDArray[np.integer[Any]], parameters: ParameterSet) -> NDArray[np.int64]:
    """Return ``(words,)`` signed words; field i of word j is value ``i * words + j``."""
    words = -(-values.size // parameters.fields)
    padded = np.zeros(parameters.fields * words, dtype=np.int64)
    padded[: values.size] = values
    rows = padded.reshape(parameters.fields, words)
    joined = rows[-1].copy()
    for row in rows[-2::-1]:
        joined <<= parameters.field_bits
        joined += row
    return joined


def _split_fields(
    words: NDArray[np.int64], parameters: ParameterSet
) -> tuple[NDArray[np.int64], bool]:
    """Return ``(fields * words,)`` signed fields of residues, and whether nothing is left over."""
    modulus, half = parameters.plain_modulus, 1 << (parameters.field_bits - 1)
    rest = np.where(words > modulus // 2, words - modulus, words)
    fields = np.empty((parameters.fields, words.size), dtype=np.int64)
    for i in range(parameters.fields):
        fields[i] = ((rest + half) & (2 * half - 1)) - half  # rest mod 2^f, centred on zero
        rest = (rest - fields[i]) >> parameters.field_bits  # exact, as that was subtracted
    return fields.reshape(-1), not rest.any()
