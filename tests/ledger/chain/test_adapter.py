"""What the books moved to an address is what the chain paid to it, once."""

from __future__ import annotations

import pytest

from ledger import chart

pytestmark = pytest.mark.slow


def test_an_epoch_pays_every_bound_wallet_and_the_books_agree(evm):
    evm.owe({"north": 1, "south": 10**24, "west": 7})
    settled = evm.settle(batch=2)
    assert (settled.epoch, settled.recipients, settled.paid) == (1, 3, 10**24 + 8)
    assert [evm.held(name) for name in ("north", "south", "west")] == [1, 10**24, 7]
    assert evm.ledger.balance(chart.wallet("south")) == 0
    report = evm.reconciled()
    assert report.differences == ()
    assert evm.settle().recipients == 0
    assert evm.held("south") == 10**24
