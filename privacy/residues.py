"""The bytes of encrypted updates and sums: integers mod each prime, packed without a spare bit.

A ciphertext is two polynomials whose N coefficients are integers mod q. The second polynomial of
an upload is drawn from a seed of 64 bytes, so its owner sends the seed instead; a sum carries the
sum of the first polynomials and every contributor's seeds, and its reader draws and adds the second
ones. No sender can therefore choose a second polynomial, which is where crafted ciphertexts put
what makes decryption give up the key. Under a public key no seed exists: both polynomials travel::

    header     "BHC1" | kind | ring degree | primes | polynomials | ciphertexts | contributors
    seeds      64 bytes for each ciphertext of the first contributor, then of the second, ...
    residues   ciphertext by ciphertext, polynomial by polynomial, prime by prime: N residues

Numbers of the header are big-endian, of 1, 4, 1, 1, 4 and 2 bytes. Residue k of a polynomial mod a
prime of b bits stands in bits b k to b (k + 1) - 1, bit 0 being the lowest of the first byte.

    >>> pack_bits(np.array([[1, 2, 3, 4] * 4], dtype=np.uint64), bits=60)[0, :8].tobytes().hex()
    '0100000000000020'

What holds, each line a property test in tests/privacy/test_residues.py:

1. ``read`` returns what ``write`` was given, and every other byte string is refused: there is one
   way to write a ciphertext. Nothing larger than the bytes given is allocated before they are
   known to have exactly the length that the parameter set, the values and the sites need.
2. Every residue is below its prime.
3. Residues that honest parties made are uniform to whoever has no key, so no compression takes
   them below their size; rows that Zstandard makes smaller were crafted, and are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard

from privacy.parameters import ParameterSet
from privacy.wire import MalformedCiphertext

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC: Final = b"BHC1"
SEED_BYTES: Final = 64
_HEADER: Final = struct.Struct(">4sBIBBIH")
_BLOCK: Final = 2**16  # residues packed at a time: what a core's cache holds
_WORD: Final = 64


class Kind(IntEnum):
    """What the bytes are."""

    UPLOAD_SEEDED = 1
    SUM_SEEDED = 2
    UPLOAD_FULL = 3
    SUM_FULL = 4

    @classmethod
    def of(cls, parameters: ParameterSet, *, summed: bool) -> Kind:
        """Return the kind of a sum or an upload of this parameter set."""
        if parameters.seeded:
            return cls.SUM_SEEDED if summed else cls.UPLOAD_SEEDED
        return cls.SUM_FULL if summed else cls.UPLOAD_FULL


@dataclass(frozen=True)
class Residues:
    """Ciphertexts as they travel.

    Attributes:
        values: ``(ciphertexts, polynomials, primes, ring_degree)``; one polynomial where seeds
            stand for the second.
        seeds: Each contributor's, ``64 * ciphertexts`` bytes; none where both polynomials are.
    """

    values: NDArray[np.uint64]
    seeds: tuple[bytes, ...] = ()


def size(ciphertexts: int, contributors: int, parameters: ParameterSet) -> int:
    """Return how many bytes so many ciphertexts take, header included."""
    seeds = SEED_BYTES * contributors if parameters.seeded else 0
    polynomials = 1 if parameters.seeded else 2
    return _HEADER.size + ciphertexts * (seeds + polynomials * polynomial_bytes(parameters))


def polynomial_bytes(parameters: ParameterSet) -> int:
    """Return how many bytes one polynomial takes, all its primes together."""
    bits = sum(prime.bit_length() for prime in parameters.data_modulus)
    return parameters.ring_degree * bits // 8


def write(
    kind: Kind,
    seeds: Sequence[bytes],
    packed: bytes,
    parameters: ParameterSet,
    *,
    contributors: int = 1,
) -> bytes:
    """Return the bytes of ciphertexts.

    Args:
        kind: What they are.
        seeds: As in ``Residues``.
        packed: What ``pack`` returned, for one ciphertext after another.
        parameters: Theirs.
        contributors: How many updates were added.
    """
    polynomials = 1 if parameters.seeded else 2
    ciphertexts, rest = divmod(len(packed), polynomials * polynomial_bytes(parameters))
    assert rest == 0
    header = _header(kind, ciphertexts, contributors, parameters)
    blob = b"".join([header, *seeds, packed])
    assert len(blob) == size(ciphertexts, contributors, parameters)
    return blob


def read(
    blob: bytes, kind: Kind, length: int, parameters: ParameterSet, *, contributors: int = 1
) -> Residues:
    """Return the ciphertexts in hostile bytes.

    Args:
        blob: An upload or a sum.
        kind: What it must be.
        length: How many values it must hold.
        parameters: Those it must follow.
        contributors: How many updates it must be the sum of.

    Raises:
        MalformedCiphertext: It is not what ``write`` writes for these, a residue is not below its
            prime, or a row of residues is not random.
    """
    ciphertexts = parameters.ciphertexts(length) if length >= 1 else 0
    fits = ciphertexts < 2**32 and 1 <= contributors < 2**16
    if not (ciphertexts and fits and len(blob) == size(ciphertexts, contributors, parameters)):
        raise MalformedCiphertext("it has not the size that its length and its sites need")
    if blob[: _HEADER.size] != _header(kind, ciphertexts, contributors, parameters):
        raise MalformedCiphertext("its header is not that of this study's updates or sums")
    each = SEED_BYTES * ciphertexts if parameters.seeded else 0
    start = _HEADER.size
    seeds = tuple(blob[start + i * each :][:each] for i in range(contributors)) if each else ()
    packed = memoryview(blob)[start + each * contributors :]
    _check_random(packed, polynomial_bytes(parameters))
    values = unpack(packed, parameters)
    if (values >= _primes(parameters)).any():
        raise MalformedCiphertext("one of its residues is not below its prime")
    return Residues(values, seeds)


def pack(values: NDArray[np.uint64], parameters: ParameterSet) -> bytes:
    """Return residues as they travel; of consecutive ciphertexts, the bytes can be joined.

    Args:
        values: ``(ciphertexts, polynomials, primes, ring_degree)``, each below its prime.
        parameters: Theirs.
    """
    assert (values < _primes(parameters)).all()
    rows = [
        pack_bits(values[:, :, i, :].reshape(-1, parameters.ring_degree), prime.bit_length())
        for i, prime in enumerate(parameters.data_modulus)
    ]
    return (rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)).tobytes()


def unpack(packed: bytes | memoryview, parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return ``(ciphertexts, polynomials, primes, ring_degree)`` residues that were packed.

    They may not be below their primes; ``read`` looks.
    """
    degree, polynomials = parameters.ring_degree, 1 if parameters.seeded else 2
    table = np.frombuffer(packed, dtype=np.uint8).reshape(-1, polynomial_bytes(parameters))
    primes, start = [], 0
    for prime in parameters.data_modulus:
        width = degree * prime.bit_length() // 8
        rows = unpack_bits(table[:, start : start + width], prime.bit_length())
        primes.append(rows.reshape(-1, polynomials, 1, degree))
        start += width
    return primes[0] if len(primes) == 1 else np.concatenate(primes, axis=2)


