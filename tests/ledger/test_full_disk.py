"""A database that may not grow refuses by name and keeps all it had."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from ledger import chart
from ledger.books import Ledger
from protocol.errors import DiskFull

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")


def forbid_growth(ledger):
    """Make SQLite meet its page limit, which it reports exactly as a full disk (SQLITE_FULL)."""
    ledger.engine.dispose()

    def limit(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(ledger.engine, "connect", limit)


def pay(ledger, number, now):
    return ledger.transfer(f"k{number}", FUNDER, STRANGER, 1, memo="x" * 400, now=now)


def test_a_full_disk_is_named_and_nothing_is_lost(ledger, path, now):
    forbid_growth(ledger)
    kept = []

    def pay_until_full():
        while True:
            kept.append(pay(ledger, len(kept), now))

    with pytest.raises(DiskFull, match="free some"):
        pay_until_full()
    assert kept
    assert ledger.balance(STRANGER) == len(kept)
    ledger.verify()
    ledger.close()

    with_space = Ledger(path)
    for number in range(len(kept) + 5):
        pay(with_space, number, now)
    assert with_space.balance(STRANGER) == len(kept) + 5
    with_space.verify()
    with_space.close()
