"""Books for the tests of the ledger: after genesis, with a funder who holds 1,000 base units."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ledger import chart, tokenomics
from ledger.books import Ledger


@pytest.fixture
def now():
    return datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path, now):
    ledger = Ledger(path)
    ledger.genesis(tokenomics.load().allocation, now=now)
    funder, ecosystem = chart.wallet("funder"), chart.treasury("ecosystem")
    ledger.open_accounts([funder, chart.wallet("stranger")])
    ledger.transfer("start", ecosystem, funder, 1000, memo="a start", now=now)
    yield ledger
    ledger.close()
