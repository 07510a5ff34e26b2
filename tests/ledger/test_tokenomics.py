"""The allocation gives away the whole supply and nothing else, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tokenomics import (
    Allocation,
    AllocationUnbalanced,
    TokenomicsUnreadable,
    load,
)
from protocol.units import TOTAL_SUPPLY

GOOD = """
version = 1
name = "A token"
symbol = "TOK"
[allocation_percent]
one = 60
other = 40
"""


def test_the_shipped_table_gives_the_whole_supply_to_twelve_buckets():
    tokenomics = load()
    amounts = tokenomics.allocation.amounts()
    assert tokenomics.symbol == "BTT"
    assert len(amounts) == 12
    assert sum(amounts.values()) == TOTAL_SUPPLY == 210_000_000 * 10**18
    assert amounts["liquidity"] == 4_200_000 * 10**18


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_only_percents_that_sum_to_one_hundred_become_an_allocation(shares):
    percent = {f"bucket{index}": share for index, share in enumerate(shares)}
    if sum(shares) == 100:
        assert sum(Allocation(percent).amounts().values()) == TOTAL_SUPPLY
    else:
        with pytest.raises(AllocationUnbalanced) as refused:
            Allocation(percent)
        assert refused.value.total == sum(shares)


def test_a_negative_share_is_refused_although_the_sum_is_right():
    with pytest.raises(AllocationUnbalanced):
        Allocation({"one": 110, "other": -10})


def test_an_allocation_cannot_be_changed_after_it_was_checked():
    with pytest.raises(TypeError):
        Allocation({"one": 100}).percent["one"] = 50


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ("version = 1", "version = 2"),
        ('name = "A token"', ""),
        ("other = 40", "other = 40.0"),
        ("other = 40", "other = true"),
        ("[allocation_percent]", "[elsewhere]"),
        ("one = 60", "one = "),
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_refused(tmp_path, change, to):
    file = tmp_path / "tokenomics.toml"
    file.write_text(GOOD)
    assert load(file).allocation.percent == {"one": 60, "other": 40}
    file.write_text(GOOD.replace(change, to))
    with pytest.raises(TokenomicsUnreadable):
        load(file)


def test_a_missing_file_and_an_unbalanced_one_are_refused(tmp_path):
    file = tmp_path / "tokenomics.toml"
    with pytest.raises(TokenomicsUnreadable):
        load(file)
    file.write_text(GOOD.replace("40", "29"))
    with pytest.raises(AllocationUnbalanced, match="89 %"):
        load(file)
