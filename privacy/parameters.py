"""The encryption's parameter sets: ring, moduli, how values are packed, how many sites fit.

    >>> parameter_set("packed-bfv-8").max_sites
    64

What holds for every set that can be constructed, each a test in tests/privacy/test_parameters.py:

1. Fields have room: where one site's range is 4.5 standard deviations of its noised values, the
   sum of ``max_sites`` such values reaches a field's end at 8 of its own deviations or beyond.
2. A word has room for its fields: ``fields`` fields lie below the plaintext modulus.
3. The plaintext modulus is one that gives every coefficient a slot: t = 1 mod 2N.
4. The ring is as hard as ``security_bits`` classically by the standard's table [1], for ternary
   secrets and all primes, the special one included.

Rule 1 is about honest, centred, independent values; a normal value passes 8 deviations once in
8 * 10**14. Up to ``field_max // value_max`` sites, 64 for ``threshold-bfv-8`` and 16 for the
others, no values at all overflow a field. Beyond that some do, all sites at the largest
value for one, and then unpacking the sum finds out and refuses it: see ``privacy.packing``.

References:
    [1] Albrecht et al., Homomorphic Encryption Standard, 2018, table 1.
    [2] Brakerski, CRYPTO 2012; Fan and Vercauteren, ePrint 2012/144 (BFV).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigurationError, PrivacyError

WEIGHT_MAX: Final = 2**40
"""The largest weight of one site; it has a slot of its own."""
RANGE_DEVIATIONS: Final = 4.5
"""Standard deviations of a noised value in one site's range, which ``value_max`` steps span."""
FIELD_DEVIATIONS: Final = 8.0
"""Standard deviations of the largest cohort's sum that a field must have room for."""
_COEFF_BITS_MAX: Final = {
    128: {4096: 109, 8192: 218, 16384: 438},
    192: {4096: 75, 8192: 152, 16384: 305},
}
"""Bits of all primes at most, by classical security in bits and by ring degree [1]."""


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
        coeff_modulus: One prime, q; or several, of which the last is special: keys have it,
            and encrypting under a public key rounds it away with most of the noise.
        plain_modulus: t, a prime; a slot holds an integer mod t.
        fields: Values packed into one slot.
        field_bits: Bits of one field, sign included.
        value_bits: Bits of one site's quantised value, sign included.
        max_sites: Sites in one sum at most.
        seeded: Whether updates are encrypted under the secret key, with a seed in place of
            their second polynomial; else under a public key, with both polynomials.
        security_bits: What rule 4 holds for, 128 or 192.
    """

    name: str
    ring_degree: int
    coeff_modulus: tuple[int, ...]
    plain_modulus: int
    fields: int
    field_bits: int
    value_bits: int
    max_sites: int
    seeded: bool = True
    security_bits: int = 192

    def __post_init__(self) -> None:
        if self.max_sites < 1 or self._sum_max > self.field_max:
            raise ParametersUnsafe(self.name, "its fields overflow at the largest cohort")
        if self.fields < 1 or 2 ** (self.fields * self.field_bits) > self.plain_modulus:
            raise ParametersUnsafe(self.name, "its fields do not fit into the plaintext modulus")
        if self.max_sites * WEIGHT_MAX >= self.plain_modulus:
            raise ParametersUnsafe(self.name, "the weights' slot overflows at the largest cohort")
        if self.plain_modulus % (2 * self.ring_degree) != 1:
            raise ParametersUnsafe(self.name, "its plaintext modulus does not allow slots")
        allowed = _COEFF_BITS_MAX.get(self.security_bits, {}).get(self.ring_degree, 0)
        if sum(self.coeff_modulus_bits) > allowed:
            why = f"it is below {self.security_bits} bits of classical security"
            raise ParametersUnsafe(self.name, why)

    @property
    def data_modulus(self) -> tuple[int, ...]:
        """The primes of ciphertexts: all but the special one, which is for keys alone."""
        return self.coeff_modulus[:-1] if len(self.coeff_modulus) > 1 else self.coeff_modulus

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

    @property
    def _sum_max(self) -> float:
        """The magnitude that a field must hold by rule 1."""
        deviation = self.value_max / RANGE_DEVIATIONS * math.sqrt(self.max_sites)
        return FIELD_DEVIATIONS * deviation

    def check_sites(self, sites: int) -> None:
        """Return if fields have room for a sum of ``sites`` sites, by rule 1.

        Raises:
            TooManySites: They have not, or there are none.
        """
        if not 1 <= sites <= self.max_sites:
            raise TooManySites(sites, self.max_sites)

    def ciphertexts(self, length: int) -> int:
        """Return how many ciphertexts hold an update of ``length`` values.

        One slot of each ciphertext is a check word; the first has two more, for the weight and
        for the check sum.
        """
        assert length >= 1
        words = -(-length // self.fields)
        return -(-(words + 2) // (self.ring_degree - 1))


# The largest primes of 60, 49 and 57 bits that are 1 mod 2N; SEAL's own choice for these sizes.
_Q60: Final = 1152921504606830593
_Q60_SECOND: Final = 1152921504606748673
_Q60_THIRD: Final = 1152921504606683137
_T49: Final = 562949953216513
_T57: Final = 144115188075593729

PRESETS: Final = {
    preset.name: preset
    for preset in (
        # Under differential privacy 8 bits cost 0.02 % more noise variance.
        ParameterSet("packed-bfv-8", 4096, (_Q60,), _T49, 4, 12, 8, 64),
        # Without noise, rounding is the largest error, so values get 12 bits.
        ParameterSet("packed-bfv-12", 4096, (_Q60,), _T49, 3, 16, 12, 64),
        # Opened by a quorum: noise of 2**48 hides the key shares, hence two primes of data; and
        # a key nobody holds encrypts only in public, hence a special third and no seeds.
        ParameterSet(
            name="threshold-bfv-8",
            ring_degree=8192,
            coeff_modulus=(_Q60_THIRD, _Q60_SECOND, _Q60),
            plain_modulus=_T57,
            fields=4,
            field_bits=14,
            value_bits=8,
            max_sites=64,
            seeded=False,
            security_bits=128,
        ),
        # Where sites share the noise, what each sends is rounded patient by patient, and a fine
        # grid is what keeps that from costing noise (``privacy.summed_noise``).
        ParameterSet("packed-bfv-20", 4096, (_Q60,), _T49, 2, 24, 20, 64),
        ParameterSet(
            name="threshold-bfv-20",
            ring_degree=8192,
            coeff_modulus=(_Q60_THIRD, _Q60_SECOND, _Q60),
            plain_modulus=_T57,
            fields=2,
            field_bits=24,
            value_bits=20,
            max_sites=64,
            seeded=False,
            security_bits=128,
        ),
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
