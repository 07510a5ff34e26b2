"""On PostgreSQL the outbox and a settlement are what they are on SQLite, by the same tests."""

from __future__ import annotations

import pytest

from ledger import chart
from ledger.books import Ledger
from ledger.chain.outbox import Outbox
from ledger.store import open_tables
from storage.postgresql import open_postgresql
from tests.consent.test_postgresql import empty, server, target  # noqa: F401 - fixtures
from tests.ledger.chain.test_outbox import (  # noqa: F401 - run again on PostgreSQL
    test_a_dearer_attempt_has_the_same_nonce,
    test_a_nonce_is_one_intents,
    test_a_step_from_another_state_changes_nothing,
    test_an_intent_goes_its_way,
)
from tests.ledger.chain.world import ECONOMY, NOW

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(target):  # noqa: F811 - the fixture
    engine = open_tables(open_postgresql(target))
    yield engine
    engine.dispose()


@pytest.fixture
def outbox(engine):
    return Outbox(engine)


def test_a_settlement_of_books_on_a_server_pays_once(evm, engine):
    evm.ledger.close()
    evm.ledger = Ledger(engine)
    evm.ledger.genesis(ECONOMY.token.allocation, now=NOW)
    owed = {"north": 1, "south": 10**24}
    evm.owe(owed)
    evm.ledger.burn("b", chart.treasury("mining"), 3, memo="", now=NOW)
    evm.settle(batch=1)
    assert evm.settle().recipients == 0
    assert evm.all_held(list(owed)) == owed
    assert evm.reconciled().differences == ()
    evm.ledger.verify()
