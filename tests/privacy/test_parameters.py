"""No parameter set can be made that has too little room, no slots, or is weaker than promised."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenseal import sealapi

from privacy.parameters import (
    FIELD_DEVIATIONS,
    PRESETS,
    RANGE_DEVIATIONS,
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
    assert shapes == {
        "packed-bfv-8": (4, 12, 8, 64),
        "packed-bfv-12": (3, 16, 12, 64),
        "packed-bfv-20": (2, 24, 20, 64),
        "threshold-bfv-8": (4, 14, 8, 64),
        "threshold-bfv-20": (2, 24, 20, 64),
    }
    for name in ("packed-bfv-8", "packed-bfv-12", "packed-bfv-20"):
        preset = parameter_set(name)
        assert (preset.ring_degree, preset.coeff_modulus_bits) == (4096, (60,))
        assert (preset.plain_modulus_bits, preset.security_bits) == (49, 192)
        assert preset.seeded
    for name in ("threshold-bfv-8", "threshold-bfv-20"):
        quorum = parameter_set(name)
        assert (quorum.ring_degree, quorum.coeff_modulus_bits) == (8192, (60, 60, 60))
        assert (quorum.plain_modulus_bits, quorum.security_bits) == (57, 128)
        assert not quorum.seeded


def test_the_moduli_are_primes_that_allow_slots(each):
    for modulus in (*each.coeff_modulus, each.plain_modulus):
        assert is_prime(modulus)
        assert modulus % (2 * each.ring_degree) == 1


def test_the_moduli_are_those_seal_chooses(each):
    bits = list(each.coeff_modulus_bits)
    chosen = sealapi.CoeffModulus.Create(each.ring_degree, bits)
    assert each.coeff_modulus == tuple(prime.value() for prime in chosen)
    slots = sealapi.PlainModulus.Batching(each.ring_degree, each.plain_modulus_bits)
    assert each.plain_modulus == slots.value()


@pytest.mark.parametrize("security_bits", [128, 192])
@pytest.mark.parametrize("degree", [4096, 8192, 16384])
def test_the_security_table_is_seals(security_bits, degree):
    level = {128: sealapi.SEC_LEVEL_TYPE.TC128, 192: sealapi.SEC_LEVEL_TYPE.TC192}[security_bits]
    most = sealapi.CoeffModulus.MaxBitCount(degree, level)
    base = replace(
        parameter_set("packed-bfv-8"),
        ring_degree=degree,
        plain_modulus=sealapi.PlainModulus.Batching(degree, 49).value(),
        security_bits=security_bits,
    )
    replace(base, coeff_modulus=(2 ** (most - 1) + 1,))
    with pytest.raises(ParametersUnsafe, match=f"{security_bits} bits"):
        replace(base, coeff_modulus=(2**most + 1,))


def test_ciphertexts_have_all_primes_but_the_special_one():
    assert parameter_set("packed-bfv-8").data_modulus == parameter_set("packed-bfv-8").coeff_modulus
    quorum = parameter_set("threshold-bfv-8")
    assert quorum.data_modulus == quorum.coeff_modulus[:2]


def test_the_largest_cohorts_honest_sum_stays_eight_deviations_inside_its_field(each):
    deviation = math.sqrt(each.max_sites) * each.value_max / RANGE_DEVIATIONS
    assert FIELD_DEVIATIONS * deviation <= each.field_max
    most = int((each.field_max * RANGE_DEVIATIONS / FIELD_DEVIATIONS / each.value_max) ** 2)
    replace(each, max_sites=most)
    with pytest.raises(ParametersUnsafe, match="overflow"):
        replace(each, max_sites=most + 1)


def test_the_threshold_set_never_overflows_and_the_others_not_up_to_sixteen():
    always = {name: p.field_max // p.value_max for name, p in PRESETS.items()}
    assert always.pop("threshold-bfv-8") == 64
    assert set(always.values()) == {16}


@given(st.sampled_from(sorted(PRESETS)), st.integers(-3, 90))
def test_a_cohort_is_taken_exactly_when_it_fits(name, sites):
    preset = parameter_set(name)
    if 1 <= sites <= preset.max_sites:
        preset.check_sites(sites)
    else:
        with pytest.raises(TooManySites) as refused:
            preset.check_sites(sites)
        assert refused.value.sites == sites


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 10**9))
def test_the_ciphertexts_are_the_fewest_with_room_for_words_and_what_stands_beside_them(
    name, length
):
    preset = parameter_set(name)
    count = preset.ciphertexts(length)
    needed = -(-length // preset.fields) + 2
    assert count * (preset.ring_degree - 1) >= needed > (count - 1) * (preset.ring_degree - 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"max_sites": 0}, "overflow"),
        ({"value_bits": 9}, "overflow"),
        ({"field_bits": 11}, "overflow"),
        ({"fields": 5}, "do not fit"),
        ({"fields": 0}, "do not fit"),
        ({"plain_modulus": 562949953216512}, "slots"),
        ({"coeff_modulus": (2**60 - 1, 2**49 - 1)}, "192 bits"),
        ({"coeff_modulus": (2**60 - 1, 2**50 - 1), "security_bits": 128}, "128 bits"),
        ({"security_bits": 256}, "256 bits"),
        ({"ring_degree": 2048}, "192 bits"),
        ({"fields": 3, "plain_modulus": WEIGHT_MAX * 64 - 8191}, "weights"),
    ],
)
def test_an_unsafe_set_cannot_be_made(change, why):
    with pytest.raises(ParametersUnsafe, match=why):
        replace(parameter_set("packed-bfv-8"), **change)


def test_an_unknown_set_is_refused_with_the_known_ones_named():
    known = "packed-bfv-12, packed-bfv-20, packed-bfv-8, threshold"
    with pytest.raises(ParametersUnknown, match=known):
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
