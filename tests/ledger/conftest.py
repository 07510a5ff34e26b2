"""Books for the tests of the ledger: after genesis, with a funder who holds 1,000 base units."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ledger import chart, tokenomics
from ledger.books import Ledger

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")
ECOSYSTEM = chart.treasury("ecosystem")


def make_ledger(path):
    ledger = Ledger(path)
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    ledger.open_accounts([FUNDER, STRANGER])
    ledger.transfer("start", ECOSYSTEM, FUNDER, 1000, memo="a start", now=NOW)
    return ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    ledger = make_ledger(path)
    yield ledger
    ledger.close()
