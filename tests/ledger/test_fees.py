"""A price is divided without a base unit more or less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import chart
from ledger.economy import load_economy
from ledger.fees import FeeRule, charge, divide
from ledger.journal import NegativeAmount
from ledger.tables import TableUnbalanced
from protocol.units import TOTAL_SUPPLY

FEES = load_economy().fees
prices = st.integers(0, 10**5) | st.integers(0, TOTAL_SUPPLY)


@st.composite
def rules(draw):
    names = draw(st.lists(st.sampled_from(["provider", "a", "b", "c"]), min_size=1, unique=True))
    cuts = sorted(
        draw(st.lists(st.integers(0, 10_000), min_size=len(names) - 1, max_size=len(names) - 1))
    )
    shares = [after - before for before, after in zip([0, *cuts], [*cuts, 10_000], strict=True)]
    split = tuple(zip(names, shares, strict=True))
    fee, burn = draw(st.integers(0, 10_000)), draw(st.integers(0, 10_000))
    one_of = st.sampled_from(names)
    return FeeRule("any", fee, split, draw(one_of), burn, draw(one_of))


@pytest.mark.slow
@given(rules() | st.sampled_from(list(FEES.values())), prices)
def test_parts_and_what_is_burned_are_the_price(rule, price):
    division = divide(rule, price)
    assert sum(division.parts.values()) + division.burned == price
    assert min([division.burned, *division.parts.values()]) >= 0


@given(rules(), prices)
def test_rounding_moves_less_than_one_unit_a_part(rule, price):
    unburned = divide(
        FeeRule(rule.name, rule.fee, rule.split, rule.remainder, 0, rule.burn_from), price
    )
    fee = price * rule.fee // 10_000
    for name, share in rule.split:
        exact = fee * share + (10_000 * (price - fee) if name == "provider" else 0)
        assert abs(unburned.parts[name] * 10_000 - exact) <= 10_000 * len(rule.split)


def test_the_worked_examples_of_the_paper():
    assert divide(FEES["data_trade"], 1000).parts == {
        "provider": 985,
        "buyback": 9,
        "platform": 6,
    }
    compute = divide(FEES["compute"], 1000)
    assert (compute.parts, compute.burned) == (
        {"provider": 700, "buyback": 194, "network": 100},
        6,
    )
    other = divide(load_economy(preset="s2").fees["compute"], 1000)
    assert other.parts == {"provider": 700, "development": 144, "foundation": 100, "reserve": 50}


def test_a_charge_is_one_transfer_and_is_made_once(ledger, now):
    funder, provider = chart.wallet("funder"), chart.wallet("stranger")
    asked = {"payer": funder, "provider": provider, "memo": "a job", "now": now}
    first = charge(ledger, "k", FEES["compute"], 1000, **asked)
    assert charge(ledger, "k", FEES["compute"], 1000, **asked) == first
    assert ledger.balances("fees:") == {"fees:buyback": 194, "fees:network": 100}
    assert (ledger.balance(provider), ledger.balance(chart.BURNED)) == (700, 6)


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(NegativeAmount):
        divide(FEES["compute"], -1)
    with pytest.raises(TableUnbalanced):
        FeeRule("x", 100, (("provider", 9_999),), "provider", 0, "provider")
