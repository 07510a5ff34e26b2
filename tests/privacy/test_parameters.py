"""No parameter set can be made that overflows, has no slots, or is weaker than promised."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.parameters import (
    PRESETS,
    WEIGHT_MAX,
    ParametersUnknown,
    ParametersUnsafe,
    TooManySites,
    parameter_set,
)


@pytest.fixture(params=sorted(PRESETS))
def each(request):
    return parameter_set(request.param)


def test_the_presets_are_those_the_design_names():
    shapes = {n: (p.fields, p.field_bits, p.value_bits, p.max_sites) for n, p in PRESETS.items()}
    assert shapes == {"packed-bfv-8": (4, 12, 8, 16), "packed-bfv-12": (3, 16, 12, 16)}
    for preset in PRESETS.values():
        assert preset.ring_degree == 4096
        assert preset.coeff_modulus_bits == (60,)
        assert preset.plain_modulus_bits == 49


def test_the_moduli_are_primes_that_allow_slots(each):
    for modulus in (*each.coeff_modulus, each.plain_modulus):
        assert is_prime(modulus)
        assert modulus % (2 * each.ring_degree) == 1


def test_the_largest_cohort_is_the_largest_that_cannot_overflow(each):
    assert each.max_sites * each.value_max <= each.field_max
    assert (each.max_sites + 1) * each.value_max > each.field_max
    with pytest.raises(ParametersUnsafe):
        replace(each, max_sites=each.max_sites + 1)


@given(st.sampled_from(sorted(PRESETS)), st.integers(-3, 40))
def test_a_cohort_is_taken_exactly_when_it_fits(name, sites):
    preset = parameter_set(name)
    if 1 <= sites <= preset.max_sites:
        preset.check_sites(sites)
    else:
        with pytest.raises(TooManySites) as refused:
            preset.check_sites(sites)
        assert refused.value.sites == sites


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 10**9))
def test_the_ciphertexts_are_the_fewest_with_room_for_words_weight_and_check_words(name, length):
    preset = parameter_set(name)
    count = preset.ciphertexts(length)
    needed = -(-length // preset.fields) + 1
    assert count * (preset.ring_degree - 1) >= needed > (count - 1) * (preset.ring_degree - 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"max_sites": 0}, "overflow"),
        ({"value_bits": 9}, "overflow"),
        ({"field_bits": 11, "max_sites": 16}, "overflow"),
        ({"fields": 5}, "do not fit"),
        ({"fields": 0}, "do not fit"),
        ({"plain_modulus": 562949953216512}, "slots"),
        ({"coeff_modulus": (2**60 - 1, 2**49 - 1)}, "192 bits"),
        ({"ring_degree": 2048}, "192 bits"),
        ({"fields": 3, "plain_modulus": WEIGHT_MAX * 16 - 8191}, "weights"),
    ],
)
def test_an_unsafe_set_cannot_be_made(change, why):
    with pytest.raises(ParametersUnsafe, match=why):
        replace(parameter_set("packed-bfv-8"), **change)


def test_an_unknown_set_is_refused_with_the_known_ones_named():
    with pytest.raises(ParametersUnknown, match="packed-bfv-12, packed-bfv-8"):
        parameter_set("ckks")


def is_prime(n):
    """Miller and Rabin with bases that are certain below 3.3 * 10**24."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41):
        x = pow(base, odd, n)
        if x in {1, n - 1}:
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True
