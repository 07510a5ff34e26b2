"""Encrypt packed updates at the hospitals, add them where no key is, open only the sum.

The scheme is BFV [1] without multiplication, so sums are exact. Hospitals share one secret key;
uploads are encrypted under it symmetrically and carry a seed in place of their second polynomial,
which halves them, and a sum carries all the seeds, which nearly halves it too
(``privacy.residues``). The server holds no key, and adding is adding integers::

    MaskedUpdate ── encrypt ─▶ EncryptedUpdate ── ServerContext.add ─▶ EncryptedSum ── open_sum ─▶
     hospital        key          to server           no key              to hospitals    key

    >>> from privacy.parameters import parameter_set
    >>> self_test(parameter_set("packed-bfv-8"))

What holds, each a test in tests/privacy/test_bfv.py, test_attacks.py or
attacks/test_crafted_ciphertext.py:

1. The opened sum is the sum mod t, slot for slot, for every cohort up to ``max_sites``.
2. A server context holds no secret key, and the order of adding changes the order of the seeds
   alone.
3. Hostile bytes end in a typed error.
4. (0, floor(q/t)), whose decryption is the secret key, and its like cannot be written down: the
   second polynomial of what is opened is a sum of expanded seeds.
5. Before decryption, ``open_sum`` refuses a ciphertext that is not random or whose noise is more,
   or less, than that of a sum of honest uploads.

What does not hold: whoever changes the first polynomial of an honest sum by a multiple of
floor(q/t) changes what it decrypts to and passes rule 5. ``tags.check_tags`` finds that before
anything is decrypted, and ``packing.unpack`` most of it afterwards. A key id is a name, not a
proof: a ciphertext under another key that names this one is found out by ``unpack`` too.

References:
    [1] Fan and Vercauteren, ePrint 2012/144; SEAL, https://github.com/microsoft/SEAL.
    [2] TenSEAL: Benaissa et al., 2021, arXiv:2104.03152.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tenseal import sealapi

from privacy import residues
from privacy.masks import MaskedUpdate, apply
from privacy.packing import SumCorrupt, pack, unpack
from privacy.parameters import ParameterSet
from privacy.quantisation import QuantisedUpdate
from privacy.residues import SEED_BYTES, Kind, Residues
from privacy.ring import LIBRARY_ERRORS, Ring, TensealIncompatible, ring
from privacy.scratch import scratch_file
from privacy.wire import MalformedCiphertext
from privacy.workers import parts, spread
from protocol.errors import PrivacyError
from protocol.ids import KeyId

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE_BITS_MIN: Final = 2
"""Noise budget a sum must have left: its largest noise is below a quarter of what decrypts."""
_ROWS_MIN: Final = 64
"""Ciphertexts that are worth a process of their own, a million values of 8 bits; measured."""


class ForeignKeyCiphertext(PrivacyError):
    """A ciphertext names another key than the one it is to be added or opened under."""

    code = "ciphertext-foreign-key"

    def __init__(self, expected: KeyId, found: KeyId) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"a ciphertext is under key {found} where {expected} is in use; its site must take "
            "the group key of this study and send its update again"
        )


class ForeignParameters(PrivacyError):
    """A ciphertext or update follows another parameter set."""

    code = "ciphertext-foreign-parameters"

    def __init__(self, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"a ciphertext or update follows {found} where the study's terms say {expected}; "
            "its site must send it in the study's parameter set"
        )


class SecretKeyMalformed(PrivacyError):
    """Bytes that should be a group key are not."""

    code = "group-key-malformed"

    def __init__(self) -> None:
        super().__init__(
            "the group key cannot be read as a key of the study's parameter set; ask the site "
            "that made it to hand it out again"
        )


@dataclass(frozen=True)
class EncryptedUpdate:
    """One site's update, as it travels; ``blob`` is what ``privacy.residues`` writes."""

    blob: bytes
    key_id: KeyId
    parameters: str
    length: int


