"""Stakes are paid from a pool that holds what it pays, and can be lost until they are free."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import chart, pool, staking, staking_rewards
from ledger.economy import load_economy
from ledger.journal import AccountReserved, IdempotencyConflict
from ledger.staking import StakeLocked, StakeTooSmall, UnknownStake
from protocol.units import BASE_UNITS_PER_BTT as BTT
from protocol.units import TOTAL_SUPPLY

TERMS = load_economy().staking
COMMUNITY = chart.treasury("community")
NORTH, STRANGER = chart.wallet("north"), chart.wallet("stranger")


@pytest.fixture
def staked(ledger, now):
    """The party north has 300,000 BTT, of which 100,000 are bonded for a year."""
    ledger.open_accounts([NORTH, STRANGER])
    ledger.transfer("n", COMMUNITY, NORTH, 300_000 * BTT, memo="", now=now)
    staking.bond(ledger, "s", TERMS, "north", 100_000 * BTT, days=365, now=now)
    return ledger


def fund(ledger, amount, now):
    return pool.fund_from_community(ledger, TERMS, amount, now=now)


def test_a_stake_is_bonded_once(staked, now):
    again = staking.bond(staked, "s", TERMS, "north", 100_000 * BTT, days=365, now=now)
    assert again.key == "s"
    assert staked.balance(chart.stake("north")) == 100_000 * BTT
    assert [one.state for one in staking.stakes_of(staked, "north")] == ["bonded"]
    with pytest.raises(StakeTooSmall):
        staking.bond(staked, "t", TERMS, "north", 1_000 * BTT - 1, days=30, now=now)
    with pytest.raises(AccountReserved):
        staked.transfer("k", chart.stake("north"), NORTH, 1, memo="", now=now)
    staked.verify()


def test_another_transfer_under_a_withdrawals_key_is_not_taken_for_it(staked, now):
    over = now + timedelta(days=365)
    staked.transfer("withdraw:s", NORTH, STRANGER, 1, memo="", now=now)
    staking.unbond(staked, "s", now=over)
    with pytest.raises(IdempotencyConflict):
        staking.withdraw(staked, "s", TERMS, now=over + timedelta(days=21))
    staked.verify()


def test_a_stake_is_free_after_its_days_and_twenty_one_more(staked, now):
    over = now + timedelta(days=365)
    with pytest.raises(StakeLocked):
        staking.unbond(staked, "s", now=over - timedelta(seconds=1))
    with pytest.raises(StakeLocked):
        staking.withdraw(staked, "s", TERMS, now=over)
    assert staking.unbond(staked, "s", now=over).state == "unbonding"
    staking.unbond(staked, "s", now=over + timedelta(days=9))
    free = over + timedelta(days=21)
    with pytest.raises(StakeLocked):
        staking.withdraw(staked, "s", TERMS, now=free - timedelta(seconds=1))
    first = staking.withdraw(staked, "s", TERMS, now=free)
    assert staking.withdraw(staked, "s", TERMS, now=free) == first
    assert staked.balance(NORTH) == 300_000 * BTT
    with pytest.raises(StakeLocked):
        staking.slash(
            staked, "x", "s", TERMS, share=10_000, victims=[STRANGER], evidence="9", now=free
        )
    with pytest.raises(UnknownStake):
        staking.unbond(staked, "nobody", now=free)
    staked.verify()


def test_a_full_pool_pays_the_ceiling_and_an_empty_one_nothing(staked, now):
    later = now + timedelta(days=365)
    nothing = staking_rewards.reward(staked, "r0", TERMS, since=now, now=later)
    assert (nothing.paid, nothing.transfer, nothing.rate_ppm[365]) == (0, None, 0)
    fund(staked, 1_000_000 * BTT, now)
    paid = staking_rewards.reward(staked, "r", TERMS, since=now, now=later)
    assert paid.paid == paid.ceiling == 12_000 * BTT
    assert paid.burned == 600 * BTT
    assert paid.rate_ppm[365] == 120_000
    assert (
        staking_rewards.reward(staked, "r", TERMS, since=now, now=later).transfer == paid.transfer
    )
    assert staked.balance(NORTH) == (200_000 + 11_400) * BTT


def test_a_short_pool_pays_everyone_the_same_share_and_shows_the_rate(staked, now):
    staking.bond(staked, "t", TERMS, "north", 1_000 * BTT, days=30, now=now)
    fund(staked, 3_000 * BTT, now)
    later = now + timedelta(days=365)
    found = staking_rewards.reward(staked, "r", TERMS, since=now, now=later)
    assert found.ceiling == 12_030 * BTT
    assert 3_000 * BTT - 2 <= found.paid <= 3_000 * BTT
    assert found.rate_ppm[365] == 120_000 * 3_000 // 12_030
    assert found.rate_ppm[30] == 30_000 * 3_000 // 12_030


def test_what_is_slashed_is_half_burned_and_half_the_victims(staked, now):
    asked = {"share": 500, "victims": [STRANGER], "evidence": "audit 7", "now": now}
    first = staking.slash(staked, "x", "s", TERMS, **asked)
    assert staking.slash(staked, "x", "s", TERMS, **asked) == first
    assert staked.balance(STRANGER) == staked.balance(chart.BURNED) == 2_500 * BTT
    staking.slash(staked, "all", "s", TERMS, share=10_000, victims=[], evidence="audit 8", now=now)
    assert staking.stakes_of(staked)[0].state == "slashed"
    assert staked.balance(chart.SLASHED) == staked.balance(chart.stake("north")) == 0
    staked.verify()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.integers(1, 10_000), victims=st.integers(0, 7))
def test_a_slash_is_divided_to_the_base_unit(staked, now, share, victims):
    names = [chart.wallet(f"v{number}") for number in range(victims)]
    staked.open_accounts([*names, chart.BURNED])
    before = staked.balances()
    number = staked.verify().transfers
    staking.bond(staked, f"b{number}", TERMS, "north", 1_000 * BTT, days=30, now=now)
    held = staked.balance(chart.stake("north"))
    staking.slash(
        staked, f"x{number}", f"b{number}", TERMS, share=share, victims=names, evidence="", now=now
    )
    taken = held - staked.balance(chart.stake("north"))
    gained = sum(staked.balance(one) - before[one] for one in names)
    burned = staked.balance(chart.BURNED) - before[chart.BURNED]
    assert taken == 1_000 * BTT * share // 10_000 == gained + burned
    assert 0 <= taken // 2 - gained <= max(7, taken // 2 if not victims else 0)


def test_the_pool_takes_its_share_of_fees_and_a_capped_part_of_the_bucket(ledger, now):
    fees, funder = chart.fees("platform"), chart.wallet("funder")
    assert pool.fund_from_fees(ledger, TERMS, "platform", now=now) is None
    ledger.open_account(fees)
    for number, (fee, due) in enumerate([(500, 100), (4, 0), (1, 1)]):
        ledger.transfer(f"f{number}", funder, fees, fee, memo="", now=now)
        moved = pool.fund_from_fees(ledger, TERMS, "platform", now=now)
        assert (moved.legs[0].amount if moved else 0) == due
    cap = TERMS.community_cap
    assert fund(ledger, cap - 1, now).legs[0].amount == cap - 1
    assert fund(ledger, TOTAL_SUPPLY, now).legs[0].amount == 1
    assert fund(ledger, 1, now) is None
    assert fund(ledger, 5, now + timedelta(days=60)).legs[0].amount == 5
    ledger.verify()
