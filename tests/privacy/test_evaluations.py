"""Evaluations multiply as polynomials do, and SEAL takes the keys that are made of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy import evaluations, polynomials
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream
from privacy.ring import TensealIncompatible, ring

PARAMETERS = parameter_set("threshold-bfv-8")
RING = ring(PARAMETERS)
N, PRIMES = PARAMETERS.ring_degree, PARAMETERS.coeff_modulus
sparse = st.dictionaries(st.integers(0, N - 1), st.integers(-(10**6), 10**6), max_size=4)


def dense(terms):
    values = np.zeros(N, dtype=np.int64)
    for power, coefficient in terms.items():
        values[power] += coefficient
    return values


def product(a, b):
    """Schoolbook, with x^N = -1."""
    values = np.zeros(N, dtype=np.int64)
    for i, x in a.items():
        for j, y in b.items():
            values[(i + j) % N] += x * y if i + j < N else -x * y
    return values


def constant(value):
    return np.full((1, N), value, dtype=np.uint64)


@settings(max_examples=20, deadline=None)
@given(sparse, sparse)
def test_products_of_evaluations_are_evaluations_of_products(a, b):
    left, right = (evaluations.evaluate(dense(one), RING) for one in (a, b))
    expected = evaluations.evaluate(product(a, b), RING)
    assert np.array_equal(polynomials.multiply(left, right, PRIMES), expected)


@settings(max_examples=10, deadline=None)
@given(sparse, sparse)
def test_sums_of_evaluations_are_evaluations_of_sums(a, b):
    left, right = (evaluations.evaluate(dense(one), RING) for one in (a, b))
    expected = evaluations.evaluate(dense(a) + dense(b), RING)
    assert np.array_equal(polynomials.add(left, right, PRIMES), expected)


def test_the_points_are_all_the_primitive_roots():
    points = evaluations.evaluate(dense({1: 1}), RING)
    for row, prime in zip(points.tolist(), PRIMES, strict=True):
        assert len(set(row)) == N
        assert all(pow(point, N, prime) == prime - 1 for point in row[:50])


def key_pair():
    stream = RandomStream.from_system()
    secret = evaluations.evaluate(stream.below(3, N).astype(np.int64) - 1, RING)
    common = polynomials.uniform(stream, PRIMES, N)
    error = evaluations.evaluate(stream.below(7, N).astype(np.int64) - 3, RING)
    masked = polynomials.add(polynomials.multiply(common, secret, PRIMES), error, PRIMES)
    public = np.stack([polynomials.negate(masked, PRIMES), common])
    return evaluations.public_key(public, RING), evaluations.secret_key(secret, RING)


def test_seal_decrypts_what_it_encrypted_under_a_key_made_of_parts():
    public, secret = key_pair()
    slots = RandomStream.from_seed(1).below(PARAMETERS.plain_modulus, N)
    ciphertext, opened = sealapi.Ciphertext(), sealapi.Plaintext()
    sealapi.Encryptor(RING.seal, public).encrypt(RING.encode(slots), ciphertext)
    sealapi.Decryptor(RING.seal, secret).decrypt(ciphertext, opened)
    assert np.array_equal(RING.decode(opened), slots)


def test_a_ciphertext_is_multiplied_by_the_polynomial_of_the_evaluations():
    values = np.stack([polynomials.uniform(RandomStream.from_seed(i), PRIMES, N) for i in (1, 2)])
    values = values[:, :2]
    ciphertext, evaluator = RING.ciphertext(values), sealapi.Evaluator(RING.seal)
    shifted = evaluations.evaluate(dense({1: 1}), RING)[:2]
    evaluator.transform_to_ntt_inplace(ciphertext)
    evaluator.multiply_plain_inplace(ciphertext, evaluations.multiplier(shifted, RING))
    evaluator.transform_from_ntt_inplace(ciphertext)
    wrapped = polynomials.negate(values, PRIMES[:2])[..., -1:]
    expected = np.concatenate([wrapped, values[..., :-1]], axis=-1)
    assert np.array_equal(RING.residues(ciphertext), expected)


def test_a_residue_that_is_not_below_its_prime_makes_no_key():
    with pytest.raises(TensealIncompatible):
        evaluations.secret_key(np.full((3, N), 2**60, dtype=np.uint64), RING)