def add(total: NDArray[np.uint64], values: NDArray[np.uint64], parameters: ParameterSet) -> None:
    """Add ``values`` to ``total`` in place, each mod its prime."""
    primes = _primes(parameters)
    for sums, added in zip(total, values, strict=True):  # a row at a time: what a cache holds
        np.add(sums, added, out=sums)  # below 2**61
        np.minimum(sums, sums - primes, out=sums)  # what falls below 0 wraps to the top


def pack_bits(rows: NDArray[np.uint64], bits: int) -> NDArray[np.uint8]:
    """Return ``(n, width * bits / 8)`` bytes that hold ``(n, width)`` numbers of ``bits`` bits."""
    period, words = _period(bits)
    assert rows.shape[1] % period == 0
    groups = rows.reshape(-1, period)
    packed = np.empty((groups.shape[0], words), dtype="<u8")
    for block in _blocks(groups.shape[0], period):
        source, target = groups[block].T.copy(), np.zeros((words, groups[block].shape[0]), "<u8")
        for k in range(period):
            word, shift = divmod(k * bits, _WORD)
            target[word] |= source[k] << np.uint64(shift)
            if shift + bits > _WORD:
                target[word + 1] |= source[k] >> np.uint64(_WORD - shift)
        packed[block] = target.T
    return packed.view(np.uint8).reshape(rows.shape[0], -1)


def unpack_bits(table: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Return the ``(n, width)`` numbers that ``pack_bits`` packed."""
    period, words = _period(bits)
    packed = np.ascontiguousarray(table).reshape(-1, 8 * words).view("<u8")
    groups = np.empty((packed.shape[0], period), dtype=np.uint64)
    mask = np.uint64(2**bits - 1)
    for block in _blocks(groups.shape[0], period):
        source, target = packed[block].T.copy(), np.empty((period, packed[block].shape[0]), "<u8")
        for k in range(period):
            word, shift = divmod(k * bits, _WORD)
            np.right_shift(source[word], np.uint64(shift), out=target[k])
            if shift + bits > _WORD:
                target[k] |= source[word + 1] << np.uint64(_WORD - shift)
        target &= mask
        groups[block] = target.T
    return groups.reshape(table.shape[0], -1)


def _period(bits: int) -> tuple[int, int]:
    """Return after how many numbers, and words of 64 bits, the pattern of bits repeats."""
    common = math.gcd(bits, _WORD)
    return _WORD // common, bits // common


def _blocks(groups: int, period: int) -> list[slice]:
    step = max(1, _BLOCK // period)
    return [slice(start, start + step) for start in range(0, groups, step)]


def _primes(parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return ``(primes, 1)``, to stand beside ``(primes, ring_degree)`` residues."""
    return np.array(parameters.data_modulus, dtype=np.uint64)[:, None]


def _header(kind: Kind, ciphertexts: int, contributors: int, parameters: ParameterSet) -> bytes:
    polynomials = 1 if parameters.seeded else 2
    degree, primes = parameters.ring_degree, len(parameters.data_modulus)
    return _HEADER.pack(MAGIC, kind, degree, primes, polynomials, ciphertexts, contributors)


def _check_random(packed: memoryview, row: int) -> None:
    """Refuse a row of residues that compresses below the entropy of uniform ones."""
    compressor = zstandard.ZstdCompressor(level=1)
    for start in range(0, len(packed), row):
        if len(compressor.compress(packed[start : start + row])) < row:
            raise MalformedCiphertext("one of its polynomials is not random and was crafted")
