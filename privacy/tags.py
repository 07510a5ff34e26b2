"""Check that a sum is the sum of the uploads that were committed to, without having the uploads.

An upload is a vector of residues, and a sum is the sum of those vectors; so for any vector rho the
inner products add up as the vectors do [1][2]::

    tag of upload i    tau_i = <rho, ct_i> mod q_l                for each prime q_l and each rho
    the check          tau_1 + ... + tau_n = <rho, sum> mod q_l   for all of them

There are two vectors rho. Each is uniform and follows from a challenge that nobody knew when the
uploads and the sum were committed to: the hash of that commitment with a fresh nonce of every
hospital that endorsed it, a quorum or more (``privacy.commitment``). Every hospital sends the tag
of its own upload; the second polynomial of a seeded ciphertext is expanded and tagged like the
first, so a changed seed shows as well.

Soundness. Let the sum differ from the sum of the uploads in a residue mod q_l. The difference d is
a fixed vector with an entry that is not 0, hence invertible; of all values of rho's entry there,
exactly one makes <rho, d> what the claimed tags need. The check passes with probability at most
1/q_l^2, below 2^-118, whatever was altered, dropped or added twice. One vector, with 2^-59, would
not do: the server picks which endorsements it shows, and whoever endorses last picks a nonce, so
challenges can be tried until one passes. A single honest nonce suffices for rho to be unknown
when the sum is committed to; as tags are sent after the challenge, a hospital that lies about
its own tag can make a false sum pass, but only by deciding what was altered, hence together with
the server: that moves the sum by a vector of their choice, which the hospital could have uploaded
in the first place. A lie alone makes a true sum fail; ``blame`` finds out who told it.

What holds, each a test in tests/privacy/test_tags.py:

1. Tags of honest uploads pass; one altered word, one dropped or doubled upload does not.
2. A tag is the inner product, as Python's integers compute it.
3. A check raises or returns None. Another seed gives unrelated tags.

References:
    [1] Freivalds, Probabilistic Machines Can Use Less Running Time, IFIP 1977.
    [2] Carter and Wegman, Universal Classes of Hash Functions, JCSS 1979.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.bfv import (
    EncryptedSum,
    EncryptedUpdate,
    ServerContext,
    sum_residues,
    sum_rows,
    update_residues,
)
from privacy.parameters import ParameterSet
from privacy.randomness import KEY_BYTES, RandomStream
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED_BYTES: Final = 32
VECTORS: Final = 2
"""Independent vectors of coefficients: what a search for a fitting challenge has to beat."""
_LABEL: Final = b"bithive tag\n"
_LIMB_BITS: Final = 20
_LIMBS: Final = 3  # primes have at most 60 bits
_TERMS: Final = 4096  # products of two limbs that a float64 adds up exactly: 2**12 * 2**40 < 2**53
_BATCH: Final = 64 * _TERMS  # residues taken apart at a time: what a core's cache holds


class SumAltered(PrivacyError):
    """A sum is not the sum of the uploads it was committed to with, or a tag is false."""

    code = "sum-altered"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the sum is refused before decryption: {why}; compare the stored uploads with their "
            "receipts to find out who changed what, and run the round again"
        )


def tag(update: EncryptedUpdate, seed: bytes, parameters: ParameterSet) -> tuple[int, ...]:
    """Return the tag of an upload: for each vector, one number below each prime.

    Args:
        update: The upload; hostile where it is another site's.
        seed: 32 bytes; the challenge.
        parameters: The study's.

    Raises:
        ForeignParameters: It follows another parameter set.
        MalformedCiphertext: It is broken.
    """
    return tag_residues(update_residues(update, parameters), seed, parameters)


def check_tags(
    total: EncryptedSum,
    tags: Sequence[tuple[int, ...]],
    seed: bytes,
    parameters: ParameterSet,
    *,
    expand: bool = True,
) -> None:
    """Return if the tags are those of uploads that add up to ``total``.

    Args:
        total: From the server; hostile.
        tags: One from each site in the sum, in any order; hostile.
        seed: 32 bytes; the challenge.
        parameters: The study's.
        expand: Keep what the sum's seeds expand to, for whoever decrypts it next; else it is
            drawn and forgotten a few ciphertexts at a time, in little memory.

    Raises:
        ForeignParameters: The sum follows another parameter set.
        TooManySites: It claims more sites than fields have room for.
        MalformedCiphertext: It is broken or crafted.
        SumAltered: They do not add up, or are not as many as sites in the sum.
    """
    if len(tags) != total.sites:
        raise SumAltered(f"{len(tags)} tags came for {total.sites} uploads")
    primes = parameters.data_modulus * VECTORS
    for one in tags:
        fits = len(one) == len(primes)
        if not fits or not all(0 <= part < q for part, q in zip(one, primes, strict=True)):
            raise SumAltered("a tag is no number below each prime")
    if expand:
        expected = tag_residues(sum_residues(total, parameters), seed, parameters)
    else:
        expected = tag_rows(sum_rows(total, parameters), seed, parameters)
    columns = zip(*tags, strict=True)
    found = tuple(sum(column) % q for column, q in zip(columns, primes, strict=True))
    if found != expected:
        raise SumAltered("the tags of the uploads do not add up to its own")


def readd(
    updates: Sequence[EncryptedUpdate], total: EncryptedSum, parameters: ParameterSet
) -> None:
    """Return if ``total`` is the sum of ``updates``, byte for byte, as an auditor repeats it.

    Args:
        updates: The stored uploads, in the order they were added.
        total: What the server announced.
        parameters: The study's.

    Raises:
        TooManySites, ForeignKeyCiphertext, ForeignParameters, MalformedCiphertext: The uploads
            cannot be added.
        SumAltered: Their sum is another.
    """
    if ServerContext(parameters).add(updates, key_id=total.key_id) != total:
        raise SumAltered("adding the uploads again gives another one")


def tag_residues(
    values: NDArray[np.uint64], seed: bytes, parameters: ParameterSet
) -> tuple[int, ...]:
    """Return the inner products of residues with the vectors that ``seed`` names.

    Args:
        values: ``(ciphertexts, polynomials, primes, ring_degree)``.
        seed: 32 bytes.
        parameters: Theirs.
    """
    return tag_rows([values], seed, parameters)


def tag_rows(
    rows: Iterable[NDArray[np.uint64]], seed: bytes, parameters: ParameterSet
) -> tuple[int, ...]:
    """Return ``tag_residues`` of consecutive ciphertexts, of which a few are given at a time."""
    assert len(seed) == SEED_BYTES
    primes = [(i, prime) for _ in range(VECTORS) for i, prime in enumerate(parameters.data_modulus)]
    vectors = [
        Coefficients(seed, prime, vector)
        for vector in range(VECTORS)
        for prime in parameters.data_modulus
    ]
    totals = [0] * len(primes)
    for values in rows:
        for k, (i, prime) in enumerate(primes):
            totals[k] += _inner_product(values[:, :, i, :].reshape(-1), vectors[k], prime)
    return tuple(total % prime for total, (_, prime) in zip(totals, primes, strict=True))


class Coefficients:
    """A vector that a seed names, uniform below a prime, read from the front.

    A keystream is keyed by HKDF-SHA256 of the seed, bound to the prime and the vector's number.
    The entries are its words, cut to their highest bits, as many as the prime has, in order; those
    that are not below the prime are left out.
    """

    def __init__(self, seed: bytes, prime: int, vector: int) -> None:
        info = _LABEL + prime.to_bytes(8, "big") + bytes([vector])
        key = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(seed)
        self._stream = RandomStream(key, secret=False)
        self._prime = prime

    def next(self, n: int) -> NDArray[np.uint64]:
        """Return the next ``(n,)`` entries."""
        found = self._words(n)
        while (kept := found[found < np.uint64(self._prime)]).size < n:
            found = np.concatenate([kept, self._words(n - kept.size)])
        return kept

    def _words(self, n: int) -> NDArray[np.uint64]:
        return self._stream.words(n) >> np.uint64(64 - self._prime.bit_length())


def _inner_product(values: NDArray[np.uint64], vector: Coefficients, prime: int) -> int:
    """Return the sum of products mod ``prime``, exactly.

    Numbers are taken apart into limbs of 20 bits; sums of 4096 products of limbs are integers
    below 2**52, which float64 and hence BLAS add up without rounding, in any order.
    """
    total = 0
    for start in range(0, values.size, _BATCH):
        batch = values[start : start + _BATCH]
        left, right = _limbs(batch), _limbs(vector.next(batch.size))
        for i, j in itertools.product(range(_LIMBS), repeat=2):
            products = np.vecdot(left[i], right[j])  # (blocks,)
            total += int(products.astype(np.int64).sum()) << (_LIMB_BITS * (i + j))
    return total % prime


def _limbs(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return ``(limbs, blocks, 4096)``, the lowest limbs first, filled up with zeros."""
    blocks = -(-numbers.size // _TERMS)
    limbs = np.zeros((_LIMBS, blocks * _TERMS))
    rest = numbers.view(np.int64)  # below 2**60
    for limb in limbs:
        limb[: numbers.size] = rest & (2**_LIMB_BITS - 1)
        rest = rest >> _LIMB_BITS
    return limbs.reshape(_LIMBS, blocks, _TERMS)
