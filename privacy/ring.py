"""The SEAL objects of one parameter set, and the way between its ciphertexts and their residues.

Nothing here holds a key: a ring is made from public parameters and is the same for everybody.

TenSEAL gives SEAL's ciphertexts to Python as opaque objects that can be saved and loaded [1]. A
saved ciphertext is its form, an array of residues and, for one that was encrypted symmetrically,
the seed of its second polynomial in place of it::

    header | level (32) | 0 (1) | polynomials | N | primes (8 each) | scale 1.0, correction 1 (8, 8)
           | array of residues
           | header | generator 1 = BLAKE2Xb (1) | seed (64)                           (seeded only)

``ring`` writes one of each sort under a key it throws away, and refuses a SEAL that lays them out
in any other way. Loading checks residues and level again, in SEAL's own code.

References:
    [1] SEAL 4.3, native/src/seal/ciphertext.cpp, save_members and load_members; the second
    polynomial of a seeded one: util/rlwe.cpp, sample_poly_uniform, from BLAKE2Xb [2].
    [2] Aumasson et al., BLAKE2X, 2016.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tenseal
from tenseal import sealapi

from privacy.parameters import ParameterSet
from privacy.residues import SEED_BYTES, Residues
from privacy.scratch import ScratchFile, scratch_file
from privacy.wire import MalformedCiphertext, array_header, body, header, saved
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARY_ERRORS: Final = (RuntimeError, ValueError, IndexError, TypeError, MemoryError)
"""What TenSEAL and SEAL raise through their bindings when they refuse bytes."""
_SECURITY: Final = {
    128: sealapi.SEC_LEVEL_TYPE.TC128,
    192: sealapi.SEC_LEVEL_TYPE.TC192,
}
_GENERATOR: Final = header(1 + SEED_BYTES) + b"\x01"  # before a seed: BLAKE2Xb, SEAL's only default


class TensealIncompatible(PrivacyError):
    """The installed TenSEAL does not do what this package relies on."""

    code = "tenseal-incompatible"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the installed TenSEAL {tenseal.__version__} cannot be used: {why}; install the "
            "version in requirements.lock"
        )


@dataclass(frozen=True)
class Ring:
    """A parameter set's SEAL context and slot encoder."""

    parameters: ParameterSet
    seal: Any
    encoder: Any

    def encode(self, slots: NDArray[np.uint64]) -> Any:
        """Return the plaintext whose slots are ``(ring_degree,)`` integers below t."""
        plaintext = sealapi.Plaintext()
        self.encoder.encode(slots.tolist(), plaintext)
        return plaintext

    def decode(self, plaintext: Any) -> NDArray[np.uint64]:
        """Return the ``(ring_degree,)`` slots of a plaintext."""
        return np.array(self.encoder.decode_uint64(plaintext), dtype=np.uint64)

    def ciphertext(self, values: NDArray[np.uint64], seed: bytes | None = None) -> Any:
        """Return SEAL's ciphertext of these residues.

        Args:
            values: ``(2, primes, ring_degree)``, or with a seed ``(1, primes, ring_degree)``.
            seed: Of the second polynomial.

        Raises:
            MalformedCiphertext: SEAL refuses them; a residue is not below its prime.
        """
        with scratch_file() as file:
            file.write(self._saved(values, seed))
            return self._load(file)

    def residues(self, ciphertext: Any) -> NDArray[np.uint64]:
        """Return the ``(2, primes, ring_degree)`` residues of one of SEAL's ciphertexts.

        Raises:
            MalformedCiphertext: It is of another level or form.
        """
        with scratch_file() as file:
            ciphertext.save(file.path)
            return self._residues(file.read(), 2)[0]

    def seeded(self, ciphertexts: Iterable[Any]) -> Residues:
        """Return what to send of ciphertexts that SEAL has just encrypted symmetrically."""
        values, seeds = [], []
        with scratch_file() as file:
            for ciphertext in ciphertexts:
                ciphertext.save(file.path)
                found, seed = self._residues(file.read(), 1)
                values.append(found)
                seeds.append(seed)
        return Residues(np.stack(values), (b"".join(seeds),))

    def expanded(self, sent: Residues) -> NDArray[np.uint64]:
        """Return all residues, the second polynomials drawn from the seeds and added up.

        Returns:
            ``(ciphertexts, 2, primes, ring_degree)``.
        """
        if not sent.seeds:
            return sent.values
        count, _, primes, degree = sent.values.shape
        values = np.empty((count, 2, primes, degree), dtype=np.uint64)
        add = sealapi.Evaluator(self.seal).add_inplace
        blank = self._saved(np.zeros((1, primes, degree), dtype=np.uint64), bytes(SEED_BYTES))
        with scratch_file() as file, scratch_file() as sum_file:
            file.write(blank)
            for i in range(count):
                total: Any = None
                for seeds in sent.seeds:
                    seed = seeds[SEED_BYTES * i : SEED_BYTES * (i + 1)]
                    file.patch(len(blank) - SEED_BYTES, seed)
                    drawn = self._load(file)
                    if total is None:
                        total = drawn
                    else:
                        add(total, drawn)
                total.save(sum_file.path)
                values[i] = self._residues(sum_file.read(), 2)[0]
        values[:, 0] = sent.values[:, 0]
        return values

    def _load(self, file: ScratchFile) -> Any:
        ciphertext = sealapi.Ciphertext()
        try:
            ciphertext.load(self.seal, file.path)
        except LIBRARY_ERRORS as error:
            raise MalformedCiphertext("SEAL does not take it") from error
        return ciphertext

    def _head(self, polynomials: int) -> bytes:
        """Return what precedes the words; a seeded ciphertext has two polynomials, one of words."""
        degree, primes = self.parameters.ring_degree, len(self.parameters.data_modulus)
        level = self.seal.first_parms_id()
        form = struct.pack("<4QBQQQdQ", *level, 0, 2, degree, primes, 1.0, 1)
        return form + array_header(polynomials * primes * degree)

    def _saved(self, values: NDArray[np.uint64], seed: bytes | None) -> bytes:
        degree, primes = self.parameters.ring_degree, len(self.parameters.data_modulus)
        polynomials = 2 if seed is None else 1
        assert values.shape == (polynomials, primes, degree)
        assert seed is None or len(seed) == SEED_BYTES
        words = values.astype("<u8", copy=False).tobytes()
        return saved(self._head(polynomials) + words + (_GENERATOR + seed if seed else b""))

    def _residues(self, blob: bytes, polynomials: int) -> tuple[NDArray[np.uint64], bytes]:
        """Return the residues in a saved ciphertext, and its seed where it has but one polynomial.

        Raises:
            MalformedCiphertext: It is laid out in another way.
        """
        degree, primes = self.parameters.ring_degree, len(self.parameters.data_modulus)
        head, end = self._head(polynomials), _GENERATOR if polynomials == 1 else b""
        words = 8 * polynomials * primes * degree
        size = len(head) + words + (len(end) + SEED_BYTES if end else 0)
        content = body(blob, limit=size)
        stop = len(head) + words
        found = content[: len(head)], content[stop : stop + len(end)]
        if len(content) != size or found != (head, end):
            raise MalformedCiphertext("it is of another level or form")
        values = np.frombuffer(content, "<u8", words // 8, len(head)).astype(np.uint64, copy=False)
        return values.reshape(polynomials, primes, degree), content[stop + len(end) :]


@lru_cache(maxsize=8)
def ring(parameters: ParameterSet) -> Ring:
    """Return the ring of a parameter set; making one takes about 0.02 s, so it is kept.

    Raises:
        TensealIncompatible: SEAL refuses the parameters, finds them weaker than they must be, or
            lays out ciphertexts in another way.
    """
    try:
        wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        wanted.set_poly_modulus_degree(parameters.ring_degree)
        wanted.set_coeff_modulus([sealapi.Modulus(prime) for prime in parameters.coeff_modulus])
        wanted.set_plain_modulus(parameters.plain_modulus)
        seal = sealapi.SEALContext(wanted, True, _SECURITY[parameters.security_bits])
        if not seal.parameters_set():
            raise TensealIncompatible(str(seal.parameters_error_message()))
        made = Ring(parameters, seal, sealapi.BatchEncoder(seal))
        _check_layout(made)
    except LIBRARY_ERRORS as error:
        raise TensealIncompatible("it does not take our parameters") from error
    return made


def _check_layout(made: Ring) -> None:
    """Write and read one ciphertext of each sort, under a key that nobody keeps."""
    key = sealapi.KeyGenerator(made.seal).secret_key()
    fresh = sealapi.Encryptor(made.seal, key).encrypt_symmetric(sealapi.Plaintext("0"))
    try:
        sent = made.seeded([fresh])
        (values,) = made.expanded(sent)
        again = made.residues(made.ciphertext(values))
    except MalformedCiphertext as error:
        raise TensealIncompatible("it lays out ciphertexts in another way") from error
    plaintext = sealapi.Plaintext()
    sealapi.Decryptor(made.seal, key).decrypt(made.ciphertext(again), plaintext)
    if not np.array_equal(values, again) or plaintext.to_string() != "0":
        raise TensealIncompatible("a ciphertext it made does not survive its residues")
