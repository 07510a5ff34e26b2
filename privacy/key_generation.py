"""Make a key that nobody holds: every hospital adds a part, and gets a share of the whole.

With a public polynomial a that hashing fixes, hospital i draws a secret s_i with coefficients -1,
0, 1 and a small error e_i, and shows b_i = -(a s_i + e_i). The sum of the b_i and a are a BFV
public key for the secret s = s_1 + ... + s_n, which is never formed [1]. Instead each s_i is shared
by Shamir's scheme, and holder j, counted from 0, adds up what it gets from everybody [2]::

    contribute ──▶ commitment to b_i ──▶ all committed: b_i, and f_i(j + 1) to holder j ──▶
       f_i random of degree threshold - 1, f_i(0) = s_i        collective_key, join_shares

    >>> from privacy.parameters import parameter_set
    >>> chosen = parameter_set("threshold-bfv-8")
    >>> parts = [contribute(chosen, threshold=2, holders=2, context=b"study") for _ in range(2)]
    >>> check_commitments([part.public for part in parts], [part.commitment for part in parts])
    >>> key = collective_key([part.public for part in parts], chosen, context=b"study")
    >>> shares = [join_shares([part.shares[j] for part in parts], chosen) for j in range(2)]
    >>> [share.index for share in shares], {share.key_id for share in shares} == {key.key_id}
    ([0, 1], True)

The polynomial a is made of 64-bit words of SHAKE-256, cut to the bits of each prime and left out
where they are not below it, so it is uniform and nobody chose it. Errors follow the discrete
Gaussian of deviation 3.2 that the security estimates assume, cut at six deviations as SEAL does.
Everything is in evaluation form (``privacy.evaluations``), where sharing coefficient by
coefficient is just as linear; shares have the primes of ciphertexts, b_i also the special one.

Bytes, all numbers big-endian, residues packed as in ``privacy.polynomials``::

    public part      "BHG1" | threshold, holders (1, 1) | context digest (32) | b_i
    share of a part  "BHS1" | threshold, holders, holder (1, 1, 1) | SHA-256 of the part (32) | f_i
    joined share     "BHJ1" | threshold, holders, holder (1, 1, 1) | key id (8) | sum of the f_i
    collective key   "BHQ1" | threshold, holders (1, 1) | context digest (32)
                            | SHA-256 of each part (32 each) | sum of the b_i

Who may lie, and what follows. Parts are committed to before any is shown; otherwise the last
hospital could choose its b_i so that the sum is a key of its own. Fewer than ``threshold`` holders
together know nothing of s: what they hold fits every secret. A hospital that deals wrong shares,
or later answers with one, is not found here, as shares of a lattice secret cannot be verified
without far larger proofs: sums then open to garbage, which ``packing.unpack`` refuses, and no
update shows, but the round is lost. Who lied is found by opening with another quorum.

What holds, each a test in tests/privacy/test_key_generation.py:

1. Any ``threshold`` joined shares determine s, and the sums of the b_i encrypt under it.
2. ``threshold - 1`` shares of a part fit every secret.
3. No object here holds s, nor s_i once ``contribute`` has returned.
4. A key id names the parts, their order and their context; shares of other parts do not join.
5. Hostile bytes end in a typed error, and there is one way to write each form.

References:
    [1] Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux, Multiparty Homomorphic Encryption from
    Ring-Learning-With-Errors, PoPETs 2021(4), protocol 1. ePrint 2020/304.
    [2] Mouchet, Bertrand and Hubaux, An Efficient Threshold Access-Structure for RLWE-Based
    Multiparty Homomorphic Encryption, Journal of Cryptology 36, 2023, section 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from privacy import evaluations, polynomial_sharing, polynomials
from privacy.discrete_gaussian import DiscreteGaussian
from privacy.parameters import ParameterSet
from privacy.randomness import RandomStream
from privacy.ring import ring
from protocol.errors import PrivacyError
from protocol.ids import KeyId

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLDERS_MAX: Final = 64
"""Holders of one key at most: as many as sites in one sum."""
ERROR: Final = DiscreteGaussian(sigma=Fraction(16, 5), width=1, intervals=20)
"""The law of fresh errors: deviation 3.2, cut beyond 19."""
_PART, _SHARE, _JOINED, _KEY = b"BHG1", b"BHS1", b"BHJ1", b"BHQ1"
_DIGEST_BYTES: Final = 32
_KEY_ID_BYTES: Final = 8
_LABEL: Final = b"bithive collective key v1\n"


class KeyPartMalformed(PrivacyError):
    """One hospital's part of a collective key cannot be used."""

    code = "key-part-malformed"

    def __init__(self, index: int, why: str) -> None:
        self.index = index
        self.why = why
        super().__init__(
            f"part {index} of the collective key cannot be used: {why}; make a new key, without "
            "that site if it happens twice"
        )


