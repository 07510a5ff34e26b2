"""Encrypt under a key that nobody holds, and decrypt a sum by a quorum of those who share it.

The key is made by ``privacy.key_generation``; (b, a) is public and encryption is BFV's own. To
decrypt a sum (c_0, c_1), every holder j of the quorum A multiplies c_1 by its share S_j of the
secret and by its weight l_j for this quorum, adds noise, and sends the result [1, 2]::

    MaskedUpdate ── encrypt ─▶ EncryptedUpdate ── ServerContext.add ─▶ EncryptedSum
     hospital       public key                       no key
    partial    h_j = c_1 l_j S_j + e_j    mod each prime, e_j of deviation 2**48
    combine    c_0 + the sum of the h_j = c_0 + c_1 s + the sum of the e_j, rounded to slots

A decryption share travels like this, numbers big-endian, h_j packed as in ``polynomials``::

    "BHP1" | holder (1) | A, bit i for holder i (8) | ciphertexts (4) | SHA-256 of sum (32) | h_j

What holds, each a test in tests/privacy/test_threshold.py:

1. The opened sum is the sum mod t, slot for slot, for any quorum of up to 64 holders and any
   number of uploads up to ``max_sites``.
2. Fewer than ``threshold`` shares give noise, unrelated to the sum; ``packing.unpack`` refuses it.
3. A decryption share is for one sum and one quorum, and is refused with any other.
4. Asked again for the same sum and quorum, a holder gives the same bytes; every other sum and
   quorum gets noise of its own.
5. Hostile bytes end in a typed error, and there is one way to write a decryption share.

What the noise hides. Whoever combines sees the sum of the h_j exactly, and so the noise e of the
ciphertexts, which depends on the secret and on everybody's encryptions; the e_j cover it. With a
special prime, an upload's noise is all but the rounding of two polynomials, one of them times s:
coefficients of a variance of about N n / 18 with n holders, so that the sum of m uploads has a
deviation of sqrt(m n N / 18): 2**7.7 for 10 uploads and holders, 2**10.4 for 64 of each. One e_j of
deviation 2**48 from an honest holder is 2**40 and 2**37 times that. Over all K coefficients of an
opening, shifting discrete Gaussians by e gives a Kullback-Leibler divergence of about
K m n N / (36 * 2**96): at a million parameters, K = 2**18, 2**-63 and 2**-58; at 11.2 million, 3.5
bits more. Divergences of T answers add up. So by [3] a search for the secret is as hard as without
the shares until T is about 2**58, and by Pinsker's inequality one opening is told from one that
hides e entirely with an advantage below 2**-32 and 2**-29. Were the noise drawn afresh each time,
who asks for one h_j over and over could average it away; so its keystream is derived from S_j, c_1
and A [4], all that h_j depends on.

What it leaves room for: a sum is opened correctly while its noise stays below q / 2t = 2**62. The
largest is 64 quorum members times the cut of 13 deviations, 2**57.8, plus the ciphertexts' own.

What does not hold. A holder multiplies its share by whatever c_1 it is given; a crafted one (a
constant, say) would make the h_j of a quorum add up to the secret. So a hospital answers only after
the sum has passed its random-linear check against the committed uploads (``privacy.tags``), for one
sum in a round. And a wrong h_j is not told from a right one: the sum then opens to noise, which
``packing.unpack`` refuses, and opening with another quorum finds out whose it was.

References:
    [1] Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux, Multiparty Homomorphic Encryption from
    Ring-Learning-With-Errors, PoPETs 2021(4), protocol 3. ePrint 2020/304.
    [2] Mouchet, Bertrand and Hubaux, Journal of Cryptology 36, 2023, section 3.
    [3] Micciancio and Walter, On the Bit Security of Cryptographic Primitives, EUROCRYPT 2018;
    Li, Micciancio, Schultz and Sorrell, Securing Approximate Homomorphic Encryption using
    Differential Privacy, CRYPTO 2022, section 4.
    [4] HKDF-SHA256, RFC 5869; the keystream is AES-256-CTR (``privacy.randomness``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tenseal import sealapi

from privacy import evaluations, polynomial_sharing, polynomials, residues
from privacy.bfv import (
    EncryptedSum,
    EncryptedUpdate,
    ForeignKeyCiphertext,
    ForeignParameters,
    sum_residues,
)
from privacy.discrete_gaussian import DiscreteGaussian
from privacy.key_generation import HOLDERS_MAX, CollectiveKey, KeyShare
from privacy.masks import MaskedUpdate
from privacy.parameters import ParameterSet
from privacy.randomness import KEY_BYTES, RandomStream
from privacy.residues import Kind
from privacy.ring import Ring, ring
from privacy.sharing import QuorumMissing
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMUDGING: Final = DiscreteGaussian(sigma=Fraction(2**48), width=2**44, intervals=13 * 16)
"""The law of the noise in a decryption share: deviation 2**48, cut at 13 deviations."""
_HEADER: Final = struct.Struct(">4sBQI32s")
_MAGIC: Final = b"BHP1"
_LABEL: Final = b"bithive opened sum v1\n"
_NOISE_LABEL: Final = b"bithive smudging noise v1\n"


class QuorumInvalid(PrivacyError):
    """A quorum names a holder twice, one that there is not, or not the one that is asked."""

    code = "quorum-invalid"

    def __init__(self, quorum: Sequence[int], why: str) -> None:
        self.quorum = tuple(quorum)
        super().__init__(
            f"the quorum {list(quorum)} cannot open a sum: {why}; name each holder once, by its "
            "place in the key's cohort"
        )


class DecryptionShareMalformed(PrivacyError):
    """Bytes that should be a share of a decryption are not."""

    code = "decryption-share-malformed"

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(
            f"the decryption share of holder {index} is none of this study's; ask its site for it "
            "again, or open with another quorum"
        )


class DecryptionShareForeign(PrivacyError):
    """A decryption share was made for another sum, or for another quorum."""

    code = "decryption-share-foreign"

    def __init__(self, index: int, what: str) -> None:
        self.index = index
        self.what = what
        super().__init__(
            f"the decryption share of holder {index} is for another {what}; ask every site of the "
            "quorum for a share of this sum, naming the same quorum"
        )


@dataclass(frozen=True)
class _Heading:
    """What a decryption share says of itself."""

    index: int
    members: int  # bit i: holder i is of the quorum
    ciphertexts: int
    digest: bytes

    def to_bytes(self) -> bytes:
        return _HEADER.pack(_MAGIC, self.index, self.members, self.ciphertexts, self.digest)


def encrypt(masked: MaskedUpdate, key: CollectiveKey) -> EncryptedUpdate:
    """Encrypt one site's update under the collective key.

    Args:
        masked: The update after the mask stage; mypy refuses any other.
        key: The collective key; SEAL draws its randomness from the operating system.

    Raises:
        ForeignParameters: The update was packed for another parameter set.
    """
    parameters = key.parameters
    if masked.parameters != parameters:
        raise ForeignParameters(parameters.name, masked.parameters.name)
    made, count = ring(parameters), parameters.ciphertexts(masked.length)
    encryptor = sealapi.Encryptor(made.seal, key.seal())
    degree, primes = parameters.ring_degree, len(parameters.data_modulus)
    values = np.empty((count, 2, primes, degree), dtype=np.uint64)
    for into, slots in zip(values, masked.words.reshape(count, degree), strict=True):
        ciphertext = sealapi.Ciphertext()
        encryptor.encrypt(made.encode(slots), ciphertext)
        into[:] = made.residues(ciphertext)
    packed = residues.pack(values, parameters)
    blob = residues.write(Kind.of(parameters, summed=False), [], packed, parameters)
    return EncryptedUpdate(blob, key.key_id, parameters.name, masked.length)


def partial(total: EncryptedSum, share: KeyShare, quorum: Sequence[int]) -> bytes:
    """Return one holder's decryption share of a sum, covered by noise.

    Asked again for the same sum and quorum, it returns the same bytes.

    Args:
        total: From the server, after its check against the committed uploads; hostile.
        share: The holder's share of the key.
        quorum: The places of all holders that will open this sum, this one among them.

    Returns:
        The share's heading and one packed polynomial for each ciphertext.

    Raises:
        QuorumInvalid: The quorum repeats a holder, names one there is not, or leaves this one out.
        QuorumMissing: It is smaller than the key's threshold.
        ForeignKeyCiphertext: The sum names another key.
        ForeignParameters: It follows another parameter set.
        TooManySites: It claims more sites than fields have room for.
        MalformedCiphertext: It is broken or crafted.
    """
    parameters, primes = share.parameters, share.parameters.data_modulus
    members = _members(quorum, share.holders)
    if share.index not in quorum:
        raise QuorumInvalid(quorum, f"it leaves out holder {share.index}, which is asked")
    if len(quorum) < share.threshold:
        raise QuorumMissing(len(quorum), share.threshold)
    if total.key_id != share.key_id:
        raise ForeignKeyCiphertext(share.key_id, total.key_id)
    second = sum_residues(total, parameters)[:, 1]  # (ciphertexts, primes, ring_degree)

    weight = polynomial_sharing.weights(share.index, quorum, primes)
    factor = polynomials.multiply(share.values, weight, primes)
    product = _multiplied(second, factor, ring(parameters))
    heading = _Heading(share.index, members, second.shape[0], _digest(total)).to_bytes()
    noise = SMUDGING.sample(second[:, 0].size, _noise_stream(share, members, second))
    lifted = polynomials.lift(noise.reshape(second[:, 0].shape), primes)
    covered = polynomials.add(product, lifted, primes)
    return heading + polynomials.pack(covered, primes)


def combine(
    total: EncryptedSum, partials: Mapping[int, bytes], key: CollectiveKey, *, threshold: int
) -> NDArray[np.uint64]:
    """Decrypt a sum from the decryption shares of exactly one quorum.

    The result goes to ``masks.remove`` and then to ``packing.unpack``, which finds out whether it
    is the sum.

    Args:
        total: From the server; hostile.
        partials: By the holder's place; hostile.
        key: The collective key.
        threshold: How many shares there must be.

    Returns:
        ``(ciphertexts * ring_degree,)`` slots, integers below t.

    Raises:
        QuorumInvalid: A place is none of the key's.
        QuorumMissing: There are too few shares.
        DecryptionShareMalformed: One is broken; it says whose.
        DecryptionShareForeign: One is for another sum or quorum; it says whose.
        ForeignKeyCiphertext: The sum names another key.
        ForeignParameters: It follows another parameter set.
        TooManySites: It claims more sites than fields have room for.
        MalformedCiphertext: It is broken or crafted.
    """
    parameters, quorum = key.parameters, sorted(partials)
    members = _members(quorum, key.holders)
    if len(quorum) < threshold:
        raise QuorumMissing(len(quorum), threshold)
    if total.key_id != key.key_id:
        raise ForeignKeyCiphertext(key.key_id, total.key_id)
    values = sum_residues(total, parameters)
    first, digest = values[:, 0], _digest(total)
    for index in quorum:
        wanted = _Heading(index, members, values.shape[0], digest)
        share = _read(partials[index], wanted, parameters)
        first = polynomials.add(first, share, parameters.data_modulus)
    return _rounded(np.stack([first, values[:, 1]], axis=1), ring(parameters))


def share_bytes(length: int, parameters: ParameterSet) -> int:
    """Return the size of a decryption share of a sum of ``length`` values, in bytes.

    Examples:
        >>> from privacy.parameters import parameter_set
        >>> share_bytes(1_000_000, parameter_set("threshold-bfv-8"))
        3809329
    """
    each = polynomials.packed_bytes(parameters.data_modulus, parameters.ring_degree)
    return _HEADER.size + parameters.ciphertexts(length) * each


def _noise_stream(share: KeyShare, members: int, second: NDArray[np.uint64]) -> RandomStream:
    """Return the keystream of a decryption share's noise, which only its holder can derive."""
    asked = hashlib.sha256(np.ascontiguousarray(second).data).digest()
    info = _NOISE_LABEL + members.to_bytes(HOLDERS_MAX // 8, "big") + asked
    derived = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(share.to_bytes())
    return RandomStream(derived, secret=True)


def _multiplied(
    polynomial: NDArray[np.uint64], factor: NDArray[np.uint64], made: Ring
) -> NDArray[np.uint64]:
    """Return polynomials times one that is given by evaluations, by SEAL's transforms.

    SEAL transforms ciphertexts, that is pairs, so the polynomials go in by twos.
    """
    count = polynomial.shape[0]
    pairs = np.concatenate([polynomial, polynomial[: count % 2]])
    pairs = pairs.reshape(-1, 2, *polynomial.shape[1:])
    evaluator, multiplier = sealapi.Evaluator(made.seal), evaluations.multiplier(factor, made)
    products = np.empty_like(pairs)
    for into, pair in zip(products, pairs, strict=True):
        ciphertext = made.ciphertext(pair)
        evaluator.transform_to_ntt_inplace(ciphertext)
        evaluator.multiply_plain_inplace(ciphertext, multiplier)
        evaluator.transform_from_ntt_inplace(ciphertext)
        into[:] = made.residues(ciphertext)
    return products.reshape(-1, *polynomial.shape[1:])[:count]


def _rounded(values: NDArray[np.uint64], made: Ring) -> NDArray[np.uint64]:
    """Return the slots of ciphertexts whose first polynomial is all of the message and noise.

    SEAL decrypts them under the secret key zero, which leaves the rounding to it.
    """
    degree, primes = made.parameters.ring_degree, len(made.parameters.coeff_modulus)
    zero = evaluations.secret_key(np.zeros((primes, degree), dtype=np.uint64), made)
    decryptor = sealapi.Decryptor(made.seal, zero)
    words: list[Any] = []
    for pair in values:
        plaintext = sealapi.Plaintext()
        decryptor.decrypt(made.ciphertext(pair), plaintext)
        words.append(made.decode(plaintext))
    return np.concatenate(words)


def _read(blob: bytes, wanted: _Heading, parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return the polynomials of a hostile decryption share that is what it must be.

    Raises:
        DecryptionShareMalformed: It is broken.
        DecryptionShareForeign: It is for something else.
    """
    primes, degree = parameters.data_modulus, parameters.ring_degree
    each = polynomials.packed_bytes(primes, degree)
    if len(blob) < _HEADER.size:
        raise DecryptionShareMalformed(wanted.index)
    magic, index, members, ciphertexts, digest = _HEADER.unpack_from(blob)
    if (magic, index) != (_MAGIC, wanted.index):
        raise DecryptionShareMalformed(wanted.index)
    if (ciphertexts, digest) != (wanted.ciphertexts, wanted.digest):
        raise DecryptionShareForeign(wanted.index, "sum")
    if members != wanted.members:
        raise DecryptionShareForeign(wanted.index, "quorum")
    if len(blob) != _HEADER.size + ciphertexts * each:
        raise DecryptionShareMalformed(wanted.index)
    values = polynomials.unpack(blob[_HEADER.size :], primes, degree)
    if values is None:
        raise DecryptionShareMalformed(wanted.index)
    return values


def _members(quorum: Sequence[int], holders: int) -> int:
    """Return the set of holders as bits.

    Raises:
        QuorumInvalid: A holder is named twice, or there is none of that place.
    """
    assert holders <= HOLDERS_MAX
    if len(set(quorum)) != len(quorum):
        raise QuorumInvalid(quorum, "it names a holder twice")
    if not all(0 <= index < holders for index in quorum):
        raise QuorumInvalid(quorum, f"the key has holders 0 to {holders - 1}")
    return sum(1 << index for index in quorum)


def _digest(total: EncryptedSum) -> bytes:
    names = f"{total.key_id}\n{total.parameters}\n{total.length}\n{total.sites}\n"
    return hashlib.sha256(_LABEL + names.encode() + total.blob).digest()
