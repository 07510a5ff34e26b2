"""Whatever is edited in the file behind the ledger's back is found."""

from __future__ import annotations

import sqlite3

import pytest

from ledger import chart, escrow
from ledger.books import Ledger
from ledger.reconcile import LedgerDamaged
from protocol.errors import BitHiveError
from storage.database import DatabaseDamaged

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")
MORE = "x'0000000000000000ffffffffffffffff'"


@pytest.fixture
def busy(ledger, now):
    """Four transfers, one escrow held and one ended."""
    ledger.transfer("k", FUNDER, STRANGER, 300, memo="", now=now)
    escrow.open_escrow(ledger, "open:held", FUNDER, "held", 100, now=now)
    escrow.open_escrow(ledger, "open:ended", FUNDER, "ended", 50, now=now)
    escrow.refund(ledger, "refund:ended", "ended", now=now)
    return ledger


def edit(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for table in ("transfers", "legs"):
        for change in ("update", "delete"):
            connection.execute(f"DROP TRIGGER {table}_refuse_{change}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_sound_books_are_reported_with_their_last_link(busy, now):
    report = busy.verify()
    assert report.transfers == 6
    busy.transfer("again", FUNDER, STRANGER, 1, memo="", now=now)
    assert busy.verify().head != report.head


@pytest.mark.parametrize(
    "statements",
    [
        (f"UPDATE accounts SET credits = {MORE} WHERE account = 'wallet:stranger'",),
        (f"UPDATE accounts SET debits = {MORE} WHERE account = 'wallet:stranger'",),
        ("DELETE FROM accounts WHERE account = 'wallet:stranger'",),
        (f"UPDATE legs SET amount = {MORE} WHERE sequence = 3",),
        (f"UPDATE legs SET amount = {MORE} WHERE sequence = 1 AND position = 0",),
        ("UPDATE legs SET credit = debit, debit = credit WHERE sequence = 3",),
        ("UPDATE transfers SET memo = 'something else' WHERE sequence = 3",),
        ("UPDATE transfers SET at = 'yesterday' WHERE sequence = 3",),
        ("UPDATE transfers SET at = '2020-01-01T00:00:00+00:00' WHERE sequence = 3",),
        ("UPDATE transfers SET key = 'other' WHERE sequence = 3",),
        ("UPDATE transfers SET chain = zeroblob(32) WHERE sequence = 3",),
        ("DELETE FROM legs WHERE sequence = 3",),
        ("DELETE FROM legs WHERE sequence = 3", "DELETE FROM transfers WHERE sequence = 3"),
        ("DELETE FROM legs WHERE sequence = 6", "DELETE FROM transfers WHERE sequence = 6"),
        ("DELETE FROM transfers WHERE sequence = 3",),
        ("DELETE FROM legs", "DELETE FROM transfers"),
        ("UPDATE escrows SET state = 'refunded' WHERE \"order\" = 'held'",),
        ("UPDATE escrows SET state = 'held' WHERE \"order\" = 'ended'",),
        (f"UPDATE escrows SET amount = {MORE}",),
    ],
)
def test_an_edit_behind_the_ledgers_back_is_found(busy, path, statements):
    edit(path, *statements)
    with pytest.raises(LedgerDamaged):
        busy.verify()


def test_a_file_that_is_no_database_is_refused_when_opened(path):
    path.write_bytes(b"not a ledger at all" * 300)
    with pytest.raises(DatabaseDamaged):
        Ledger(path)


def test_a_file_with_overwritten_pages_is_found(busy, path):
    busy.close()
    with path.open("r+b") as file:
        file.seek(4096 + 16)
        file.write(b"\xa5" * (path.stat().st_size - 4096 - 16))
    with pytest.raises(BitHiveError) as found:
        Ledger(path).verify()
    assert found.value.code in {"ledger-damaged", "database-damaged"}


def test_a_truncated_file_is_found(busy, path):
    busy.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(BitHiveError) as found:
        Ledger(path).verify()
    assert found.value.code in {"ledger-damaged", "database-damaged"}
