"""The encryption's parameter sets: ring, moduli, how values are packed, how many sites fit.

    >>> parameter_set("packed-bfv-8").max_sites
    16

What holds for every set that can be constructed, each a test in tests/privacy/test_parameters.py:

1. No field overflows: ``max_sites`` sites, all at the largest value, stay inside it.
2. No word overflows: ``fields`` fields lie below the plaintext modulus.
3. The plaintext modulus is one that gives every coefficient a slot: t = 1 mod 2N.
4. The ring is as hard as 192 bits classically by the standard's table [1], ternary secrets.

Rule 1 is the worst case. Noised values are centred: at a range of 4.5 standard deviations the sum
of 50 sites reaches a 12-bit field's end only at 10 deviations, so a statistical bound would admit
many more sites. It would hold with high probability and for honest sites only, hence not today.

References:
    [1] Albrecht et al., Homomorphic Encryption Standard, 2018, table 1.
    [2] Brakerski, CRYPTO 2012; Fan and Vercauteren, ePrint 2012/144 (BFV).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigurationError, PrivacyError

WEIGHT_MAX: Final = 2**40
"""The largest weight of one site; it has a slot of its own."""
_COEFF_BITS_MAX: Final = {4096: 75, 8192: 152, 16384: 305}
"""Bits of coefficient modulus at 192-bit classical security, by ring degree [1]."""


class ParametersUnsafe(ConfigurationError):
    """A parameter set would overflow or be weaker than promised."""

    code = "parameters-unsafe"

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why
        super().__init__(f"the parameter set {name} cannot be used: {why}")


class ParametersUnknown(ConfigurationError):
    """No parameter set has this name."""

    code = "parameters-unknown"

    def __init__(self, name: str) -> None:
        self.name = name
        known = ", ".join(sorted(PRESETS))
        super().__init__(f"there is no parameter set {name!r}; choose one of {known}")


class TooManySites(PrivacyError):
    """More sites than the fields of the packed sum have room for, or none."""

    code = "too-many-sites"

    def __init__(self, sites: int, max_sites: int) -> None:
        self.sites = sites
        self.max_sites = max_sites
        super().__init__(
            f"a sum of {sites} sites does not fit: this parameter set holds 1 to {max_sites}; "
            "choose smaller cohorts or a set with wider fields"
        )


@dataclass(frozen=True)
class ParameterSet:
    """Everything both ends must agree on to add and open packed ciphertexts.

    Attributes:
        name: Travels with every ciphertext; a set's meaning never changes.
        ring_degree: N, also the number of slots in one ciphertext.
        coeff_modulus: The primes whose product is q; one, as nothing is ever multiplied.
        plain_modulus: t, a prime; a slot holds an integer mod t.
        fields: Values packed into one slot.
        field_bits: Bits of one field, sign included.
        value_bits: Bits of one site's quantised value, sign included.
        max_sites: Sites in one sum at most.
    """

    name: str
    ring_degree: int
    coeff_modulus: tuple[int, ...]
    plain_modulus: int
    fields: int
    field_bits: int
    value_bits: int
    max_sites: int

    def __post_init__(self) -> None:
        if self.max_sites < 1 or self.max_sites * self.value_max > self.field_max:
            raise ParametersUnsafe(self.name, "its fields overflow at the largest cohort")
        if self.fields < 1 or 2 ** (self.fields * self.field_bits) > self.plain_modulus:
            raise ParametersUnsafe(self.name, "its fields do not fit into the plaintext modulus")
        if self.max_sites * WEIGHT_MAX >= self.plain_modulus:
            raise ParametersUnsafe(self.name, "the weights' slot overflows at the largest cohort")
        if self.plain_modulus % (2 * self.ring_degree) != 1:
            raise ParametersUnsafe(self.name, "its plaintext modulus does not allow slots")
        if sum(self.coeff_modulus_bits) > _COEFF_BITS_MAX.get(self.ring_degree, 0):
            raise ParametersUnsafe(self.name, "it is below 192 bits of classical security")

    @property
    def coeff_modulus_bits(self) -> tuple[int, ...]:
        """Bits of each prime of q."""
        return tuple(prime.bit_length() for prime in self.coeff_modulus)

    @property
    def plain_modulus_bits(self) -> int:
        """Bits of t."""
        return self.plain_modulus.bit_length()

    @property
    def value_max(self) -> int:
        """The largest magnitude of one site's quantised value."""
        return int(2 ** (self.value_bits - 1) - 1)

    @property
    def field_max(self) -> int:
        """The largest magnitude of a sum that a field holds."""
        return int(2 ** (self.field_bits - 1) - 1)

    def check_sites(self, sites: int) -> None:
        """Return if a sum of ``sites`` sites cannot overflow.

        Raises:
            TooManySites: It could, or there are none.
        """
        if not 1 <= sites <= self.max_sites:
            raise TooManySites(sites, self.max_sites)

    def ciphertexts(self, length: int) -> int:
        """Return how many ciphertexts hold an update of ``length`` values.

        One slot of each ciphertext is a check word, one slot of the first is the weight.
        """
        assert length >= 1
        words = -(-length // self.fields)
        return -(-(words + 1) // (self.ring_degree - 1))


# The largest 60-bit and 49-bit primes that are 1 mod 2N; SEAL's own choice for these sizes.
_Q60: Final = 1152921504606830593
_T49: Final = 562949953216513

PRESETS: Final = {
    preset.name: preset
    for preset in (
        # Under differential privacy 8 bits cost 0.02 % more noise variance.
        ParameterSet("packed-bfv-8", 4096, (_Q60,), _T49, 4, 12, 8, 16),
        # Without noise, rounding is the largest error, so values get 12 bits.
        ParameterSet("packed-bfv-12", 4096, (_Q60,), _T49, 3, 16, 12, 16),
    )
}


def parameter_set(name: str) -> ParameterSet:
    """Return the preset called ``name``.

    Raises:
        ParametersUnknown: There is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ParametersUnknown(name) from None
