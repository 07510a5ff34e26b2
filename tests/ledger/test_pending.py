"""Money taken by a first phase is given once or comes back, in time and to the base unit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import chart, pending
from ledger.journal import AccountReserved, IdempotencyConflict, InsufficientFunds, UnknownAccount
from ledger.pending import HoldEnded, HoldRunning, UnknownHold

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")


@pytest.fixture
def deadline(ledger, now):
    """A hold of 300 of the funder's 1,000 for the stranger, for an hour."""
    later = now + timedelta(hours=1)
    pending.hold(ledger, "h", FUNDER, STRANGER, 300, expires=later, memo="a scan", now=now)
    return later


def wallets(ledger):
    return ledger.balance(FUNDER), ledger.balance(STRANGER), ledger.balance(chart.PENDING)


def test_what_is_held_is_neither_the_payers_nor_the_payees(ledger, deadline):
    assert wallets(ledger) == (700, 0, 300)
    assert pending.hold_of(ledger, "h").state == "pending"
    ledger.verify()


def test_posting_gives_all_of_it_once(ledger, deadline, now):
    first = pending.post(ledger, "p", "h", now=now)
    assert wallets(ledger) == (700, 300, 0)
    assert pending.post(ledger, "p", "h", now=now) == first
    for second_end in (pending.post, pending.void):
        with pytest.raises(HoldEnded, match="posted"):
            second_end(ledger, "again", "h", now=now)
    with pytest.raises(HoldEnded):
        pending.expire(ledger, "h", now=deadline)
    assert wallets(ledger) == (700, 300, 0)
    ledger.verify()


def test_posting_a_part_returns_the_rest(ledger, deadline, now):
    pending.post(ledger, "p", "h", amount=120, now=now)
    assert wallets(ledger) == (880, 120, 0)


def test_more_than_was_held_is_refused(ledger, deadline, now):
    with pytest.raises(InsufficientFunds):
        pending.post(ledger, "p", "h", amount=301, now=now)
    assert wallets(ledger) == (700, 0, 300)


def test_voiding_returns_all_of_it(ledger, deadline, now):
    pending.void(ledger, "v", "h", now=now)
    assert wallets(ledger) == (1000, 0, 0)
    assert pending.hold_of(ledger, "h").state == "void"


def test_a_hold_lapses_at_its_time_and_not_before(ledger, deadline):
    just_before = deadline - timedelta(microseconds=1)
    with pytest.raises(HoldRunning):
        pending.expire(ledger, "h", now=just_before)
    with pytest.raises(HoldEnded):
        pending.post(ledger, "p", "h", now=deadline)
    first = pending.expire(ledger, "h", now=deadline)
    assert pending.expire(ledger, "h", now=deadline) == first
    assert pending.expire_due(ledger, now=deadline) == []
    assert wallets(ledger) == (1000, 0, 0)


def test_all_that_is_due_expires_together(ledger, deadline, now):
    longer = deadline + timedelta(hours=1)
    pending.hold(ledger, "i", FUNDER, STRANGER, 9, expires=longer, memo="", now=now)
    assert [one.key for one in pending.expire_due(ledger, now=deadline)] == ["expire:h"]
    assert wallets(ledger) == (991, 0, 9)


def test_beginning_again_returns_the_first_hold_or_is_refused(ledger, deadline, now):
    again = {"expires": deadline, "memo": "a scan", "now": now}
    first = pending.hold(ledger, "h", FUNDER, STRANGER, 300, **again)
    assert first.key == "h"
    with pytest.raises(IdempotencyConflict):
        pending.hold(ledger, "h", FUNDER, FUNDER, 300, **again)
    with pytest.raises(IdempotencyConflict):
        pending.hold(ledger, "h", FUNDER, STRANGER, 301, **again)
    with pytest.raises(IdempotencyConflict):
        pending.hold(
            ledger, "h", FUNDER, STRANGER, 300, **again | {"expires": deadline + timedelta(1)}
        )
    assert wallets(ledger) == (700, 0, 300)


def test_what_cannot_be_held_is_refused(ledger, now):
    later = {"expires": now + timedelta(hours=1), "memo": "", "now": now}
    with pytest.raises(InsufficientFunds):
        pending.hold(ledger, "k", FUNDER, STRANGER, 1001, **later)
    with pytest.raises(UnknownAccount):
        pending.hold(ledger, "k", FUNDER, chart.wallet("nobody"), 1, **later)
    with pytest.raises(AccountReserved):
        pending.hold(ledger, "k", chart.escrow("order"), STRANGER, 1, **later)
    with pytest.raises(HoldEnded):
        pending.hold(ledger, "k", FUNDER, STRANGER, 1, expires=now, memo="", now=now)
    with pytest.raises(UnknownHold):
        pending.post(ledger, "p", "k", now=now)
    assert ledger.find("k") is None


def test_what_is_pending_cannot_be_moved_by_other_means(ledger, deadline, now):
    with pytest.raises(AccountReserved):
        ledger.transfer("k", chart.PENDING, STRANGER, 300, memo="", now=now)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(amount=st.integers(1, 1000), part=st.integers(1, 1000))
def test_a_part_and_the_rest_are_the_whole(ledger, now, amount, part):
    ledger.open_account(chart.PENDING)
    key = f"{amount}-{part}-{ledger.verify().transfers}"
    before = wallets(ledger)
    if amount > before[0] or part > amount:
        return
    later = now + timedelta(hours=1)
    pending.hold(ledger, key, FUNDER, STRANGER, amount, expires=later, memo="", now=now)
    pending.post(ledger, f"p:{key}", key, amount=part, now=now)
    assert wallets(ledger) == (before[0] - part, before[1] + part, 0)