class KeyPartChanged(PrivacyError):
    """A hospital showed another part than it had committed to."""

    code = "key-part-changed"

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(
            f"part {index} of the collective key is not the one its site committed to, so it may "
            "have been chosen after seeing the others; make a new key without that site"
        )


class KeyShareMalformed(PrivacyError):
    """A share of a collective key cannot be used."""

    code = "key-share-malformed"

    def __init__(self, index: int | None, why: str) -> None:
        self.index = index
        self.why = why
        whose = "a share" if index is None else f"the share from part {index}"
        super().__init__(
            f"{whose} of the collective key cannot be used: {why}; take part in making a new key"
        )


class CollectiveKeyMalformed(PrivacyError):
    """Bytes that should be a collective public key are not."""

    code = "collective-key-malformed"

    def __init__(self) -> None:
        super().__init__(
            "the collective key cannot be read as a key of the study's parameter set; take part "
            "in making a new one"
        )


@dataclass(frozen=True)
class Contribution:
    """What one hospital adds to a key.

    Attributes:
        public: To everybody, once all have committed.
        commitment: SHA-256 of ``public`` in hexadecimal, to everybody first.
        shares: Element j is secret, for holder j alone (``keys.wrap``).
    """

    public: bytes
    commitment: str
    shares: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class CollectiveKey:
    """A public key whose secret nobody holds; it encrypts and cannot decrypt.

    Attributes:
        parameters: Theirs.
        threshold: Holders that can decrypt together.
        context: SHA-256 of what the key is for, from which ``a`` is hashed.
        parts: SHA-256 of each part, in the holders' order.
        values: ``(primes, ring_degree)`` evaluations, the sum of the parts.
    """

    parameters: ParameterSet
    threshold: int
    context: bytes
    parts: tuple[bytes, ...]
    values: NDArray[np.uint64] = field(repr=False)

    @property
    def holders(self) -> int:
        """How many hold shares."""
        return len(self.parts)

    @property
    def key_id(self) -> KeyId:
        """The key's name, which follows from its parts and their order."""
        return _key_id(self.parts)

    def seal(self) -> Any:
        """Return SEAL's public key."""
        common = common_polynomial(self.parameters, self.context)
        return evaluations.public_key(np.stack([self.values, common]), ring(self.parameters))

    def to_bytes(self) -> bytes:
        """Return the key as ``from_bytes`` reads it; nothing in it is secret."""
        numbers = bytes([self.threshold, self.holders])
        packed = polynomials.pack(self.values, self.parameters.coeff_modulus)
        return b"".join([_KEY, numbers, self.context, *self.parts, packed])

    @classmethod
    def from_bytes(cls, blob: bytes, parameters: ParameterSet) -> CollectiveKey:
        """Return the key that ``to_bytes`` wrote.

        A hospital reads what it stored itself: that the sum belongs to the parts, and so to the
        key id, only ``collective_key`` has seen.

        Raises:
            CollectiveKeyMalformed: It did not write these bytes.
        """
        threshold, holders = blob[4:6] if len(blob) >= 6 else (0, 0)
        start = 6 + _DIGEST_BYTES
        digests, rest = blob[6 : start + _DIGEST_BYTES * holders], blob[start:]
        values = _one(rest[_DIGEST_BYTES * holders :], parameters.coeff_modulus, parameters)
        sound = blob[:4] == _KEY and _threshold_fits(threshold, holders)
        if not sound or values is None:
            raise CollectiveKeyMalformed
        context, *parts = (
            digests[i : i + _DIGEST_BYTES] for i in range(0, len(digests), _DIGEST_BYTES)
        )
        return cls(parameters, threshold, context, tuple(parts), values)


