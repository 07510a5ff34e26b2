"""Whatever is asked of the books, in whatever order, repeated or refused, they stay true.

The machine keeps a plain dictionary of balances beside the ledger and asks both for the same.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ledger import chart, pending, tokenomics
from ledger.books import Ledger
from ledger.escrow import EscrowEnded, escrow_of, open_escrow, refund, release
from ledger.flags import AccountFlagged, Flag
from ledger.journal import IdempotencyConflict, InsufficientFunds, NegativeAmount
from ledger.pending import HoldEnded
from protocol.units import TOTAL_SUPPLY

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
HOLDERS = [chart.treasury("ecosystem"), chart.wallet("funder"), chart.wallet("north")]
holders = st.sampled_from(HOLDERS)
amounts = st.integers(1, 50) | st.integers(1, TOTAL_SUPPLY)


class Books(RuleBasedStateMachine):
    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = self.open_new()
        self.ledger.genesis(tokenomics.load().allocation, now=NOW)
        self.ledger.open_accounts(HOLDERS)
        self.expected = self.ledger.balances()
        self.escrows = {}
        self.holds = {}
        self.done = []
        self.keys = 0
        self.burned_before = 0

    def opened(self):
        return Ledger(self.folder / "ledger.db")

    def open_new(self):
        return self.opened()

    def teardown(self):
        self.ledger.close()
        shutil.rmtree(self.folder)

    def attempt(self, step, moves, *, refused_as=None):
        """Run a step and, where it is not refused, remember it and book ``moves``."""
        self.keys += 1
        key = f"key-{self.keys}"
        short = {}
        for debit, _, amount in moves:
            short[debit] = short.get(debit, 0) + amount
        overdrawn = any(self.expected[account] < amount for account, amount in short.items())
        if refused_as or overdrawn:
            with pytest.raises(refused_as or InsufficientFunds):
                step(key)
            return False
        self.done.append((step, key, step(key)))
        for debit, credit, amount in moves:
            self.expected[debit] -= amount
            self.expected[credit] = self.expected.get(credit, 0) + amount
        return True

    @rule(debit=holders, credit=holders, amount=amounts)
    def transfer(self, debit, credit, amount):
        def step(key):
            return self.ledger.transfer(key, debit, credit, amount, memo="", now=NOW)

        self.attempt(step, [(debit, credit, amount)])

    @rule(debit=holders, amount=amounts)
    def burn(self, debit, amount):
        def step(key):
            return self.ledger.burn(key, debit, amount, memo="", now=NOW)

        self.attempt(step, [(debit, chart.BURNED, amount)])

    @rule(debit=holders, credit=holders, amount=st.integers(max_value=-1))
    def take_by_a_negative_amount(self, debit, credit, amount):
        with pytest.raises(NegativeAmount):
            self.ledger.transfer("never", debit, credit, amount, memo="", now=NOW)

    @rule(funder=holders, amount=amounts)
    def put_up(self, funder, amount):
        order = f"order-{len(self.escrows)}"
        account = chart.escrow(order)

        def step(key):
            return open_escrow(self.ledger, key, funder, order, amount, now=NOW)

        if self.attempt(step, [(funder, account, amount)]):
            self.escrows[order] = funder

    @precondition(lambda self: self.escrows)
    @rule(draw=st.data(), first=amounts, second=amounts)
    def release(self, draw, first, second):
        order = draw.draw(st.sampled_from(sorted(self.escrows)))
        account, payouts = chart.escrow(order), dict(zip(HOLDERS, (first, second), strict=False))
        if draw.draw(st.booleans()) and self.expected[account]:
            payouts = {HOLDERS[2]: self.expected[account]}  # all that is left
        ended = self.expected[account] == 0

        def step(key):
            return release(self.ledger, key, order, payouts, now=NOW)

        moves = [(account, payee, amount) for payee, amount in payouts.items()]
        self.attempt(step, moves, refused_as=EscrowEnded if ended else None)

    @precondition(lambda self: self.escrows)
    @rule(draw=st.data())
    def refund(self, draw):
        order = draw.draw(st.sampled_from(sorted(self.escrows)))
        account, funder = chart.escrow(order), self.escrows[order]
        left = self.expected[account]

        def step(key):
            return refund(self.ledger, key, order, now=NOW)

        refused_as = None if left else EscrowEnded
        self.attempt(step, [(account, funder, left)], refused_as=refused_as)

    @rule(debit=holders, credit=holders, amount=amounts)
    def hold(self, debit, credit, amount):
        key = f"key-{self.keys + 1}"

        def step(key):
            return pending.hold(
                self.ledger, key, debit, credit, amount, expires=LATER, memo="", now=NOW
            )

        self.ledger.open_account(chart.PENDING)
        self.expected.setdefault(chart.PENDING, 0)
        if self.attempt(step, [(debit, chart.PENDING, amount)]):
            self.holds[key] = (debit, credit, amount, "pending")

    @precondition(lambda self: self.holds)
    @rule(draw=st.data(), way=st.sampled_from(["posted", "void", "expired"]))
    def end_a_hold(self, draw, way):
        held = draw.draw(st.sampled_from(sorted(self.holds)))
        debit, credit, amount, state = self.holds[held]
        part = draw.draw(st.integers(1, amount)) if way == "posted" else 0

        def step(key):
            if way == "posted":
                return pending.post(self.ledger, key, held, amount=part, now=NOW)
            if way == "void":
                return pending.void(self.ledger, key, held, now=NOW)
            return pending.expire(self.ledger, held, now=LATER)

        if way == state == "expired":
            return  # a repetition, which is fine
        moves = [(chart.PENDING, credit, part), (chart.PENDING, debit, amount - part)]
        ended = state != "pending"
        if self.attempt(step, [] if ended else moves, refused_as=HoldEnded if ended else None):
            self.holds[held] = (debit, credit, amount, way)
            if way == "expired":
                self.done.pop()  # its key is its own

    @rule(account=holders, raised=st.booleans())
    def flag(self, account, raised):
        self.ledger.set_flag(account, Flag.NO_DEBIT, raised=raised, reason="a test", now=NOW)
        with contextlib.suppress(AccountFlagged, InsufficientFunds):
            key = f"flagged-{self.keys}-{account}-{raised}"
            self.ledger.transfer(key, account, account, 1, memo="", now=NOW)
            assert not raised
        self.ledger.set_flag(account, Flag.NO_DEBIT, raised=False, reason="a test", now=NOW)

    @precondition(lambda self: self.done)
    @rule(draw=st.data())
    def repeat(self, draw):
        step, key, transfer = draw.draw(st.sampled_from(self.done))
        assert step(key) == transfer

    @precondition(lambda self: len(self.done) > 1)
    @rule(draw=st.data())
    def use_a_key_for_something_else(self, draw):
        _, key, _ = draw.draw(st.sampled_from(self.done))
        with pytest.raises(IdempotencyConflict):
            self.ledger.transfer(key, HOLDERS[0], HOLDERS[1], 1, memo="another", now=NOW)

    @rule()
    def close_and_open_again(self):
        self.ledger.close()
        self.ledger = self.opened()

    @invariant()
    def nothing_was_made_or_lost(self):
        assert self.ledger.supply() == 210_000_000 * 10**18

    @invariant()
    def balances_are_as_expected_and_none_is_negative(self):
        balances = self.ledger.balances()
        assert balances == self.expected
        assert all(balance >= 0 for balance in balances.values())

    @invariant()
    def the_journal_says_the_same_and_burned_only_grew(self):
        burned = self.ledger.verify().burned
        assert burned >= self.burned_before
        self.burned_before = burned

    @invariant()
    def an_escrow_has_ended_if_and_only_if_it_is_empty(self):
        assert sum(one[2] for one in self.holds.values() if one[3] == "pending") == (
            self.expected.get(chart.PENDING, 0)
        )
        for order in self.escrows:
            found = escrow_of(self.ledger, order)
            assert (found.remaining == 0) == (found.state != "held")


Books.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
test_the_books_stay_true = Books.TestCase
