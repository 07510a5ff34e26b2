"""Residues become SEAL's ciphertexts and come back; ciphertexts of other forms are refused."""

from dataclasses import replace

import numpy as np
import pytest
from tenseal import sealapi

from privacy.parameters import PRESETS, parameter_set
from privacy.randomness import RandomStream
from privacy.residues import SEED_BYTES, Residues
from privacy.ring import TensealIncompatible, ring
from privacy.wire import MalformedCiphertext


def uniform(parameters, polynomials, seed=1):
    stream = RandomStream.from_seed(seed, "ring")
    shape = polynomials, parameters.ring_degree
    rows = [stream.below(q, int(np.prod(shape))).reshape(shape) for q in parameters.data_modulus]
    return np.stack(rows, axis=1)


@pytest.fixture(params=sorted(PRESETS))
def parameters(request):
    return parameter_set(request.param)


def test_residues_survive_being_a_ciphertext(parameters):
    made = ring(parameters)
    values = uniform(parameters, 2)
    assert np.array_equal(made.residues(made.ciphertext(values)), values)


def test_the_same_seed_expands_to_the_same_polynomial(parameters):
    made = ring(parameters)
    first = uniform(parameters, 1)
    expanded = made.residues(made.ciphertext(first, b"s" * SEED_BYTES))
    assert np.array_equal(expanded[:1], first)
    other = made.residues(made.ciphertext(first, b"t" * SEED_BYTES))
    assert not np.array_equal(expanded[1], other[1])
    for number, prime in enumerate(parameters.data_modulus):
        assert expanded[1, number].max() < prime
        assert np.unique(expanded[1, number]).size == parameters.ring_degree


def test_the_seeds_of_a_sum_are_expanded_and_added(parameters):
    made = ring(parameters)
    first = np.stack([uniform(parameters, 1, seed) for seed in (1, 2)])
    seeds = [bytes([number]) * SEED_BYTES for number in range(6)]
    sent = Residues(first, tuple(b"".join(seeds[i : i + 2]) for i in (0, 2, 4)))
    found = made.expanded(sent)
    assert np.array_equal(found[:, :1], first)
    primes = np.array(parameters.data_modulus, dtype=object)[:, None]
    for i in range(2):
        each = [made.residues(made.ciphertext(first[0], seed))[1] for seed in seeds[i::2]]
        assert (found[i, 1] == sum(one.astype(object) for one in each) % primes).all()


def test_both_polynomials_need_no_expansion(parameters):
    values = uniform(parameters, 2)[None]
    assert ring(parameters).expanded(Residues(values)) is values


def test_a_residue_beyond_its_prime_is_refused(parameters):
    values = uniform(parameters, 2)
    values[1, -1, 7] = parameters.data_modulus[-1]
    with pytest.raises(MalformedCiphertext):
        ring(parameters).ciphertext(values)


def test_ciphertexts_of_another_form_are_refused(parameters):
    made = ring(parameters)
    evaluator = sealapi.Evaluator(made.seal)
    transformed, third = (made.ciphertext(uniform(parameters, 2)) for _ in range(2))
    evaluator.transform_to_ntt_inplace(transformed)
    third.resize(made.seal, 3)
    other = ring(parameter_set("threshold-bfv-8" if parameters.seeded else "packed-bfv-8"))
    foreign = other.ciphertext(uniform(other.parameters, 2))
    for strange in (transformed, third, foreign):
        with pytest.raises(MalformedCiphertext):
            made.residues(strange)


def test_slots_survive_being_a_plaintext(parameters):
    made = ring(parameters)
    slots = RandomStream.from_seed(5).below(parameters.plain_modulus, parameters.ring_degree)
    assert np.array_equal(made.decode(made.encode(slots)), slots)


def test_a_ring_weaker_than_its_set_says_is_refused():
    weak = replace(parameter_set("threshold-bfv-8"), name="weak")
    object.__setattr__(weak, "security_bits", 192)  # past the set's own check
    with pytest.raises(TensealIncompatible):
        ring(weak)
