"""A milestone burns what its row says, by a decision, once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ledger import chart
from ledger.burns import MilestoneEarly, MilestoneUnknown, burn_milestone
from ledger.economy import load_economy
from ledger.journal import IdempotencyConflict, InsufficientFunds

ECONOMY = load_economy()
ECOSYSTEM = chart.treasury("ecosystem")
BTT = 10**18


def burn(ledger, year, now, decision="log 7"):
    return burn_milestone(ledger, ECONOMY, year, decision=decision, now=now)


def test_each_milestone_burns_its_row_once(ledger, now):
    held = ledger.balance(ECOSYSTEM)
    for year, amount in ((2025, 1_000_000), (2026, 2_000_000)):
        made = burn(ledger, year, now)
        assert made.legs[0].amount == amount * BTT
        assert "log 7" in made.memo
        assert burn(ledger, year, now) == made
    assert ledger.balance(chart.BURNED) == 3_000_000 * BTT == held - ledger.balance(ECOSYSTEM)
    ledger.verify()


def test_a_milestone_is_burned_by_one_decision(ledger, now):
    burn(ledger, 2025, now)
    with pytest.raises(IdempotencyConflict):
        burn(ledger, 2025, now, decision="log 8")


def test_a_year_without_milestone_burns_nothing(ledger, now):
    with pytest.raises(MilestoneUnknown, match="2025, 2026, 2027, 2028"):
        burn(ledger, 2024, now)


def test_a_milestone_is_not_met_before_its_year(ledger, now):
    with pytest.raises(MilestoneEarly):
        burn(ledger, 2027, now)
    assert burn(ledger, 2027, datetime(2027, 1, 1, tzinfo=UTC)).legs[0].amount == 5_000_000 * BTT


def test_more_than_the_bucket_holds_is_not_burned(ledger, now):
    held = ledger.balance(ECOSYSTEM)
    ledger.transfer("out", ECOSYSTEM, chart.wallet("funder"), held - 1, memo="", now=now)
    with pytest.raises(InsufficientFunds):
        burn(ledger, 2025, now)
