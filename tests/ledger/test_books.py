"""The books balance: nothing is made, lost or moved twice, and what is refused changes nothing."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from ledger import chart, pending, tokenomics
from ledger.books import Ledger
from ledger.journal import (
    AccountReserved,
    EmptyTransfer,
    Entry,
    IdempotencyConflict,
    InsufficientFunds,
    KeyReserved,
    Leg,
    NegativeAmount,
    UnknownAccount,
)
from ledger.store import Amount
from ledger.tokenomics import Allocation
from protocol.errors import StorageError
from protocol.units import TOTAL_SUPPLY

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")
ECOSYSTEM = chart.treasury("ecosystem")


def everything(ledger):
    return ledger.balances(), ledger.verify()


@given(st.lists(st.integers(0, 2**128 - 1), min_size=2, max_size=8))
def test_stored_amounts_read_back_and_sort_like_the_numbers(amounts):
    kind = Amount()
    stored = {amount: kind.process_bind_param(amount, None) for amount in amounts}
    assert all(kind.process_result_value(blob, None) == amount for amount, blob in stored.items())
    assert sorted(amounts) == sorted(amounts, key=stored.__getitem__)


def test_genesis_mints_the_supply_once(ledger, now):
    before = everything(ledger)
    again = ledger.genesis(tokenomics.load().allocation, now=now + timedelta(days=1))
    assert again.sequence == 1
    assert again.at == now
    assert everything(ledger) == before
    assert ledger.supply() == TOTAL_SUPPLY == -ledger.balance(chart.GENESIS)
    assert ledger.balance(chart.treasury("mining")) == TOTAL_SUPPLY * 30 // 100


def test_genesis_with_another_allocation_is_refused(ledger, now):
    with pytest.raises(IdempotencyConflict):
        ledger.genesis(Allocation({"founding_lab": 100}), now=now)


def test_a_ledger_before_genesis_is_sound_and_empty(path):
    ledger = Ledger(path)
    assert ledger.supply() == 0
    assert ledger.verify().transfers == 0
    ledger.close()


def test_a_transfer_moves_the_amount_and_is_kept(ledger, now):
    transfer = ledger.transfer("k", FUNDER, STRANGER, 300, memo="for imaging", now=now)
    assert (ledger.balance(FUNDER), ledger.balance(STRANGER)) == (700, 300)
    assert transfer.legs == (Leg(FUNDER, STRANGER, 300),)
    assert ledger.find("k") == transfer
    assert ledger.find("other") is None
    assert ledger.balances("wallet:") == {FUNDER: 700, STRANGER: 300}


def test_the_same_key_moves_money_once(ledger, now):
    first = ledger.transfer("k", FUNDER, STRANGER, 300, memo="", now=now)
    later = now + timedelta(hours=1)
    assert ledger.transfer("k", FUNDER, STRANGER, 300, memo="", now=later) == first
    assert ledger.balance(STRANGER) == 300


def test_a_repeated_transfer_is_found_even_when_the_money_is_gone(ledger, now):
    first = ledger.transfer("k", FUNDER, STRANGER, 1000, memo="", now=now)
    assert ledger.transfer("k", FUNDER, STRANGER, 1000, memo="", now=now) == first


@pytest.mark.parametrize(
    "changed",
    [
        {"debit": STRANGER, "credit": FUNDER},
        {"credit": ECOSYSTEM},
        {"amount": 11},
        {"memo": "for something else"},
    ],
)
def test_the_same_key_with_other_content_is_refused(ledger, now, changed):
    content = {"debit": FUNDER, "credit": STRANGER, "amount": 10, "memo": ""}
    ledger.transfer("k", **content, now=now)
    before = everything(ledger)
    with pytest.raises(IdempotencyConflict):
        ledger.transfer("k", **(content | changed), now=now)
    assert everything(ledger) == before


def test_legs_apply_in_order_and_all_or_none(ledger, now):
    through = [Leg(FUNDER, STRANGER, 5), Leg(STRANGER, ECOSYSTEM, 5)]
    ledger.transfer_many("through", through, memo="", now=now)
    assert (ledger.balance(FUNDER), ledger.balance(STRANGER)) == (995, 0)
    before = everything(ledger)
    with pytest.raises(InsufficientFunds):
        ledger.transfer_many("backwards", through[::-1], memo="", now=now)
    legs = [Leg(FUNDER, STRANGER, 500), Leg(FUNDER, ECOSYSTEM, 496)]
    with pytest.raises(InsufficientFunds):
        ledger.transfer_many("too much", legs, memo="", now=now)
    assert everything(ledger) == before


@pytest.mark.parametrize("amount", [-1, -(10**30)])
def test_a_negative_amount_is_refused(ledger, now, amount):
    before = everything(ledger)
    with pytest.raises(NegativeAmount):
        ledger.transfer("k", FUNDER, STRANGER, amount, memo="", now=now)
    with pytest.raises(NegativeAmount):
        ledger.burn("k", FUNDER, amount, memo="", now=now)
    assert everything(ledger) == before


def test_a_transfer_of_nothing_is_refused(ledger, now):
    with pytest.raises(EmptyTransfer):
        ledger.transfer("k", FUNDER, STRANGER, 0, memo="", now=now)
    with pytest.raises(EmptyTransfer):
        ledger.transfer_many("k", [], memo="", now=now)


@pytest.mark.parametrize("amount", [1001, TOTAL_SUPPLY, 2**200])
def test_more_than_the_account_holds_is_refused(ledger, now, amount):
    with pytest.raises(InsufficientFunds) as refused:
        ledger.transfer("k", FUNDER, STRANGER, amount, memo="", now=now)
    assert refused.value.balance == 1000
    assert ledger.find("k") is None


def test_an_account_that_was_not_opened_is_refused(ledger, now):
    unknown = chart.wallet("nobody")
    for debit, credit in ((FUNDER, unknown), (unknown, FUNDER)):
        with pytest.raises(UnknownAccount):
            ledger.transfer("k", debit, credit, 1, memo="", now=now)
    with pytest.raises(UnknownAccount):
        ledger.balance(unknown)


def test_opening_an_account_twice_keeps_its_balance(ledger):
    assert ledger.open_account(FUNDER) == FUNDER
    assert ledger.balance(FUNDER) == 1000
    with pytest.raises(chart.AccountMisnamed):
        ledger.open_account("purse:funder")


@pytest.mark.parametrize(
    ("debit", "credit"),
    [
        (chart.GENESIS, FUNDER),
        (FUNDER, chart.GENESIS),
        (chart.BURNED, FUNDER),
        (FUNDER, chart.escrow("s")),
        (chart.escrow("s"), FUNDER),
    ],
)
def test_accounts_with_rules_of_their_own_take_no_part_in_plain_transfers(
    ledger, now, debit, credit
):
    ledger.open_account(chart.escrow("s"))
    ledger.burn("burn", FUNDER, 10, memo="", now=now)
    with pytest.raises(AccountReserved):
        ledger.transfer("k", debit, credit, 1, memo="", now=now)


def test_burned_money_still_counts_and_never_returns(ledger, now):
    ledger.burn("b", FUNDER, 400, memo="a fee", now=now)
    report = ledger.verify()
    assert (report.burned, report.supply) == (400, TOTAL_SUPPLY)
    assert ledger.balance(FUNDER) == 600


def test_the_database_itself_refuses_a_negative_balance(ledger):
    overdrawn = "UPDATE accounts SET debits = x'ff' || substr(debits, 2) WHERE account = ?"
    with pytest.raises((IntegrityError, StorageError)), ledger.begin() as connection:
        connection.exec_driver_sql(overdrawn, (FUNDER,))


def test_the_database_itself_refuses_to_edit_the_journal(ledger, path):
    connection = sqlite3.connect(path)
    for table in ("transfers", "legs"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET sequence = 9"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


def test_books_closed_and_opened_again_are_the_same(ledger, path):
    before = everything(ledger)
    ledger.close()
    reopened = Ledger(path)
    assert everything(reopened) == before
    reopened.close()


def test_the_file_is_private_to_its_owner(ledger, path):
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("key", ["chain:pay:00000001:00000", "chain:root:00000001", "chain:pay:"])
def test_a_settlements_key_is_nobody_elses(ledger, now, key):
    later = {"expires": now + timedelta(hours=1), "memo": "", "now": now}
    before = everything(ledger)
    with pytest.raises(KeyReserved):
        ledger.transfer(key, ECOSYSTEM, chart.treasury("team"), 1, memo="", now=now)
    with pytest.raises(KeyReserved):
        ledger.burn(key, ECOSYSTEM, 1, memo="", now=now)
    with pytest.raises(KeyReserved):
        ledger.post_batch([Entry(key, (Leg(ECOSYSTEM, chart.treasury("team"), 1),))], now=now)
    with pytest.raises(KeyReserved):
        pending.hold(ledger, key, ECOSYSTEM, chart.treasury("team"), 1, **later)
    assert everything(ledger) == before
    ledger.transfer(f"my {key}", ECOSYSTEM, chart.treasury("team"), 1, memo="", now=now)
