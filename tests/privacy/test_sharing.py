"""A quorum joins a shared secret, and fewer shares fit every secret equally well."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.sharing import (
    PRIME,
    SHARE_BYTES,
    QuorumMissing,
    ShareMalformed,
    SharesContradict,
    join,
    quorum,
    split,
    value_of,
)
from tests.privacy.mask_twin import joined, share_at

secrets = st.binary(min_size=32, max_size=32)


def looks_prime(n):
    """Miller and Rabin's test, for the first twelve primes as witnesses."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd << k, n) for k in range(twos)]
        if powers[0] != 1 and n - 1 not in powers:
            return False
    return True


@st.composite
def sharings(draw, holders_max=12):
    holders = draw(st.integers(2, holders_max))
    threshold = draw(st.integers(2, holders))
    return threshold, holders


def test_the_field_is_the_smallest_in_which_every_secret_is_a_number():
    assert looks_prime(PRIME)
    assert not any(looks_prime(n) for n in range(2**256 + 1, PRIME, 2))
    assert (PRIME - 1).bit_length() <= 8 * SHARE_BYTES


@settings(max_examples=40, deadline=None)
@given(secrets, sharings(), st.data())
def test_any_quorum_of_holders_joins_the_secret(secret, sharing, data):
    threshold, holders = sharing
    shares = split(secret, threshold=threshold, holders=holders)
    order = data.draw(st.permutations(range(holders)))
    several = data.draw(st.integers(threshold, holders))
    assert join({i: shares[i] for i in order[:several]}, threshold=threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
def test_the_smallest_and_the_largest_secret_are_shared_too(secret):
    shares = split(secret, threshold=2, holders=3)
    assert join({0: shares[0], 2: shares[2]}, threshold=2) == secret


@settings(max_examples=40, deadline=None)
@given(secrets, sharings())
def test_shares_join_as_the_twin_joins_them(secret, sharing):
    threshold, holders = sharing
    shares = split(secret, threshold=threshold, holders=holders)
    points = [(i + 1, value_of(share)) for i, share in enumerate(shares)][-threshold:]
    assert joined(points).to_bytes(32, "big") == secret


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, PRIME - 1), min_size=2, max_size=6), st.data())
def test_what_the_twin_shares_is_joined_here(coefficients, data):
    coefficients[0] %= 2**256
    threshold = len(coefficients)
    places = data.draw(
        st.lists(st.integers(0, 254), min_size=threshold, max_size=threshold, unique=True)
    )
    shares = {i: share_at(coefficients, i + 1).to_bytes(SHARE_BYTES, "big") for i in places}
    assert join(shares, threshold=threshold) == coefficients[0].to_bytes(32, "big")


@settings(max_examples=40, deadline=None)
@given(secrets, secrets, sharings(holders_max=8))
def test_too_few_shares_fit_every_secret(secret, other, sharing):
    """For any secret there is exactly one last share that turns the given ones into it."""
    threshold, holders = sharing
    shares = split(secret, threshold=threshold, holders=holders)
    known = [(i + 1, value_of(shares[i])) for i in range(threshold - 1)]
    missing = threshold  # the point whose share is not known
    with_zero = joined([*known, (missing, 0)])
    with_one = joined([*known, (missing, 1)])
    wanted = int.from_bytes(other, "big")
    last = (wanted - with_zero) * pow(with_one - with_zero, -1, PRIME) % PRIME
    given_shares = {x - 1: y.to_bytes(SHARE_BYTES, "big") for x, y in [*known, (missing, last)]}
    assert join(given_shares, threshold=threshold) == other


def test_sharing_a_secret_twice_gives_unrelated_shares():
    first, second = (split(bytes(32), threshold=2, holders=3) for _ in range(2))
    assert not set(first) & set(second)


def test_fewer_shares_than_the_threshold_are_refused():
    shares = split(bytes(32), threshold=3, holders=4)
    with pytest.raises(QuorumMissing) as refused:
        join({0: shares[0], 1: shares[1]}, threshold=3)
    assert (refused.value.found, refused.value.needed) == (2, 3)


@pytest.mark.parametrize(
    "share", [b"", bytes(32), bytes(34), b"\xff" * 33, PRIME.to_bytes(33, "big")]
)
def test_bytes_that_are_no_share_are_refused(share):
    with pytest.raises(ShareMalformed):
        join({0: bytes(33), 1: share}, threshold=2)


def test_shares_that_join_to_no_secret_are_refused():
    # On the constant 2**256 every share is 2**256, which no 32 bytes hold.
    too_large = (2**256).to_bytes(33, "big")
    with pytest.raises(SharesContradict):
        join({0: too_large, 1: too_large}, threshold=2)


@given(st.integers(2, 255))
def test_two_quorums_share_more_sites_than_may_be_dishonest(n):
    t = quorum(n)
    tolerated = 2 * t - n - 1
    assert t <= n
    assert 3 * t > 2 * n
    assert 2 * t > n + tolerated
    assert tolerated >= n // 3 - 1
