"""After 100,000 random operations nothing was made or lost, whatever was refused on the way.

A plain dictionary of balances is kept beside the books. Operations come in batches that commit
together, and alone; some are repeated, some are refused. Every few thousand, all is derived again.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import chart, escrow, pending, tokenomics
from ledger.books import Ledger
from ledger.journal import Entry, InsufficientFunds, Leg
from protocol.units import TOTAL_SUPPLY

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
WALLETS = [chart.wallet(f"party-{number}") for number in range(40)]


class Traffic:
    """The books, what they should hold, and a seeded source of operations."""

    def __init__(self, ledger, seed):
        self.ledger, self.random, self.number, self.burned = ledger, random.Random(seed), 0, 0
        ledger.genesis(tokenomics.load().allocation, now=NOW)
        ledger.open_accounts([*WALLETS, chart.PENDING])
        legs = [Leg(chart.treasury("mining"), one, 10**24) for one in WALLETS]
        ledger.transfer_many("start", legs, memo="", now=NOW)
        self.expected = ledger.balances()
        self.done = []

    def leg(self):
        debit, credit = self.random.choice(WALLETS), self.random.choice([*WALLETS, chart.BURNED])
        amount = self.random.choice([1, 10**18, 10**22, 10**23, TOTAL_SUPPLY])
        return Leg(debit, credit, amount * self.random.randint(1, 9))

    def move(self, *legs):
        for leg in legs:
            self.expected[leg.debit] -= leg.amount
            self.expected[leg.credit] = self.expected.get(leg.credit, 0) + leg.amount

    def affords(self, entries):
        """What the dictionary says of a batch."""
        left = dict(self.expected)
        for entry in entries:
            for leg in entry.legs:
                left[leg.debit] -= leg.amount
                left[leg.credit] = left.get(leg.credit, 0) + leg.amount
                if left[leg.debit] < 0 and leg.debit != leg.credit:
                    return False
                if leg.debit == leg.credit and left[leg.debit] < leg.amount:
                    return False
        return True

    def batch(self, size):
        """``size`` transfers in one commit; refused whole where one cannot be paid."""
        entries = []
        for _ in range(size):
            self.number += 1
            leg = self.leg()
            if self.random.random() < 0.999:  # mostly what can be paid, so that batches pass
                leg = Leg(leg.debit, leg.credit, leg.amount % 10**19 + 1)
            entries.append(Entry(f"batch:{self.number}", (leg,)))
        again = self.random.sample(self.done, min(len(self.done), 3))
        if self.affords(entries):
            posted = self.ledger.post_batch([*entries, *again], now=NOW)
            assert [one.key for one in posted] == [one.key for one in (*entries, *again)]
            self.move(*(leg for entry in entries for leg in entry.legs))
            self.done = entries
        else:
            with pytest.raises(InsufficientFunds):
                self.ledger.post_batch([*entries, *again], now=NOW)

    def hold(self):
        """A hold, ended one way or the other."""
        self.number += 1
        key, leg = f"hold:{self.number}", self.leg()
        if leg.amount > self.expected[leg.debit] or leg.credit == chart.BURNED:
            return
        payer, payee = leg.debit, leg.credit
        pending.hold(self.ledger, key, payer, payee, leg.amount, expires=LATER, memo="", now=NOW)
        if self.random.random() < 0.5:
            part = self.random.randint(1, leg.amount)
            pending.post(self.ledger, f"end:{key}", key, amount=part, now=NOW)
            self.move(Leg(payer, payee, part))
        else:
            pending.expire(self.ledger, key, now=LATER)

    def order(self):
        """An escrow, released in part and refunded."""
        self.number += 1
        order, leg = f"order-{self.number}", self.leg()
        if leg.amount > self.expected[leg.debit] or leg.credit == chart.BURNED:
            return
        escrow.open_escrow(self.ledger, f"open:{order}", leg.debit, order, leg.amount, now=NOW)
        part = self.random.randint(1, leg.amount)
        escrow.release(self.ledger, f"pay:{order}", order, {leg.credit: part}, now=NOW)
        if part < leg.amount:
            escrow.refund(self.ledger, f"refund:{order}", order, now=NOW)
        ended = escrow.escrow_of(self.ledger, order)
        assert (ended.remaining, ended.state != "held") == (0, True)
        self.expected[chart.escrow(order)] = 0
        self.move(Leg(leg.debit, leg.credit, part))

    def run(self, operations, size):
        """Run that many operations, most of them in batches."""
        start, checked = self.number, self.number
        while self.number - start < operations:
            draw = self.random.random()
            (self.hold if draw < 0.1 else self.order if draw < 0.2 else lambda: self.batch(size))()
            if self.number - checked >= 20_000:
                self.check()
                checked = self.number
        self.check()

    def check(self):
        report = self.ledger.verify()
        assert report.supply == self.ledger.supply() == 210_000_000 * 10**18
        assert self.ledger.balances() == self.expected
        assert min(self.expected.values()) >= 0
        assert report.burned >= self.burned
        self.burned = report.burned


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_few_hundred_random_operations_keep_the_books_true(tmp_path_factory, seed):
    ledger = Ledger(tmp_path_factory.mktemp("traffic") / "ledger.db")
    Traffic(ledger, seed).run(300, size=20)
    ledger.close()


@pytest.mark.slow
def test_a_hundred_thousand_random_operations_keep_the_books_true(path):
    ledger = Ledger(path)
    traffic = Traffic(ledger, seed=7)
    traffic.run(100_000, size=100)
    assert traffic.burned > 0
    ledger.close()
