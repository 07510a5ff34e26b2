"""Every base unit of a budget goes to someone, in proportion, and always the same way."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from marketplace.valuation import NoContribution, round_budgets, split_budget
from protocol.ids import SiteId
from protocol.units import TOTAL_SUPPLY

budgets = st.integers(0, 50) | st.integers(0, TOTAL_SUPPLY)
weights = st.dictionaries(
    st.from_regex(r"[a-z]{1,3}", fullmatch=True).map(SiteId),
    st.integers(0, 4) | st.integers(0, 2**40),
    min_size=1,
    max_size=12,
).filter(lambda weights: any(weights.values()))


@given(budgets, weights)
def test_the_shares_sum_to_the_budget_and_none_is_negative(budget, weights):
    shares = split_budget(budget, weights)
    assert sum(shares.values()) == budget
    assert shares.keys() == weights.keys()
    assert all(share >= 0 for share in shares.values())


@given(budgets, weights)
def test_each_share_is_less_than_one_base_unit_from_its_exact_value(budget, weights):
    total = sum(weights.values())
    for site, share in split_budget(budget, weights).items():
        assert abs(share - Fraction(budget * weights[site], total)) < 1


@given(budgets, weights, st.randoms(use_true_random=False))
def test_the_order_of_the_sites_does_not_matter(budget, weights, random):
    shuffled = list(weights.items())
    random.shuffle(shuffled)
    assert list(split_budget(budget, dict(shuffled)).items()) == list(
        split_budget(budget, weights).items()
    )


@given(budgets, weights)
def test_more_weight_never_earns_less_and_none_earns_nothing(budget, weights):
    shares = split_budget(budget, weights)
    for one in weights:
        assert weights[one] > 0 or shares[one] == 0
        for other in weights:
            assert weights[one] <= weights[other] or shares[one] >= shares[other]
            assert weights[one] != weights[other] or abs(shares[one] - shares[other]) <= 1


@given(budgets, weights, st.integers(2, 9))
def test_only_the_proportion_of_the_weights_counts(budget, weights, factor):
    scaled = {site: weight * factor for site, weight in weights.items()}
    assert split_budget(budget, scaled) == split_budget(budget, weights)


def slow_split(budget, weights):
    """Hamilton's method in exact fractions, one unit at a time."""
    total = sum(weights.values())
    exact = {site: Fraction(budget * weight, total) for site, weight in weights.items()}
    shares = {site: int(value) for site, value in exact.items()}
    waiting = sorted(weights)
    while sum(shares.values()) < budget:
        site = max(waiting, key=lambda site: (exact[site] - int(exact[site]), -waiting.index(site)))
        waiting.remove(site)
        shares[site] += 1
    return shares


@given(budgets, weights)
def test_it_is_hamiltons_method(budget, weights):
    assert split_budget(budget, weights) == slow_split(budget, weights)


def test_a_tie_goes_to_the_smaller_site_id():
    assert split_budget(1, {SiteId("b"): 1, SiteId("a"): 1}) == {"a": 1, "b": 0}


@pytest.mark.parametrize("weights", [{}, {SiteId("north"): 0}])
def test_a_round_without_contribution_has_no_split(weights):
    with pytest.raises(NoContribution):
        split_budget(100, weights)


@given(st.integers(0, TOTAL_SUPPLY), st.integers(1, 300))
def test_the_rounds_budgets_sum_to_the_whole_and_differ_by_at_most_one(total, rounds):
    budgets = round_budgets(total, rounds)
    assert len(budgets) == rounds
    assert sum(budgets) == total
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] - budgets[-1] <= 1


@given(st.integers(0, 1000), st.integers(1, 12))
def test_rounds_are_split_like_sites_of_equal_weight(total, rounds):
    assume(rounds < 10)  # so that the names sort like the numbers
    names = {SiteId(str(number)): 1 for number in range(rounds)}
    assert round_budgets(total, rounds) == list(split_budget(total, names).values())
