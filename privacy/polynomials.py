"""Arithmetic on residues mod 60-bit primes, exact and vectorised, and their bytes.

Polynomials are arrays ``(..., primes, ring_degree)`` of integers below their prime, and every
operation is entry by entry: on coefficients that is adding polynomials and multiplying them by
numbers, on evaluations (``privacy.evaluations``) it is multiplying polynomials too.

A product of two residues has 120 bits, which no integer of numpy's holds. One factor is therefore
cut into halves of 30 bits. For a half h, the quotient k = floor(a h / q) is estimated in doubles,
where it is off by one at most, since a h / q < 2**30 and four roundings err by 2**-51 of it. Then
a h - k q, computed mod 2**64, is the difference itself, as that lies between -q and 2 q.

    >>> primes = (1152921504606683137,)
    >>> a = np.array([[1152921504606683136]], dtype=np.uint64)  # -1
    >>> multiply(a, a, primes).tolist()
    [[1]]

What holds, each a property test in tests/privacy/test_polynomials.py:

1. ``multiply``, ``add`` and ``negate`` agree with Python's integers on every residue.
2. ``unpack`` returns what ``pack`` was given, and refuses bytes of another length, and residues
   that are not below their prime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from privacy.randomness import RandomStream
from privacy.residues import pack_bits, unpack_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIME_BITS_MAX: Final = 60
_HALF: Final = 30
_WORD: Final = 64


def add(a: NDArray[np.uint64], b: NDArray[np.uint64], primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return a + b mod each prime."""
    return _reduced(a + b, _column(primes))  # below 2**61


def negate(a: NDArray[np.uint64], primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return -a mod each prime."""
    return np.where(a == 0, a, _column(primes) - a)


def multiply(
    a: NDArray[np.uint64], b: NDArray[np.uint64], primes: Sequence[int]
) -> NDArray[np.uint64]:
    """Return a times b mod each prime, entry by entry.

    Args:
        a: ``(..., primes, ring_degree)``.
        b: The same, or ``(primes, 1)`` for one number for each prime.
        primes: Each of 60 bits at most.
    """
    q, whole = _column(primes), np.uint64(_HALF)
    high = _times_half(a, b >> whole, q)
    raised = _times_half(high, np.full_like(q, 2**_HALF - 1), q)  # 2**30 itself has 31 bits
    raised = _reduced(raised + high, q)
    return _reduced(raised + _times_half(a, b & np.uint64(2**_HALF - 1), q), q)


def times_small(a: NDArray[np.uint64], factor: int, primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return a times an integer below 2**30, mod each prime."""
    assert 0 <= factor < 2**_HALF
    q = _column(primes)
    return _times_half(a, np.full_like(q, factor), q)


def lift(values: NDArray[np.int64], primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return the ``(..., primes, n)`` residues of ``(..., n)`` signed integers below every prime.

    Args:
        values: Of magnitudes below each prime.
        primes: Each of 60 bits at most.
    """
    q = _column(primes).astype(np.int64)
    row = values[..., None, :]
    return np.where(row < 0, row + q, row).astype(np.uint64)


def uniform(stream: RandomStream, primes: Sequence[int], degree: int) -> NDArray[np.uint64]:
    """Return ``(primes, degree)`` residues, exactly uniform."""
    return np.stack([stream.below(prime, degree) for prime in primes])


def hashed(seed: bytes, primes: Sequence[int], degree: int) -> NDArray[np.uint64]:
    """Return ``(primes, degree)`` residues that ``seed`` names and nobody chose.

    Row i is made of the 64-bit little-endian words of SHAKE-256(seed | i), i in one byte, of which
    the highest bits count, as many as the prime has; words that are not below it are left out.
    """
    rows = [_hashed_row(seed + bytes([i]), prime, degree) for i, prime in enumerate(primes)]
    return np.stack(rows)


def packed_bytes(primes: Sequence[int], degree: int) -> int:
    """Return how many bytes one polynomial takes, all its primes together."""
    return degree * sum(prime.bit_length() for prime in primes) // 8


def pack(values: NDArray[np.uint64], primes: Sequence[int]) -> bytes:
    """Return ``(..., primes, ring_degree)`` residues as they travel, without a spare bit.

    The layout is ``privacy.residues``'s: polynomial by polynomial, prime by prime.
    """
    degree = values.shape[-1]
    rows = [
        pack_bits(np.ascontiguousarray(values[..., i, :]).reshape(-1, degree), prime.bit_length())
        for i, prime in enumerate(primes)
    ]
    return np.concatenate(rows, axis=1).tobytes()


def unpack(packed: bytes, primes: Sequence[int], degree: int) -> NDArray[np.uint64] | None:
    """Return the ``(n, primes, degree)`` residues in hostile bytes.

    Returns:
        The residues, or None where the bytes are no polynomials of these primes: who knows what
        the bytes should have been raises the error.
    """
    each = packed_bytes(primes, degree)
    if len(packed) % each:
        return None
    table = np.frombuffer(packed, dtype=np.uint8).reshape(-1, each)
    rows, start = [], 0
    for prime in primes:
        width = degree * prime.bit_length() // 8
        rows.append(unpack_bits(table[:, start : start + width], prime.bit_length()))
        start += width
    values = np.stack(rows, axis=1)
    return None if (values >= _column(primes)).any() else values


def _hashed_row(seed: bytes, prime: int, degree: int) -> NDArray[np.uint64]:
    shift = np.uint64(_WORD - prime.bit_length())
    words = degree
    while True:
        words += words // 8 + 1
        stream = np.frombuffer(hashlib.shake_256(seed).digest(8 * words), "<u8") >> shift
        kept = stream[stream < np.uint64(prime)]
        if kept.size >= degree:
            return kept[:degree].astype(np.uint64, copy=False)


def _times_half(
    a: NDArray[np.uint64], half: NDArray[np.uint64], q: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return a times ``half``, which is below 2**30, mod q."""
    quotient = (a.astype(np.float64) * (half.astype(np.float64) / q)).astype(np.uint64)
    difference = a * half - quotient * q  # mod 2**64
    difference += np.where(difference >> np.uint64(_WORD - 1), q, np.uint64(0))  # it was negative
    return _reduced(difference, q)


def _reduced(values: NDArray[np.uint64], q: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return values below 2 q mod q."""
    return np.minimum(values, values - q)  # the difference wraps to a huge number where it is less


def _column(primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return ``(primes, 1)``, to stand beside ``(primes, ring_degree)``."""
    assert max(primes).bit_length() <= PRIME_BITS_MAX
    return np.array(primes, dtype=np.uint64)[:, None]
