"""A flagged account does what its flags leave it, and a batch is posted whole or not at all."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ledger import chart, escrow, pending, staking
from ledger.flags import AccountAwaited, AccountFlagged, AccountNotEmpty, Flag
from ledger.journal import Entry, IdempotencyConflict, InsufficientFunds, Leg, UnknownAccount
from ledger.staking import StakingTerms, Tier

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")


@pytest.mark.parametrize(
    ("account", "flag"),
    [
        (FUNDER, Flag.NO_DEBIT),
        (STRANGER, Flag.NO_CREDIT),
        (STRANGER, Flag.CLOSED),
    ],
)
def test_a_flag_forbids_and_a_lowered_one_does_not(ledger, now, account, flag):
    paid = ledger.transfer("before", FUNDER, STRANGER, 1, memo="", now=now)
    ledger.transfer("back", STRANGER, FUNDER, 1, memo="", now=now)
    ledger.set_flag(account, flag, reason="under investigation", now=now)
    assert ledger.flags(account) == {flag}
    with pytest.raises(AccountFlagged) as refused:
        ledger.transfer("k", FUNDER, STRANGER, 1, memo="", now=now)
    assert (refused.value.account, refused.value.flag) == (account, flag)
    assert ledger.find("k") is None
    assert ledger.transfer("before", FUNDER, STRANGER, 1, memo="", now=now) == paid
    if flag is not Flag.CLOSED:
        ledger.set_flag(account, flag, raised=False, reason="cleared", now=now)
        ledger.transfer("k", FUNDER, STRANGER, 1, memo="", now=now)


def test_the_other_direction_stays_open(ledger, now):
    ledger.set_flag(STRANGER, Flag.NO_DEBIT, reason="a lock", now=now)
    ledger.transfer("k", FUNDER, STRANGER, 5, memo="", now=now)
    with pytest.raises(AccountFlagged):
        ledger.transfer("back", STRANGER, FUNDER, 5, memo="", now=now)


def test_only_an_empty_account_is_closed_and_for_ever(ledger, now):
    with pytest.raises(AccountNotEmpty):
        ledger.set_flag(FUNDER, Flag.CLOSED, reason="left", now=now)
    ledger.set_flag(STRANGER, Flag.CLOSED, reason="left", now=now)
    with pytest.raises(AccountFlagged):
        ledger.set_flag(STRANGER, Flag.CLOSED, raised=False, reason="came back", now=now)
    with pytest.raises(UnknownAccount):
        ledger.set_flag(chart.wallet("nobody"), Flag.CLOSED, reason="left", now=now)


def test_an_account_that_money_can_return_to_is_not_closed(ledger, now):
    later = now + timedelta(days=400)
    pending.hold(ledger, "h", FUNDER, STRANGER, 1, expires=later, memo="", now=now)
    escrow.open_escrow(ledger, "e", FUNDER, "order", 9, now=now)
    tier = Tier(days=30, rate=100, minimum=1, burn=0)
    terms = StakingTerms((tier,), 21, slashed_burned=5000, fee_share=0, community_cap=0)
    staking.bond(ledger, "s", terms, "funder", 990, days=30, now=now)
    for account in (STRANGER, FUNDER):
        with pytest.raises(AccountAwaited, match="the hold h"):
            ledger.set_flag(account, Flag.CLOSED, reason="left", now=now)
    pending.post(ledger, "p", "h", now=now)
    with pytest.raises(AccountAwaited, match="the escrow order"):
        ledger.set_flag(FUNDER, Flag.CLOSED, reason="left", now=now)
    escrow.release(ledger, "r", "order", {STRANGER: 9}, now=now)
    with pytest.raises(AccountAwaited, match="the stake s"):
        ledger.set_flag(FUNDER, Flag.CLOSED, reason="left", now=now)
    staking.unbond(ledger, "s", now=later)
    staking.withdraw(ledger, "s", terms, now=later + timedelta(days=21))
    ledger.transfer("all", FUNDER, STRANGER, 990, memo="", now=later)
    ledger.set_flag(FUNDER, Flag.CLOSED, reason="left", now=later)


def entries(count, amount=1):
    return [Entry(f"b:{number}", (Leg(FUNDER, STRANGER, amount),)) for number in range(count)]


def test_a_batch_is_what_its_transfers_would_have_been(ledger, now):
    posted = ledger.post_batch(entries(50), now=now)
    assert [one.sequence for one in posted] == list(range(3, 53))
    assert ledger.find("b:7") == posted[7]
    assert (ledger.balance(FUNDER), ledger.balance(STRANGER)) == (950, 50)
    assert ledger.post_batch(entries(60), now=now)[:50] == posted
    assert ledger.balance(STRANGER) == 60
    ledger.verify()


def test_a_batch_that_is_refused_in_one_place_leaves_nothing(ledger, now):
    before = ledger.verify()
    with pytest.raises(InsufficientFunds):
        ledger.post_batch(entries(1001), now=now)
    twice = [*entries(2), Entry("b:0", (Leg(FUNDER, STRANGER, 2),))]
    with pytest.raises(IdempotencyConflict):
        ledger.post_batch(twice, now=now)
    assert ledger.verify() == before


def test_a_key_repeated_inside_a_batch_moves_money_once(ledger, now):
    first, second = ledger.post_batch(entries(1) * 2, now=now)
    assert first == second
    assert ledger.balance(STRANGER) == 1


def test_a_reversal_is_another_transfer(ledger, now):
    ledger.transfer("k", FUNDER, STRANGER, 300, memo="", now=now)
    ledger.reverse("undo:k", "k", memo="booked twice", now=now)
    assert (ledger.balance(FUNDER), ledger.balance(STRANGER)) == (1000, 0)
    assert ledger.verify().transfers == 4
