"""Escrow: BTT put up for an order or a study, paid out in parts or returned, and ended once.

Each escrow is a state machine with no way back::

    held --release, in parts--> held
         --release of the last base unit--> captured
         --refund of what is left---------> refunded

A study's order is its id. A round releases part of the escrow; whatever no round earned goes back
to the funder. Every step has a key: repeating a step returns the transfer it made the first time,
also after the escrow ended.

What holds, each line a test in tests/ledger/test_escrow.py and test_machine.py:

1. An escrow never pays more than was put in, and once ended it holds nothing.
2. It ends at most once; a new step after the end is refused.
3. State and money change in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import Connection, insert, select, update

from ledger import chart, journal
from ledger.books import Ledger
from ledger.journal import Leg, Transfer
from ledger.store import ESCROWS
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.database import reading

State = Literal["held", "captured", "refunded"]


class EscrowEnded(LedgerError):
    """The escrow was paid out or refunded, so nothing more can happen to it."""

    code = "escrow-ended"

    def __init__(self, order: str, state: State) -> None:
        self.order = order
        self.state = state
        super().__init__(f"the escrow of {order} ended as {state}; fund a new order")


class EscrowOpenedAlready(LedgerError):
    """The order has an escrow, opened under another key."""

    code = "escrow-opened-already"

    def __init__(self, order: str) -> None:
        self.order = order
        super().__init__(f"{order} is funded already; use another order id to fund something else")


class UnknownEscrow(LedgerError):
    """Nothing was put up for this order."""

    code = "unknown-escrow"

    def __init__(self, order: str) -> None:
        self.order = order
        super().__init__(f"nothing was put up for {order}; fund it first")


@dataclass(frozen=True)
class Escrow:
    """An escrow as it stands: base units put up and still held."""

    order: str
    funder: AccountId
    amount: int
    remaining: int
    state: State


def open_escrow(
    ledger: Ledger, key: str, funder: AccountId, order: str, amount: int, *, now: datetime
) -> Transfer:
    """Move ``amount`` from ``funder`` into the escrow of ``order``.

    Raises:
        EscrowOpenedAlready: The order was funded under another key.
        AccountReserved: The funder is itself an escrow.
        NegativeAmount, EmptyTransfer, UnknownAccount, InsufficientFunds, IdempotencyConflict:
            As ``ledger.journal.post``.
    """
    account = chart.escrow(order)
    journal.check_no_escrow(funder)
    with ledger.begin() as connection:
        repeated = journal.find(connection, key) is not None
        if not repeated and _row(connection, order) is not None:
            raise EscrowOpenedAlready(order)
        journal.open_accounts(connection, [account])
        legs = [Leg(funder, account, amount)]
        transfer = journal.post(connection, key, legs, memo=f"put up for {order}", now=now)
        if not repeated:
            row = {"order": order, "funder": funder, "amount": amount, "state": "held"}
            connection.execute(insert(ESCROWS), row)
        return transfer


def release(
    ledger: Ledger,
    key: str,
    order: str,
    payouts: Mapping[AccountId, int],
    *,
    memo: str = "",
    now: datetime,
) -> Transfer:
    """Pay ``payouts`` out of the escrow of ``order``, all in one transfer.

    Args:
        ledger: The books.
        key: Names this release for ever.
        order: What the escrow was opened for.
        payouts: Base units by account, each at least one; accounts are opened if need be. The
            order of the mapping does not matter.
        memo: What for; part of what must be the same when repeated.
        now: The time to record.

    Raises:
        UnknownEscrow, EscrowEnded: There is nothing (more) to release.
        InsufficientFunds: The payouts exceed what is held.
        NegativeAmount, EmptyTransfer, AccountReserved, IdempotencyConflict: As
            ``ledger.journal.post``; a payout to another escrow is refused too.
    """
    journal.check_no_escrow(*payouts)
    legs = [Leg(chart.escrow(order), account, payouts[account]) for account in sorted(payouts)]
    with ledger.begin() as connection:
        if journal.find(connection, key) is None:
            _check_held(connection, order)
            journal.open_accounts(connection, payouts)
        transfer = journal.post(connection, key, legs, memo=memo, now=now)
        if _remaining(connection, order) == 0:
            _end(connection, order, "captured")
        return transfer


def refund(ledger: Ledger, key: str, order: str, *, now: datetime) -> Transfer:
    """Return what is left in the escrow of ``order`` to its funder, and end it.

    Raises:
        UnknownEscrow, EscrowEnded: There is nothing (more) to refund.
        IdempotencyConflict: The key was used for something else.
    """
    with ledger.begin() as connection:
        earlier = journal.find(connection, key)
        if earlier is None:
            funder = _check_held(connection, order)
            remaining = _remaining(connection, order)
        else:
            # What was left then is what it moved; post() refuses if it was not this refund.
            funder, remaining = _known(connection, order).funder, earlier.legs[0].amount
        legs = [Leg(chart.escrow(order), funder, remaining)]
        memo = f"left over from {order}"
        transfer = journal.post(connection, key, legs, memo=memo, now=now)
        _end(connection, order, "refunded")
        return transfer


def escrow_of(ledger: Ledger, order: str) -> Escrow:
    """Return the escrow of ``order`` as it stands.

    Raises:
        UnknownEscrow: Nothing was put up for it.
    """
    with reading(ledger.engine) as connection:
        return _known(connection, order)


def _known(connection: Connection, order: str) -> Escrow:
    found = _row(connection, order)
    if found is None:
        raise UnknownEscrow(order)
    return found


def _row(connection: Connection, order: str) -> Escrow | None:
    row = connection.execute(select(ESCROWS).where(ESCROWS.c.order == order)).one_or_none()
    if row is None:
        return None
    remaining = _remaining(connection, order)
    return Escrow(order, AccountId(row.funder), row.amount, remaining, cast("State", row.state))


def _check_held(connection: Connection, order: str) -> AccountId:
    """Return the funder of an escrow that has not ended."""
    found = _known(connection, order)
    if found.state != "held":
        raise EscrowEnded(order, found.state)
    return found.funder


def _remaining(connection: Connection, order: str) -> int:
    account = chart.escrow(order)
    return journal.flows_of(connection, [account])[account].balance


def _end(connection: Connection, order: str, state: State) -> None:
    ended = update(ESCROWS).where(ESCROWS.c.order == order, ESCROWS.c.state == "held")
    connection.execute(ended.values(state=state))
