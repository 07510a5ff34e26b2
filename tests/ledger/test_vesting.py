"""Nothing is released ahead of its schedule, nothing twice, and in the end everything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import chart, vesting
from ledger.economy import allocate_all, load_economy
from ledger.emission import emission_of, emit, emitted
from ledger.journal import AccountReserved, IdempotencyConflict
from ledger.schedule import add_months, linear, second
from ledger.vesting import (
    TrancheEarly,
    VestingTermsDiffer,
    linear_terms,
    tranche_terms,
    vested,
)
from protocol.units import TOTAL_SUPPLY

BEGINS = second(datetime(2025, 1, 1, tzinfo=UTC))
TEAM, TREASURY = chart.wallet("team"), chart.treasury("team")
amounts = st.integers(1, 10**6) | st.integers(1, TOTAL_SUPPLY)
seconds = st.integers(BEGINS - 10**7, add_months(BEGINS, 150))


@st.composite
def terms(draw):
    amount, tranches = draw(amounts), draw(st.sampled_from([0, 0, 1, 4, 12]))
    if tranches:
        months = tranches * draw(st.integers(1, 8))
        return tranche_terms("team", TEAM, amount, begins=BEGINS, months=months, tranches=tranches)
    months = draw(st.integers(1, 60))
    return linear_terms(
        "team",
        TEAM,
        amount,
        begins=BEGINS,
        months=months,
        cliff_months=draw(st.integers(0, months)),
        cliff_mode=draw(st.sampled_from(["inside", "before"])),
    )


def at(instant):
    return datetime.fromtimestamp(instant, UTC)


@given(terms(), seconds, seconds)
def test_what_is_vested_never_falls_and_stays_within_the_amount(given_terms, one, other):
    early, late = sorted((one, other))
    assert 0 <= vested(given_terms, early) <= vested(given_terms, late) <= given_terms.amount
    assert vested(given_terms, given_terms.cliff - 1) == 0
    assert vested(given_terms, given_terms.ends) == given_terms.amount


@given(amounts, st.integers(1, 60), st.data())
def test_a_line_is_rounded_down_and_a_cliff_inside_makes_it_fall_due_at_once(amount, months, data):
    cliff = data.draw(st.integers(0, months))
    made = {
        mode: linear_terms(
            "team", TEAM, amount, begins=BEGINS, months=months, cliff_months=cliff, cliff_mode=mode
        )
        for mode in ("inside", "before")
    }
    passes = add_months(BEGINS, cliff)
    ends = add_months(BEGINS, months)
    assert vested(made["inside"], passes) == linear(amount, BEGINS, ends, passes)
    assert vested(made["before"], passes) == 0
    assert made["before"].ends == add_months(passes, months)
    moment = data.draw(st.integers(BEGINS, ends - 1))
    due = linear(amount, BEGINS, ends, moment)
    assert due * (ends - BEGINS) <= amount * (moment - BEGINS) < (due + 1) * (ends - BEGINS)


@given(st.lists(st.tuples(st.integers(1, 5), amounts), min_size=1, max_size=5), seconds, seconds)
def test_emission_is_linear_in_each_step_and_whole_at_its_end(steps, one, other):
    emission = emission_of(BEGINS, steps)
    early, late = sorted((one, other))
    assert 0 <= emitted(emission, early) <= emitted(emission, late) <= emission.amount
    so_far = 0
    for step in emission.steps:
        assert emitted(emission, step.begins) == so_far
        half = (step.begins + step.ends) // 2
        expected = so_far + linear(step.amount, step.begins, step.ends, half)
        assert emitted(emission, half) == expected
        so_far += step.amount
    assert emitted(emission, emission.steps[-1].ends) == so_far


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    moments=st.lists(seconds, min_size=1, max_size=6), mode=st.sampled_from(["inside", "before"])
)
def test_releases_at_any_moments_pay_what_is_vested_once(tmp_path_factory, now, moments, mode):
    from ledger import tokenomics
    from ledger.books import Ledger

    ledger = Ledger(tmp_path_factory.mktemp("vesting") / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=now)
    amount = ledger.balance(TREASURY)
    made = linear_terms(
        "team", TEAM, amount, begins=BEGINS, months=48, cliff_months=12, cliff_mode=mode
    )
    vesting.allocate(ledger, made, TREASURY, now=now)
    paid = 0
    for moment in moments:
        vesting.release(ledger, made, now=at(moment))
        paid = max(paid, vested(made, moment))
        assert ledger.balance(TEAM) == paid == vesting.released(ledger, made)
        assert vesting.release(ledger, made, now=at(moment)) is None
    ledger.verify()
    ledger.close()


@pytest.fixture
def foundation(ledger, now):
    source = chart.treasury("foundation")
    made = tranche_terms(
        "foundation", source, ledger.balance(source), begins=BEGINS, months=48, tranches=8
    )
    vesting.allocate(ledger, made, source, now=now)
    return made


def test_a_tranche_takes_a_decision_and_its_date(ledger, foundation):
    due = at(foundation.tranches[2].due)
    with pytest.raises(TrancheEarly, match="2026-07-01"):
        vesting.release_tranche(ledger, foundation, 3, memo="met", now=due - timedelta(seconds=1))
    assert vesting.release(ledger, foundation, now=due) is None
    first = vesting.release_tranche(ledger, foundation, 3, memo="decision 9", now=due)
    assert vesting.release_tranche(ledger, foundation, 3, memo="decision 9", now=due) == first
    with pytest.raises(IdempotencyConflict):
        vesting.release_tranche(ledger, foundation, 3, memo="decision 10", now=due)
    assert vesting.released(ledger, foundation) == foundation.amount // 8


def test_other_terms_than_were_allocated_release_nothing(ledger, foundation, now):
    longer = tranche_terms(
        "foundation", foundation.payee, foundation.amount, begins=BEGINS, months=24, tranches=8
    )
    with pytest.raises(VestingTermsDiffer):
        vesting.release_tranche(ledger, longer, 1, memo="", now=now)
    with pytest.raises(IdempotencyConflict):
        vesting.allocate(ledger, longer, chart.treasury("foundation"), now=now)
    with pytest.raises(AccountReserved):
        ledger.transfer("k", chart.vesting("foundation"), TEAM, 1, memo="", now=now)


def test_mining_is_emitted_by_its_steps_and_no_other_way(ledger):
    emission = load_economy().emission
    year = second(datetime(2026, 1, 1, tzinfo=UTC))
    emit(ledger, emission, now=at(year))
    assert ledger.balance(chart.rewards("mining")) == 12_600_000 * 10**18
    assert emit(ledger, emission, now=at(year)) is None
    emit(ledger, emission, now=at(emission.steps[-1].ends + 5))
    assert ledger.balance(chart.rewards("mining")) == TOTAL_SUPPLY * 30 // 100
    assert ledger.balance(chart.treasury("mining")) == 0


def test_every_bucket_that_vests_is_allocated_once(ledger, now):
    economy = load_economy()
    # The fixture spent 1,000 base units of the ecosystem bucket.
    ledger.transfer(
        "back", chart.wallet("funder"), chart.treasury("ecosystem"), 1000, memo="", now=now
    )
    first = allocate_all(ledger, economy, now=now)
    assert allocate_all(ledger, economy, now=now) == first
    held = ledger.balances("vesting:")
    assert held == {chart.vesting(b): one.amount for b, one in economy.vesting.items()}
    assert ledger.verify().supply == TOTAL_SUPPLY
