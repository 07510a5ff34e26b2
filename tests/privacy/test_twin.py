"""Packing and BFV agree with their slow twins, and a whole round of the twins adds up."""

from functools import reduce
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy.bfv import generate_key, update_residues
from privacy.packing import pack, unpack
from privacy.parameters import PRESETS, ParameterSet, parameter_set
from privacy.quantisation import QuantisedUpdate
from tests.privacy import twin

pytestmark = pytest.mark.slow


def shrunk(name, degree):
    """Return a preset in a ring too small to be secure, which its constructor would refuse."""
    small = object.__new__(ParameterSet)
    for attribute, value in vars(parameter_set(name)).items():
        object.__setattr__(small, attribute, degree if attribute == "ring_degree" else value)
    return small


def packed(chosen, row, weight):
    values = QuantisedUpdate(np.array(row, dtype=np.int32), chosen.value_bits, 0)
    return pack(values, weight, chosen).words.tolist()


def rows(chosen, *, sites, length):
    value = st.integers(-chosen.value_max, chosen.value_max)
    row = st.lists(value, min_size=length, max_size=length)
    return st.lists(row, min_size=sites, max_size=sites)


@st.composite
def cohorts(draw):
    chosen = draw(st.sampled_from([shrunk(n, d) for n in sorted(PRESETS) for d in (8, 16)]))
    sites = draw(st.sampled_from([1, 2, 5, 16]))
    return chosen, draw(rows(chosen, sites=sites, length=draw(st.integers(1, 70))))


@settings(max_examples=60)
@given(cohorts(), st.integers(1, 2**40))
def test_packing_agrees_with_its_twin(cohort, weight):
    chosen, values = cohort
    assert packed(chosen, values[0], weight) == twin.pack(values[0], weight, chosen)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_packing_agrees_with_its_twin_over_several_real_ciphertexts(name):
    chosen = parameter_set(name)
    length = chosen.fields * chosen.ring_degree + 5
    values = np.random.default_rng(3).integers(-chosen.value_max, chosen.value_max + 1, length)
    assert packed(chosen, values, 7) == twin.pack(values.tolist(), 7, chosen)


@settings(max_examples=60)
@given(cohorts())
def test_unpacking_agrees_with_its_twin(cohort):
    chosen, values = cohort
    slots = twin.add([twin.pack(row, 3, chosen) for row in values], chosen.plain_modulus)
    sums, weight = unpack(np.array(slots, dtype=np.uint64), len(values[0]), len(values), chosen)
    assert (sums.tolist(), weight) == twin.unpack(slots, len(values[0]), len(values), chosen)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 16]))
def test_a_round_of_twins_opens_to_the_sum(seed, sites):
    chosen, random = shrunk("packed-bfv-8", 16), Random(seed)
    ring = twin.TinyRing(16, chosen.coeff_modulus[0], chosen.plain_modulus)
    key, top = ring.key(random), chosen.value_max
    values = [[random.randint(-top, top) for _ in range(20)] for _ in range(sites)]
    uploads = [ring.encrypt(twin.pack(row, 5, chosen), key, random) for row in values]
    slots = ring.decrypt(reduce(ring.add, uploads), key)
    expected = [sum(column) for column in zip(*values, strict=True)], 5 * sites
    assert twin.unpack(slots, 20, sites, chosen) == expected
    sums, weight = unpack(np.array(slots, dtype=np.uint64), 20, sites, chosen)
    assert (sums.tolist(), weight) == expected


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_the_twins_ciphertext_is_message_and_noise_under_the_key(seed):
    chosen, random = shrunk("packed-bfv-12", 32), Random(seed)
    ring = twin.TinyRing(32, chosen.coeff_modulus[0], chosen.plain_modulus)
    key = ring.key(random)
    slots = [random.randrange(ring.t) for _ in range(32)]
    assert ring.decode(ring.encode(slots)) == slots
    phase = ring.phase(ring.encrypt(slots, key, random), key)
    assert within(ring, phase, ring.encode(slots), 8 * twin.FRESH_NOISE)
    stranger = ring.phase(ring.encrypt(slots, ring.key(Random(seed + 1)), random), key)
    assert not within(ring, stranger, ring.encode(slots), 8 * twin.FRESH_NOISE)


def within(ring, phase, message, noise):
    """Say whether the phase is the scaled message up to ``noise``."""
    off = ring.plus(phase, [-m for m in ring.scaled(message)])
    return max(abs(twin.centred(c, ring.q)) for c in off) <= noise


@pytest.mark.parametrize("name", ["packed-bfv-8", "packed-bfv-12"])
def test_seals_ciphertext_is_message_and_noise_under_the_key_as_the_twins_is(name, upload):
    chosen = parameter_set(name)
    ring = twin.TinyRing(chosen.ring_degree, chosen.coeff_modulus[0], chosen.plain_modulus)
    key = generate_key(chosen)
    secret = coefficients_of(key)
    assert set(secret) == {-1, 0, 1}
    sent = upload(key, [3, -chosen.value_max, chosen.value_max], 9)
    c0, c1 = update_residues(sent, chosen)[0, :, 0].tolist()
    phase = ring.plus(c0, times_ternary(c1, secret, ring.q))
    message = ring.unscaled(phase)
    assert within(ring, phase, message, 8 * twin.FRESH_NOISE)
    slots = key.ring.decode(sealapi.Plaintext(polynomial_text(message)))
    assert slots.tolist() == packed(chosen, [3, -chosen.value_max, chosen.value_max], 9)


def coefficients_of(key):
    """Return the secret key, which is what (0, floor(q/t)) decrypts to: the scaled message s."""
    chosen, degree = key.parameters, key.parameters.ring_degree
    values = np.zeros((2, 1, degree), dtype=np.uint64)
    values[1, 0, 0] = chosen.coeff_modulus[0] // chosen.plain_modulus
    plaintext = sealapi.Plaintext()
    key.decryptor().decrypt(key.ring.ciphertext(values), plaintext)
    found = [plaintext[i] for i in range(plaintext.coeff_count())]
    found += [0] * (degree - len(found))
    return [twin.centred(c, chosen.plain_modulus) for c in found]


def times_ternary(a, secret, modulus):
    """Return the twin's product faster: for each x^j in the key, turn ``a`` by j and add it."""
    total = np.zeros(len(a), dtype=object)
    for j, c in enumerate(secret):
        if c:
            turned = np.array([-x for x in a[len(a) - j :]] + a[: len(a) - j], dtype=object)
            total = total + turned if c == 1 else total - turned
    return [int(c) % modulus for c in total]


def polynomial_text(message):
    """Return the notation of SEAL: hexadecimal coefficients, the highest power first."""
    terms = [f"{c:X}x^{i}" if i else f"{c:X}" for i, c in enumerate(message) if c]
    return " + ".join(reversed(terms)) or "0"
