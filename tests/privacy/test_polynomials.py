"""Arithmetic on residues agrees with Python's integers, and bytes are read one way only."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import polynomials
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream

PRIMES = parameter_set("threshold-bfv-8").coeff_modulus
EDGES = [0, 1, 2**30 - 1, 2**30, 2**30 + 1, 2**59, *(p - k for p in PRIMES for k in (1, 2, 2**30))]
residue = st.one_of(st.sampled_from(EDGES), st.integers(0, min(PRIMES) - 1))
rows = st.lists(st.tuples(residue, residue), min_size=1, max_size=20)


def columns(pairs):
    """Two arrays (primes, n) from pairs of residues."""
    left = np.array([[a % p for a, _ in pairs] for p in PRIMES], dtype=np.uint64)
    right = np.array([[b % p for _, b in pairs] for p in PRIMES], dtype=np.uint64)
    return left, right


def twin(operation, *arrays):
    """The same in Python's integers."""
    return [
        [operation(*map(int, entries)) % p for entries in zip(*row, strict=True)]
        for p, row in zip(PRIMES, zip(*arrays, strict=True), strict=True)
    ]


@given(rows)
def test_products_agree_with_python(pairs):
    a, b = columns(pairs)
    assert polynomials.multiply(a, b, PRIMES).tolist() == twin(lambda x, y: x * y, a, b)


@given(rows)
def test_sums_and_negatives_agree_with_python(pairs):
    a, b = columns(pairs)
    assert polynomials.add(a, b, PRIMES).tolist() == twin(lambda x, y: x + y, a, b)
    assert polynomials.negate(a, PRIMES).tolist() == twin(lambda x: -x, a)


@given(rows, st.integers(0, 2**30 - 1))
def test_multiples_agree_with_python(pairs, factor):
    a, _ = columns(pairs)
    assert polynomials.times_small(a, factor, PRIMES).tolist() == twin(lambda x: x * factor, a)


def test_many_random_products_agree_with_python():
    stream = RandomStream.from_seed(1)
    a, b = (polynomials.uniform(stream, PRIMES, 4000) for _ in range(2))
    assert polynomials.multiply(a, b, PRIMES).tolist() == twin(lambda x, y: x * y, a, b)


def test_one_number_for_each_prime_multiplies_a_whole_batch():
    stream = RandomStream.from_seed(2)
    batch = np.stack([polynomials.uniform(stream, PRIMES, 5) for _ in range(3)])
    number = polynomials.uniform(stream, PRIMES, 1)
    product = polynomials.multiply(batch, number, PRIMES)
    for one, of in zip(product, batch, strict=True):
        assert one.tolist() == twin(lambda x, y: x * y, of, np.repeat(number, 5, axis=1))


@given(st.lists(st.integers(-(2**58), 2**58), min_size=1, max_size=9))
def test_signed_integers_become_their_residues(values):
    lifted = polynomials.lift(np.array(values, dtype=np.int64), PRIMES)
    assert lifted.tolist() == [[value % p for value in values] for p in PRIMES]


@given(st.integers(1, 3), st.integers(0, 2**32))
def test_packed_residues_are_read_back(count, seed):
    stream = RandomStream.from_seed(seed)
    values = np.stack([polynomials.uniform(stream, PRIMES, 32) for _ in range(count)])
    packed = polynomials.pack(values, PRIMES)
    assert len(packed) == count * polynomials.packed_bytes(PRIMES, 32)
    assert np.array_equal(polynomials.unpack(packed, PRIMES, 32), values)


@pytest.mark.parametrize("row", range(3))
def test_a_residue_that_is_not_below_its_prime_is_refused(row):
    values = np.zeros((1, 3, 16), dtype=np.uint64)
    values[0, row, 5] = PRIMES[row]
    assert polynomials.unpack(polynomials.pack(values, PRIMES), PRIMES, 16) is None


@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_of_another_length_are_refused(change):
    size = polynomials.packed_bytes(PRIMES, 16) + change
    assert polynomials.unpack(bytes(size), PRIMES, 16) is None


def test_hashed_residues_are_shake_words_below_the_prime():
    prime = 2**59 + 1  # not prime: what counts is that nearly half of the words are left out
    found = polynomials.hashed(b"seed", (97, prime), 40)
    for i, bound in enumerate((97, prime)):
        stream = hashlib.shake_256(b"seed" + bytes([i])).digest(8 * 400)
        words = (int.from_bytes(stream[k : k + 8], "little") for k in range(0, len(stream), 8))
        kept = [word >> (64 - bound.bit_length()) for word in words]
        assert found[i].tolist() == [word for word in kept if word < bound][:40]