@dataclass(frozen=True, eq=False, repr=False)
class KeyShare:
    """One holder's share of a collective key's secret; it stays in the hospital.

    Attributes:
        index: The holder's place, from 0.
        threshold: Shares that are needed to decrypt.
        holders: How many there are.
        key_id: The key's name.
        parameters: Its parameter set.
        values: ``(data primes, ring_degree)`` evaluations; secret.
    """

    index: int
    threshold: int
    holders: int
    key_id: KeyId
    parameters: ParameterSet
    values: NDArray[np.uint64]

    def to_bytes(self) -> bytes:
        """Return the share, for a private file; nowhere else."""
        numbers = bytes([self.threshold, self.holders, self.index])
        packed = polynomials.pack(self.values, self.parameters.data_modulus)
        return b"".join([_JOINED, numbers, bytes.fromhex(self.key_id), packed])

    @classmethod
    def from_bytes(cls, blob: bytes, parameters: ParameterSet) -> KeyShare:
        """Return the share that ``to_bytes`` wrote.

        Raises:
            KeyShareMalformed: It did not write these bytes.
        """
        read = _read_share(blob, _JOINED, _KEY_ID_BYTES, parameters)
        if isinstance(read, str):
            raise KeyShareMalformed(None, read)
        name = KeyId(read.name.hex())
        return cls(read.index, read.threshold, read.holders, name, parameters, read.values)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a share of a key is not pickled: write its bytes to a private file")

    def __repr__(self) -> str:
        return f"KeyShare({self.index} of {self.key_id})"


def contribute(
    parameters: ParameterSet, *, threshold: int, holders: int, context: bytes
) -> Contribution:
    """Draw one hospital's part of a key, from the operating system's randomness.

    The part's secret lives in this call alone: what is returned are its shares.

    Args:
        parameters: A set of several primes that is not seeded.
        threshold: How many holders can decrypt together.
        holders: How many hospitals take part, each of them a holder.
        context: What the key is for, the same for all: study, epoch, sites.
    """
    assert len(parameters.coeff_modulus) > 1
    assert not parameters.seeded
    assert _threshold_fits(threshold, holders)
    made, primes, degree = ring(parameters), parameters.coeff_modulus, parameters.ring_degree
    stream = RandomStream.from_system()
    secret = evaluations.evaluate(stream.below(3, degree).astype(np.int64) - 1, made)
    error = evaluations.evaluate(ERROR.sample(degree, stream), made)

    digest = _context_digest(parameters, context)
    product = polynomials.multiply(common_polynomial(parameters, digest), secret, primes)
    part = polynomials.negate(polynomials.add(product, error, primes), primes)
    numbers = bytes([threshold, holders])
    public = b"".join([_PART, numbers, digest, polynomials.pack(part, primes)])

    name = hashlib.sha256(public).digest()
    data = parameters.data_modulus
    dealt = polynomial_sharing.split(
        secret[: len(data)], threshold=threshold, holders=holders, primes=data, stream=stream
    )
    shares = (
        b"".join([_SHARE, numbers, bytes([i]), name, polynomials.pack(one, data)])
        for i, one in enumerate(dealt)
    )
    return Contribution(public, commitment(public), tuple(shares))


def commitment(public: bytes) -> str:
    """Return what a hospital publishes of its part before it sees another's: SHA-256 in hex."""
    return hashlib.sha256(public).hexdigest()


def check_commitments(publics: Sequence[bytes], commitments: Sequence[str]) -> None:
    """Return if every part is the one its hospital committed to.

    Args:
        publics: The parts, in the holders' order; hostile.
        commitments: What was published before, in the same order.

    Raises:
        KeyPartChanged: A part is another one; it says which.
    """
    assert len(publics) == len(commitments)
    for index, (public, committed) in enumerate(zip(publics, commitments, strict=True)):
        if commitment(public) != committed:
            raise KeyPartChanged(index)


def collective_key(
    publics: Sequence[bytes], parameters: ParameterSet, *, context: bytes
) -> CollectiveKey:
    """Return the key that the parts add up to.

    Args:
        publics: Every hospital's part, in the holders' order, checked against its commitment
            (``check_commitments``); hostile.
        parameters: The study's.
        context: As given to ``contribute``.

    Raises:
        KeyPartMalformed: A part is broken, is for another key, appears twice, or does not agree
            with the others about the threshold and the number of holders; it says which.
    """
    assert publics
    digest = _context_digest(parameters, context)
    agreed = bytes([publics[0][4] if len(publics[0]) > 4 else 0, len(publics) % 256])
    if not _threshold_fits(agreed[0], len(publics)):
        raise KeyPartMalformed(0, "its threshold does not fit the number of parts")
    total: NDArray[np.uint64] | None = None
    names: list[bytes] = []
    for index, public in enumerate(publics):
        values = _read_part(index, public, agreed + digest, parameters)
        name = hashlib.sha256(public).digest()
        if name in names:
            raise KeyPartMalformed(index, "it is another site's part again")
        names.append(name)
        total = (
            values if total is None else polynomials.add(total, values, parameters.coeff_modulus)
        )
    assert total is not None
    return CollectiveKey(parameters, agreed[0], digest, tuple(names), total)