@dataclass(frozen=True)
class EncryptedSum:
    """The sum of ``sites`` updates; ``blob`` is what ``privacy.residues`` writes.

    What its seeds expand to is kept with it, as its tags and its decryption both need that.
    """

    blob: bytes
    key_id: KeyId
    parameters: str
    length: int
    sites: int
    expanded: dict[ParameterSet, NDArray[np.uint64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )


class SecretKey:
    """The hospitals' group key, held in memory; the server never gets it.

    ``key_id`` names it in public: sixteen hexadecimal digits derived one way (HKDF, then SHA-256).
    Python cannot wipe memory; the key is gone when the process is.
    """

    def __init__(self, secret: bytes, parameters: ParameterSet) -> None:
        self._bytes = secret
        self.parameters = parameters
        self.key_id = _key_id(secret, parameters)
        self.ring: Ring = ring(parameters)
        self._key = sealapi.SecretKey()
        try:
            with scratch_file() as file:
                file.write(secret)
                self._key.load(self.ring.seal, file.path)
        except LIBRARY_ERRORS as error:
            raise SecretKeyMalformed from error

    @classmethod
    def from_bytes(cls, secret: bytes, parameters: ParameterSet) -> SecretKey:
        """Return the key that ``to_bytes`` wrote.

        Raises:
            SecretKeyMalformed: It did not write these bytes.
        """
        return cls(secret, parameters)

    def to_bytes(self) -> bytes:
        """Return the secret, for ``keys.wrap`` and for a private file; nowhere else."""
        return self._bytes

    def encryptor(self) -> Any:
        """Return SEAL's encryptor; it draws from the operating system, never from a seed."""
        return sealapi.Encryptor(self.ring.seal, self._key)

    def decryptor(self) -> Any:
        """Return SEAL's decryptor."""
        return sealapi.Decryptor(self.ring.seal, self._key)

    def check(self, key_id: KeyId, parameters: str) -> None:
        """Return if a ciphertext that names these is for this key.

        Raises:
            ForeignParameters: It follows another parameter set.
            ForeignKeyCiphertext: It is under another key.
        """
        _check_names(self.parameters, self.key_id, parameters, key_id)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a group key is not pickled: wrap its bytes for each recipient")

    def __repr__(self) -> str:
        return f"SecretKey({self.key_id})"


def generate_key(parameters: ParameterSet) -> SecretKey:
    """Return a new group key, drawn by SEAL from the operating system's randomness."""
    with scratch_file() as file:
        sealapi.KeyGenerator(ring(parameters).seal).secret_key().save(file.path)
        return SecretKey(file.read(), parameters)


def encrypt(masked: MaskedUpdate, key: SecretKey, *, workers: int | None = None) -> EncryptedUpdate:
    """Encrypt one site's update.

    Args:
        masked: The update after the mask stage; mypy refuses any other.
        key: The group key.
        workers: How many processes to use, see ``privacy.workers.parts``.

    Raises:
        ForeignParameters: The update was packed for another parameter set.
    """
    if masked.parameters != key.parameters:
        raise ForeignParameters(key.parameters.name, masked.parameters.name)
    seeds, packed = encrypt_slots(masked.words, key, workers=workers)
    kind = Kind.of(key.parameters, summed=False)
    blob = residues.write(kind, [seeds], packed, key.parameters)
    return EncryptedUpdate(blob, key.key_id, key.parameters.name, masked.length)


def encrypt_slots(
    words: NDArray[np.uint64], key: SecretKey, *, workers: int | None = None
) -> tuple[bytes, bytes]:
    """Return seeds and packed residues of the ciphertexts of ``words``.

    Of consecutive words, the seeds and the residues can each be joined.

    Args:
        words: ``(ciphertexts * ring_degree,)`` integers below t.
        key: The group key; where other processes help, they are told it.
        workers: How many processes to use, see ``privacy.workers.parts``.
    """
    rows = words.reshape(-1, key.parameters.ring_degree)
    cut = parts(len(rows), each_at_least=_ROWS_MIN, workers=workers)
    if len(cut) == 1:
        return _encrypt_rows(rows, key)
    jobs = [(key.to_bytes(), key.parameters, rows[part]) for part in cut]
    made = spread(_encrypt_job, jobs, wait=workers is not None)
    return b"".join(seeds for seeds, _ in made), b"".join(packed for _, packed in made)


def _encrypt_job(job: tuple[bytes, ParameterSet, NDArray[np.uint64]]) -> tuple[bytes, bytes]:
    secret, parameters, rows = job
    return _encrypt_rows(rows, SecretKey.from_bytes(secret, parameters))


def _encrypt_rows(rows: NDArray[np.uint64], key: SecretKey) -> tuple[bytes, bytes]:
    encryptor, made = key.encryptor(), key.ring
    sent = made.seeded(encryptor.encrypt_symmetric(made.encode(slots)) for slots in rows)
    if key.parameters.seeded:
        return sent.seeds[0], residues.pack(sent.values, key.parameters)
    return b"", residues.pack(made.expanded(sent), key.parameters)


class ServerContext:
    """All a server needs to add ciphertexts. It is made without a key and can take none."""

    def __init__(self, parameters: ParameterSet) -> None:
        self.parameters = parameters
        ring(parameters)  # refuses parameters that no hospital could encrypt under

    def check(self, update: EncryptedUpdate) -> None:
        """Return if ``update`` can be added.

        It may still be under another key than it says; that shows when the sum is opened.

        Raises:
            ForeignParameters: It follows another parameter set.
            MalformedCiphertext: It is truncated, of another length, level or form, or in clear.
        """
        self._read(update)

    def add(
        self, updates: Iterable[EncryptedUpdate], *, key_id: KeyId | None = None
    ) -> EncryptedSum:
        """Return the sum of the updates.

        Args:
            updates: One from each site, at least one; of a lazy iterable one is held at a time.
            key_id: The round's key; the first update's when not given.

        Raises:
            TooManySites: The sum could overflow.
            ForeignKeyCiphertext: They do not all name one key.
            ForeignParameters: One follows another parameter set.
            MalformedCiphertext: One is broken, or not as long as the first.
        """
        if isinstance(updates, Sized):  # before anything is added
            self.parameters.check_sites(len(updates))
        expected, length, sites = key_id, 0, 0
        total: NDArray[np.uint64] | None = None
        seeds: list[bytes] = []
        for update in updates:
            expected, length, sites = expected or update.key_id, length or update.length, sites + 1
            self.parameters.check_sites(sites)
            _check_names(self.parameters, expected, update.parameters, update.key_id)
            if update.length != length:
                raise MalformedCiphertext("its length is not that of the other updates")
            sent = self._read(update)
            seeds += sent.seeds
            if total is None:
                total = sent.values
            else:
                residues.add(total, sent.values, self.parameters)
            del sent, update
        assert total is not None
        assert expected is not None
        kind, packed = Kind.of(self.parameters, summed=True), residues.pack(total, self.parameters)
        del total
        blob = residues.write(kind, seeds, packed, self.parameters, contributors=sites)
        return EncryptedSum(blob, expected, self.parameters.name, length, sites)

    def _read(self, update: EncryptedUpdate) -> Residues:
        _check_names(self.parameters, update.key_id, update.parameters, update.key_id)
        kind = Kind.of(self.parameters, summed=False)
        return residues.read(update.blob, kind, update.length, self.parameters)


def update_residues(update: EncryptedUpdate, parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return ``(ciphertexts, 2, primes, ring_degree)`` residues of an upload; needs no key.

    Raises:
        ForeignParameters: It follows another parameter set.
        MalformedCiphertext: It is broken.
    """
    _check_names(parameters, update.key_id, update.parameters, update.key_id)
    kind = Kind.of(parameters, summed=False)
    return ring(parameters).expanded(residues.read(update.blob, kind, update.length, parameters))


def sum_residues(
    total: EncryptedSum, parameters: ParameterSet, *, workers: int | None = None
) -> NDArray[np.uint64]:
    """Return ``(ciphertexts, 2, primes, ring_degree)`` residues of a sum; needs no key.

    Most of what opening a seeded sum costs is here, once for each ``total``.

    Args:
        total: From the server; hostile.
        parameters: The study's.
        workers: How many processes to use, see ``privacy.workers.parts``.

    Raises:
        ForeignParameters: It follows another parameter set.
        TooManySites: It claims more sites than fields have room for.
        MalformedCiphertext: It is broken or crafted.
    """
    _check_names(parameters, total.key_id, total.parameters, total.key_id)
    parameters.check_sites(total.sites)
    kind = Kind.of(parameters, summed=True)
    if parameters not in total.expanded:
        sent = residues.read(total.blob, kind, total.length, parameters, contributors=total.sites)
        values = _expanded(sent, parameters, workers=workers)
        values.flags.writeable = False
        total.expanded[parameters] = values
    return total.expanded[parameters]


def sum_rows(
    total: EncryptedSum, parameters: ParameterSet, *, rows: int = _ROWS_MIN
) -> Iterator[NDArray[np.uint64]]:
    """Yield ``sum_residues`` of ``rows`` ciphertexts at a time, which are not kept.

    Args:
        total: From the server; hostile.
        parameters: The study's.
        rows: How many ciphertexts.

    Raises:
        ForeignParameters, TooManySites, MalformedCiphertext: As ``sum_residues``.
    """
    _check_names(parameters, total.key_id, total.parameters, total.key_id)
    parameters.check_sites(total.sites)
    kind = Kind.of(parameters, summed=True)
    sent = residues.read(total.blob, kind, total.length, parameters, contributors=total.sites)
    for start in range(0, len(sent.values), rows):
        part = slice(start, min(start + rows, len(sent.values)))
        yield ring(parameters).expanded(_rows_of(sent, part))


def _expanded(
    sent: Residues, parameters: ParameterSet, *, workers: int | None
) -> NDArray[np.uint64]:
    """Return ``Ring.expanded`` of what came; drawing is a fourth of the work of encrypting."""
    each = max(1, 4 * _ROWS_MIN // max(1, len(sent.seeds)))
    cut = parts(len(sent.values), each_at_least=each, workers=workers)
    if len(cut) == 1 or not sent.seeds:
        return ring(parameters).expanded(sent)
    jobs = [(_rows_of(sent, part), parameters) for part in cut]
    drawn = np.concatenate(spread(_draw_job, jobs, wait=workers is not None))
    return np.stack([sent.values[:, 0], drawn], axis=1)


def _rows_of(sent: Residues, part: slice) -> Residues:
    seeds = slice(SEED_BYTES * part.start, SEED_BYTES * part.stop)
    return Residues(sent.values[part], tuple(each[seeds] for each in sent.seeds))


def _draw_job(job: tuple[Residues, ParameterSet]) -> NDArray[np.uint64]:
    sent, parameters = job
    return ring(parameters).expanded(sent)[:, 1]


def open_sum(
    total: EncryptedSum, key: SecretKey, *, workers: int | None = None
) -> NDArray[np.uint64]:
    """Decrypt a sum, after refusing everything that does not look like one.

    The result goes to ``masks.remove``, where there are masks, and then to ``packing.unpack``,
    which checks it against the number of sites; nothing of it leaves the hospital before that.

    Args:
        total: From the server; hostile.
        key: The group key; where other processes help, they are told it.
        workers: How many processes to use, see ``privacy.workers.parts``.

    Returns:
        ``(ciphertexts * ring_degree,)`` slots, integers below t.

    Raises:
        ForeignKeyCiphertext: It names another key.
        ForeignParameters: It follows another parameter set.
        TooManySites: It claims more sites than fields have room for.
        MalformedCiphertext: It is broken or crafted, or its noise is not that of a sum.
    """
    key.check(total.key_id, total.parameters)
    values = sum_residues(total, key.parameters, workers=workers)
    cut = parts(len(values), each_at_least=_ROWS_MIN, workers=workers)
    if len(cut) == 1:
        return _decrypt_rows(values, key)
    jobs = [(key.to_bytes(), key.parameters, values[part]) for part in cut]
    return np.concatenate(spread(_decrypt_job, jobs, wait=workers is not None))


def _decrypt_job(job: tuple[bytes, ParameterSet, NDArray[np.uint64]]) -> NDArray[np.uint64]:
    secret, parameters, values = job
    return _decrypt_rows(values, SecretKey.from_bytes(secret, parameters))


def _decrypt_rows(values: NDArray[np.uint64], key: SecretKey) -> NDArray[np.uint64]:
    ciphertexts = [key.ring.ciphertext(one) for one in values]
    decryptor = key.decryptor()
    for ciphertext in ciphertexts:
        _check_noise(decryptor.invariant_noise_budget(ciphertext), key.parameters)
    words = []
    for ciphertext in ciphertexts:
        plaintext = sealapi.Plaintext()
        decryptor.decrypt(ciphertext, plaintext)
        words.append(key.ring.decode(plaintext))
    return np.concatenate(words)


def upload_bytes(length: int, parameters: ParameterSet) -> int:
    """Return the size of an encrypted update of ``length`` values, in bytes.

    Examples:
        >>> from privacy.parameters import parameter_set
        >>> upload_bytes(1_000_000, parameter_set("packed-bfv-8"))
        1908625
    """
    return residues.size(parameters.ciphertexts(length), 1, parameters)


def sum_bytes(length: int, sites: int, parameters: ParameterSet) -> int:
    """Return the size of a sum of ``sites`` updates of ``length`` values, in bytes.

    Examples:
        >>> from privacy.parameters import parameter_set
        >>> sum_bytes(1_000_000, 10, parameter_set("packed-bfv-8"))
        1944337
    """
    return residues.size(parameters.ciphertexts(length), sites, parameters)


@cache
def self_test(parameters: ParameterSet) -> None:
    """Encrypt, add, open and compare; run it before the first round: a process does it once.

    Raises:
        TensealIncompatible: The sum is not exact, or it lays out its ciphertexts in another way.
    """
    key, server, length = generate_key(parameters), ServerContext(parameters), 5
    extremes = np.array([1, -1, 0, 1, -1], dtype=np.int32) * np.int32(parameters.value_max)
    packed = pack(QuantisedUpdate(extremes, parameters.value_bits, 0), 3, parameters)
    sites = min(parameters.max_sites, parameters.field_max // parameters.value_max)
    try:
        updates = [encrypt(apply(packed, []), key) for _ in range(sites)]
        opened = open_sum(server.add(updates), key)
        sums, weight = unpack(opened, length, sites, parameters)
    except (MalformedCiphertext, SumCorrupt, *LIBRARY_ERRORS) as error:
        raise TensealIncompatible(f"a self-test failed ({error})") from error
    if weight != 3 * sites or not np.array_equal(sums, sites * extremes.astype(np.int64)):
        raise TensealIncompatible("a sum it made is not exact")


def _check_names(
    parameters: ParameterSet, key_id: KeyId, found_parameters: str, found_key: KeyId
) -> None:
    if found_parameters != parameters.name:
        raise ForeignParameters(parameters.name, found_parameters)
    if found_key != key_id:
        raise ForeignKeyCiphertext(key_id, found_key)


def _check_noise(budget: int, parameters: ParameterSet) -> None:
    """Refuse too much noise, which may decrypt wrongly, and too little, which nobody's sum has.

    Fresh noise has a standard deviation of 3.2 in each of N coefficients, so its largest is above
    4 and the budget of an honest ciphertext at most bits(q) - bits(t) - 3.
    """
    bits = sum(prime.bit_length() for prime in parameters.data_modulus)
    most = bits - parameters.plain_modulus_bits - 3
    if not NOISE_BITS_MIN <= budget <= most:
        raise MalformedCiphertext("its noise is not that of a sum of fresh ciphertexts")


def _key_id(secret: bytes, parameters: ParameterSet) -> KeyId:
    info = b"bithive group key id\n" + parameters.name.encode()
    public = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)
    return KeyId(hashlib.sha256(public).hexdigest()[:16])
