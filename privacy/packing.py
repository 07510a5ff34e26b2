"""Lay out quantised values in slots so that sums of ciphertexts are sums of values, and can tell.

A slot is an integer mod t. Packed into it are ``fields`` signed values v_0, v_1, ... as one signed
number, v_0 + v_1 2^f + v_2 2^2f + ..., taken mod t. Nothing marks a field as negative: a negative
field borrows from the one above it. Sums of such numbers are the packed sums, and as every summed
field stays inside f bits the fields come apart again from the lowest up, each giving back what it
borrowed. One slot of ciphertext i, the first, is a check word of value i + 1; one slot of the
first ciphertext is the site's weight; unused fields and slots are zero::

    ciphertext 0   | 1 | weight | word 0    | word 1    | ...
    ciphertext 1   | 2 | word N-2 | ...               ... | 0 | 0 |

Opened under the wrong key, or after somebody changed a ciphertext without knowing what it does
to the slots, check words, unused slots and ranges are wrong except with probability about 1/t.
It is no signature: who holds the key, or adds to a ciphertext on purpose, can make a sum that
passes; the commitments to ciphertexts in the round's receipts answer for that.

What holds, each line a property test in tests/privacy/test_packing.py:

1. Exact: the unpacked sum of n packed updates mod t is the sum of the n updates, for n <= max.
2. The weight of the sum is the sum of the weights.
3. A sum that is opened as one of another number of sites is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privacy.parameters import WEIGHT_MAX, ParameterSet
from privacy.quantisation import QuantisedUpdate
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SumCorrupt(PrivacyError):
    """An opened sum is not a sum of that many packed updates under this key.

    The sentence does not say which of the checks failed: whoever made the ciphertext may be
    asking, and each answer would tell about the key.
    """

    code = "sum-corrupt"

    def __init__(self) -> None:
        super().__init__(
            "the opened sum fails its check words: an upload was made under another key or a "
            "ciphertext was changed on the way; discard the round and run it again"
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


def pack(values: QuantisedUpdate, weight: int, parameters: ParameterSet) -> PackedUpdate:
    """Lay out one site's values, its weight and the check words.

    Args:
        values: ``(length,)`` quantised to the parameter set's bits.
        weight: 1 to 2**40; the site's proven patients.
        parameters: How to pack.
    """
    assert values.bits == parameters.value_bits
    assert 1 <= weight <= WEIGHT_MAX
    length = values.values.size
    count = parameters.ciphertexts(length)
    slots = np.zeros((count, parameters.ring_degree), dtype=np.int64)
    words = _join_fields(values.values, parameters)
    body = np.zeros(count * (parameters.ring_degree - 1), dtype=np.int64)
    body[0] = weight
    body[1 : 1 + words.size] = words
    slots[:, 0] = np.arange(1, count + 1)
    slots[:, 1:] = body.reshape(count, -1)
    slots[slots < 0] += parameters.plain_modulus
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
        SumCorrupt: This is no sum of ``n_sites`` updates of this length.
    """
    parameters.check_sites(n_sites)
    count = parameters.ciphertexts(length)
    if words.size != count * parameters.ring_degree or bool(
        (words >= np.uint64(parameters.plain_modulus)).any()
    ):
        raise SumCorrupt
    slots = words.astype(np.int64).reshape(count, parameters.ring_degree)
    body = slots[:, 1:].reshape(-1)
    used = 1 + -(-length // parameters.fields)
    weight = int(body[0])
    sums, intact = _split_fields(body[1:used], parameters)
    intact &= np.array_equal(slots[:, 0], n_sites * np.arange(1, count + 1))
    intact &= not body[used:].any()
    intact &= not sums[length:].any()
    intact &= int(np.abs(sums).max()) <= n_sites * parameters.value_max
    intact &= n_sites <= weight <= n_sites * WEIGHT_MAX
    if not intact:
        raise SumCorrupt
    return sums[:length], weight


def _join_fields(values: NDArray[np.int16], parameters: ParameterSet) -> NDArray[np.int64]:
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
