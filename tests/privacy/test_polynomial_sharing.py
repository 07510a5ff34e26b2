"""A quorum's shares give a polynomial back, and fewer say nothing about it."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import polynomials
from privacy.parameters import parameter_set
from privacy.polynomial_sharing import join, split, weights
from privacy.randomness import RandomStream

PRIMES = parameter_set("threshold-bfv-8").data_modulus
STREAM = RandomStream.from_system()


def polynomial():
    return polynomials.uniform(STREAM, PRIMES, 3)


def python_join(shares, prime):
    """The slow twin for one row of residues: interpolate at zero in Python's integers."""
    points = {holder + 1: list(map(int, share)) for holder, share in shares.items()}
    total = [0] * len(next(iter(points.values())))
    for x, values in points.items():
        weight = 1
        for other in points:
            if other != x:
                weight = weight * -other * pow(x - other, -1, prime) % prime
        total = [(sum_ + weight * y) % prime for sum_, y in zip(total, values, strict=True)]
    return total


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_quorum_joins_to_the_secret_as_in_python(data):
    holders = data.draw(st.integers(2, 64))
    threshold = data.draw(st.integers(2, min(holders, 12)))
    size = data.draw(st.integers(threshold, min(holders, threshold + 3)))
    quorum = data.draw(st.permutations(range(holders)))[:size]
    secret = polynomial()
    shares = split(secret, threshold=threshold, holders=holders, primes=PRIMES, stream=STREAM)
    chosen = {holder: shares[holder] for holder in quorum}
    assert np.array_equal(join(chosen, primes=PRIMES), secret)
    for i, prime in enumerate(PRIMES):
        rows = {holder: share[i] for holder, share in chosen.items()}
        assert python_join(rows, prime) == secret[i].tolist()


def test_every_quorum_of_a_small_group_agrees():
    secret = polynomial()
    shares = split(secret, threshold=3, holders=5, primes=PRIMES, stream=STREAM)
    for quorum in combinations(range(5), 3):
        assert np.array_equal(join({i: shares[i] for i in quorum}, primes=PRIMES), secret)


@given(st.integers(2, 5))
def test_a_share_too_few_fits_every_secret(threshold):
    secret, other = polynomial(), polynomial()
    shares = split(secret, threshold=threshold, holders=5, primes=PRIMES, stream=STREAM)
    known = {i: shares[i] for i in range(threshold - 1)}
    # The last share that would make the known ones join to another secret: solve for it.
    quorum = [*known, 4]
    rest = other
    for holder, share in known.items():
        term = polynomials.multiply(share, weights(holder, quorum, PRIMES), PRIMES)
        rest = polynomials.add(rest, polynomials.negate(term, PRIMES), PRIMES)
    column = weights(4, quorum, PRIMES)
    inverse = np.array(
        [[pow(int(w[0]), -1, p)] for w, p in zip(column, PRIMES, strict=True)], dtype=np.uint64
    )
    last = polynomials.multiply(rest, inverse, PRIMES)
    assert np.array_equal(join({**known, 4: last}, primes=PRIMES), other)


def test_sharing_twice_gives_other_shares():
    secret = polynomial()
    first, second = (
        split(secret, threshold=2, holders=3, primes=PRIMES, stream=STREAM) for _ in range(2)
    )
    assert not any((a == b).any() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("threshold", "holders"), [(1, 3), (4, 3)])
def test_a_threshold_of_one_or_above_the_holders_is_a_mistake(threshold, holders):
    with pytest.raises(AssertionError):
        split(polynomial(), threshold=threshold, holders=holders, primes=PRIMES, stream=STREAM)
