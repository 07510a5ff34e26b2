"""The SEAL and TenSEAL objects of one parameter set, and what its ciphertexts must look like.

Nothing here holds a key: a ring is made from public parameters and is the same for everybody.

A ciphertext that honest parties made is a pair of polynomials whose N coefficients are uniform mod
q, to whoever has no key. Two facts follow that hostile bytes are measured by: its second polynomial
is not zero, and no lossless compression takes it below its entropy, bits(q)/64 of its words. SEAL
compresses what it saves, so a ciphertext that saves to less is none that honest parties made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tenseal
from tenseal import sealapi

from privacy.parameters import ParameterSet
from privacy.scratch import ScratchFile, scratch_file
from privacy.wire import MalformedCiphertext, context_bytes, read_vector
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARY_ERRORS: Final = (RuntimeError, ValueError, IndexError, TypeError, MemoryError)
"""What TenSEAL and SEAL raise through their bindings when they refuse bytes."""
_FRAME_BYTES_MAX: Final = 1024  # headers around a ciphertext's words; 123 to 204 seen


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
    """A parameter set's SEAL context, slot encoder and keyless TenSEAL context."""

    parameters: ParameterSet
    seal: Any
    encoder: Any
    keyless: Any

    def encode(self, slots: NDArray[np.uint64]) -> Any:
        """Return the plaintext whose slots are ``(ring_degree,)`` integers below t."""
        plaintext = sealapi.Plaintext()
        self.encoder.encode(slots.tolist(), plaintext)
        return plaintext

    def decode(self, plaintext: Any) -> NDArray[np.uint64]:
        """Return the ``(ring_degree,)`` slots of a plaintext."""
        return np.array(self.encoder.decode_uint64(plaintext), dtype=np.uint64)

    def load(self, blob: bytes, length: int, *, seeded: bool) -> Any:
        """Return hostile bytes as a TenSEAL vector of well-formed ciphertexts.

        Args:
            blob: An upload or a sum.
            length: How many values it must hold.
            seeded: Whether its ciphertexts carry a seed for their second polynomial, as uploads
                do, or both polynomials, as sums do.

        Raises:
            MalformedCiphertext: It has another number of ciphertexts, or one of them has a wrong
                size, level or form, or hides nothing (its second polynomial is zero).
        """
        degree = self.parameters.ring_degree
        ciphertexts = read_vector(blob, degree)
        if length < 1 or len(ciphertexts) != self.parameters.ciphertexts(length):
            raise MalformedCiphertext("it has another number of ciphertexts than its length needs")
        polynomials = 1 if seeded else 2
        shortest = self.entropy_bytes(polynomials)
        longest = polynomials * 8 * degree + _FRAME_BYTES_MAX
        if not all(shortest <= len(ciphertext) <= longest for ciphertext in ciphertexts):
            raise MalformedCiphertext("one of its ciphertexts is too short or too long")
        try:
            vector = tenseal.bfv_vector_from(self.keyless, blob)
            loaded = vector.ciphertext()
            level = self.seal.first_parms_id()
            sound = all(
                ciphertext.size() == 2
                and ciphertext.parms_id() == level
                and not ciphertext.is_ntt_form()
                and not ciphertext.is_transparent()
                for ciphertext in loaded
            )
        except LIBRARY_ERRORS as error:
            raise MalformedCiphertext("TenSEAL does not take it") from error
        if not sound or len(loaded) != len(ciphertexts):
            raise MalformedCiphertext("one of its ciphertexts has a wrong size, level or form")
        return vector

    def entropy_bytes(self, polynomials: int) -> int:
        """Return the fewest bytes that ``polynomials`` uniform polynomials mod q compress to."""
        bits = sum(self.parameters.coeff_modulus_bits)
        return polynomials * self.parameters.ring_degree * bits // 8

    def check_uniform(self, ciphertext: Any, file: ScratchFile) -> None:
        """Return if SEAL cannot compress the ciphertext below what uniform polynomials need.

        Raises:
            MalformedCiphertext: It can, so the ciphertext was crafted.
        """
        ciphertext.save(file.path)
        if file.size() < self.entropy_bytes(2):
            raise MalformedCiphertext("one of its ciphertexts is not random and was crafted")


@lru_cache(maxsize=8)
def ring(parameters: ParameterSet) -> Ring:
    """Return the ring of a parameter set; making one takes about 0.02 s, so it is kept.

    Raises:
        TensealIncompatible: TenSEAL refuses the parameters, or finds them weaker than 192 bits.
    """
    try:
        wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        wanted.set_poly_modulus_degree(parameters.ring_degree)
        wanted.set_coeff_modulus([sealapi.Modulus(prime) for prime in parameters.coeff_modulus])
        wanted.set_plain_modulus(parameters.plain_modulus)
        seal = sealapi.SEALContext(wanted, True, sealapi.SEC_LEVEL_TYPE.TC192)
        if not seal.parameters_set():
            raise TensealIncompatible(str(seal.parameters_error_message()))
        with scratch_file() as file:
            wanted.save(file.path)
            keyless = tenseal.context_from(context_bytes(file.read()))
        return Ring(parameters, seal, sealapi.BatchEncoder(seal), keyless)
    except LIBRARY_ERRORS as error:
        raise TensealIncompatible("it does not take our parameters") from error
