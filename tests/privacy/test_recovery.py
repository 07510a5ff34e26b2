"""A secret is recovered past false shares, whose holders are named and nobody else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.recovery import TRIES_MAX, SecretUnrecoverable, recover
from privacy.sharing import QuorumMissing, split

SECRET = bytes(range(32))
FALSE = bytes(33)


def holders(n):
    return [f"site-{i:02}" for i in range(n)]


def recovered(n, threshold, false, given_by=None, suspects=()):
    names = holders(n)
    dealt = dict(zip(names, split(SECRET, threshold=threshold, holders=n), strict=True))
    shares = {name: FALSE if name in false else dealt[name] for name in given_by or names}
    return recover(
        "dealer",
        shares,
        lambda secret: secret == SECRET,
        holders=names,
        threshold=threshold,
        suspects=suspects,
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_false_share_is_found_and_nobody_else_is_named(data):
    n = data.draw(st.integers(3, 9))
    threshold = data.draw(st.integers(2, n - 1))
    given_by = data.draw(st.permutations(holders(n)))[: data.draw(st.integers(threshold + 1, n))]
    false = data.draw(st.sampled_from(given_by))
    found = recovered(n, threshold, {false}, given_by)
    assert found.secret == SECRET
    # A false share that no joined group needed is not looked at.
    unused = sorted(given_by)[threshold:]
    assert found.false == (() if false in unused else (false,))


@pytest.mark.parametrize("false", [{"site-00", "site-01"}, {"site-06", "site-07"}])
def test_two_false_shares_of_ten_are_found(false):
    found = recovered(10, 7, false)
    assert found.secret == SECRET
    assert set(found.false) == false


def test_true_shares_are_not_questioned():
    assert recovered(5, 4, set()).false == ()


@pytest.mark.parametrize("share", [b"", b"\xff" * 33, (2**256).to_bytes(33, "big")])
def test_a_share_that_is_none_counts_as_false(share):
    dealt = dict(zip(holders(4), split(SECRET, threshold=3, holders=4), strict=True))
    found = recover(
        "dealer",
        {**dealt, "site-01": share},
        lambda secret: secret == SECRET,
        holders=holders(4),
        threshold=3,
    )
    assert found.false == ("site-01",)


def test_suspects_are_asked_last():
    names = holders(4)
    dealt = dict(zip(names, split(SECRET, threshold=3, holders=4), strict=True))
    tried = []

    def fits(secret):
        tried.append(secret)
        return secret == SECRET

    recover(
        "dealer",
        {**dealt, "site-00": FALSE},
        fits,
        holders=names,
        threshold=3,
        suspects={"site-00"},
    )
    assert len(tried) == 1


def test_too_few_shares_are_refused():
    with pytest.raises(QuorumMissing) as refused:
        recovered(5, 4, set(), holders(5)[:3])
    assert (refused.value.found, refused.value.needed) == (3, 4)


def test_a_secret_is_given_up_when_no_quorum_of_true_shares_is_left():
    with pytest.raises(SecretUnrecoverable) as refused:
        recovered(5, 4, {"site-00", "site-03"})
    assert refused.value.dealer == "dealer"
    assert refused.value.holders == tuple(holders(5))


def test_the_search_for_false_shares_is_bounded():
    tried = []
    shares = dict(zip(holders(12), split(SECRET, threshold=6, holders=12), strict=True))
    with pytest.raises(SecretUnrecoverable):
        recover("dealer", shares, tried.append, holders=holders(12), threshold=6)
    assert len(tried) == TRIES_MAX