def join_shares(
    shares: Sequence[bytes],
    parameters: ParameterSet,
    *,
    index: int | None = None,
    key: CollectiveKey | None = None,
) -> KeyShare:
    """Return one holder's share of the collective secret: the sum of its shares of the parts.

    Args:
        shares: From every hospital, in the holders' order, the holder's own included; hostile.
        parameters: The study's.
        index: The holder's own place; that of the first share when not given.
        key: The key it must be a share of, when given.

    Raises:
        KeyShareMalformed: A share is broken, for another holder, or disagrees with the others.
    """
    total: NDArray[np.uint64] | None = None
    names: list[bytes] = []
    agreed: tuple[int, int, int] | None = None
    for dealer, blob in enumerate(shares):
        read = _read_share(blob, _SHARE, _DIGEST_BYTES, parameters)
        if isinstance(read, str):
            raise KeyShareMalformed(dealer, read)
        wanted = agreed or (read.threshold, len(shares), read.index if index is None else index)
        if (read.threshold, read.holders, read.index) != wanted:
            raise KeyShareMalformed(dealer, "it is for another holder or another number of them")
        if key is not None and read.name != key.parts[dealer]:
            raise KeyShareMalformed(dealer, "it is of another part than the key was made from")
        agreed = wanted
        names.append(read.name)
        total = (
            read.values
            if total is None
            else polynomials.add(total, read.values, parameters.data_modulus)
        )
    assert total is not None
    assert agreed is not None
    threshold, holders, place = agreed
    return KeyShare(place, threshold, holders, _key_id(names), parameters, total)


def common_polynomial(parameters: ParameterSet, digest: bytes) -> NDArray[np.uint64]:
    """Return the ``(primes, ring_degree)`` evaluations of a, uniform and chosen by nobody.

    Args:
        parameters: The study's.
        digest: SHA-256 of the key's context, as a collective key carries it.
    """
    return polynomials.hashed(_LABEL + digest, parameters.coeff_modulus, parameters.ring_degree)


@dataclass(frozen=True)
class _Share:
    threshold: int
    holders: int
    index: int
    name: bytes
    values: NDArray[np.uint64]


def _read_share(
    blob: bytes, magic: bytes, name_bytes: int, parameters: ParameterSet
) -> _Share | str:
    """Return what a share of a part or of a key holds, or why it is none."""
    start = 7 + name_bytes
    if len(blob) < start or blob[:4] != magic:
        return "it is something else"
    threshold, holders, index = blob[4:7]
    if not _threshold_fits(threshold, holders) or index >= holders:
        return "its threshold, holders and place do not fit together"
    values = _one(blob[start:], parameters.data_modulus, parameters)
    if values is None:
        return "it has another length, or a residue that is not below its prime"
    return _Share(threshold, holders, index, blob[7:start], values)


def _read_part(
    index: int, public: bytes, agreed: bytes, parameters: ParameterSet
) -> NDArray[np.uint64]:
    head = _PART + agreed
    if public[: len(head)] != head:
        raise KeyPartMalformed(index, "it is for another key, threshold or number of holders")
    values = _one(public[len(head) :], parameters.coeff_modulus, parameters)
    if values is None:
        why = "it has another length, or a residue that is not below its prime"
        raise KeyPartMalformed(index, why)
    return values


def _one(
    packed: bytes, primes: Sequence[int], parameters: ParameterSet
) -> NDArray[np.uint64] | None:
    """Return exactly one polynomial's residues, or None."""
    if len(packed) != polynomials.packed_bytes(primes, parameters.ring_degree):
        return None
    values = polynomials.unpack(packed, primes, parameters.ring_degree)
    return None if values is None else values[0]


def _threshold_fits(threshold: int, holders: int) -> bool:
    return 2 <= threshold <= holders <= HOLDERS_MAX


def _context_digest(parameters: ParameterSet, context: bytes) -> bytes:
    name = parameters.name.encode()
    return hashlib.sha256(_LABEL + bytes([len(name)]) + name + context).digest()


def _key_id(parts: Sequence[bytes]) -> KeyId:
    return KeyId(hashlib.sha256(_LABEL + b"".join(parts)).hexdigest()[: 2 * _KEY_ID_BYTES])
