"""Posting: how a transfer enters the journal, inside a transaction that someone else began.

``ledger.books`` and ``ledger.escrow`` each begin a transaction and post through here, so that
money and state change together or not at all. A transfer is one or more legs; each leg debits one
account and credits another with the same amount, so every transfer balances by its form.

Legs apply in order and none may overdraw its account, even for a moment. Each row of the journal
carries a SHA-256 over its content and the row before it.

What holds, each line a rule or invariant in tests/ledger/test_machine.py:

1. Idempotency: one key names one transfer. The same content again returns the earlier transfer,
   other content is refused.
2. No account but the genesis account falls below zero.
3. All or nothing: a refused transfer leaves no leg behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from ledger.canonical import JSON, canonical_json
from ledger.chart import BURNED, GENESIS, check_account, kind_of
from ledger.store import ACCOUNTS, LEGS, TRANSFERS
from protocol.errors import LedgerError
from protocol.ids import AccountId

GENESIS_KEY: Final = "genesis"
"""The one transfer that may debit the genesis account."""
LEGS_MAX: Final = 4096
KEY_CHARACTERS_MAX: Final = 200
MEMO_CHARACTERS_MAX: Final = 400

CHAIN_START: Final = hashlib.sha256(b"bithive journal v1\n").digest()
"""Stands where the first row's predecessor would be."""


class NegativeAmount(LedgerError):
    """A transfer of less than nothing would take money from the receiver."""

    code = "negative-amount"

    def __init__(self, amount: int) -> None:
        self.amount = amount
        super().__init__(f"an amount of {amount} base units is negative; amounts only go forward")


class EmptyTransfer(LedgerError):
    """A transfer without legs, or with a leg of zero, would move nothing."""

    code = "empty-transfer"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"transfer {key} has a leg of zero or no leg; leave out what moves nothing"
        )


class InsufficientFunds(LedgerError):
    """The account holds less than is to be taken from it."""

    code = "insufficient-funds"

    def __init__(self, account: AccountId, balance: int, amount: int) -> None:
        self.account = account
        self.balance = balance
        self.amount = amount
        super().__init__(
            f"{account} holds {balance} base units, {amount} are asked of it; fund it first"
        )


class UnknownAccount(LedgerError):
    """No account of this name was opened."""

    code = "unknown-account"

    def __init__(self, account: AccountId) -> None:
        self.account = account
        super().__init__(f"{account} is not in the books; open it before moving money")


class AccountReserved(LedgerError):
    """The account moves by its own rules, and this transfer is not one of them."""

    code = "account-reserved"

    def __init__(self, account: AccountId) -> None:
        self.account = account
        super().__init__(
            f"{account} cannot take part in this transfer: genesis pays once, burned never pays, "
            "and an escrow is opened, released and refunded"
        )


class IdempotencyConflict(LedgerError):
    """The key already names a transfer with other content."""

    code = "idempotency-conflict"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"{key} was posted before with other content; repeat it unchanged or use a new key"
        )


@dataclass(frozen=True)
class Leg:
    """``amount`` base units out of ``debit`` into ``credit``."""

    debit: AccountId
    credit: AccountId
    amount: int


@dataclass(frozen=True)
class Transfer:
    """One row of the journal. It never changes; a correction is another transfer."""

    sequence: int
    key: str
    legs: tuple[Leg, ...]
    memo: str
    at: datetime


@dataclass
class Flow:
    """What went out of an account and into it since it was opened."""

    debits: int = 0
    credits: int = 0

    @property
    def balance(self) -> int:
        """Base units the account holds; negative for the genesis account alone."""
        return self.credits - self.debits


def open_accounts(connection: Connection, accounts: Iterable[AccountId]) -> None:
    """Open what is not open yet, empty. Raises AccountMisnamed for a name outside the chart."""
    wanted = {check_account(account) for account in accounts}
    known = connection.execute(select(ACCOUNTS.c.account).where(ACCOUNTS.c.account.in_(wanted)))
    fresh = wanted.difference(known.scalars())
    if fresh:
        rows = [{"account": account, "debits": 0, "credits": 0} for account in sorted(fresh)]
        connection.execute(insert(ACCOUNTS), rows)


def check_no_escrow(*accounts: AccountId) -> None:
    """Refuse, with AccountReserved, an escrow where only ``ledger.escrow`` may name one."""
    for account in accounts:
        if kind_of(account) == "escrow":
            raise AccountReserved(account)


def find(connection: Connection, key: str) -> Transfer | None:
    """Return the transfer posted under ``key``, if there is one."""
    row = connection.execute(select(TRANSFERS).where(TRANSFERS.c.key == key)).one_or_none()
    if row is None:
        return None
    of_transfer = select(LEGS).where(LEGS.c.sequence == row.sequence).order_by(LEGS.c.position)
    legs = tuple(Leg(leg.debit, leg.credit, leg.amount) for leg in connection.execute(of_transfer))
    return Transfer(row.sequence, row.key, legs, row.memo, datetime.fromisoformat(row.at))


def post(
    connection: Connection, key: str, legs: Sequence[Leg], *, memo: str, now: datetime
) -> Transfer:
    """Write a transfer, or return the earlier one of the same key and content.

    Args:
        connection: Inside ``storage.database.writing``.
        key: Names this transfer for ever, e.g. ``settle:busi-2026:3``.
        legs: At least one, each of at least one base unit; applied in order.
        memo: What it was for. Part of the content. Never about a patient.
        now: The time to record, with its time zone. Not part of the content.

    Raises:
        NegativeAmount, EmptyTransfer: A leg that moves money backwards or not at all.
        AccountReserved: A leg pays out of burned, into genesis, or a second time out of genesis.
        UnknownAccount: A leg names an account that is not open.
        InsufficientFunds: A leg takes more than its account holds at that moment.
        IdempotencyConflict: The key was used for something else.
    """
    assert 0 < len(key) <= KEY_CHARACTERS_MAX
    assert len(memo) <= MEMO_CHARACTERS_MAX
    assert len(legs) <= LEGS_MAX
    assert now.tzinfo is not None
    _check_amounts(key, legs)
    _check_reserved(key, legs)
    earlier = find(connection, key)
    if earlier is not None:
        if (earlier.legs, earlier.memo) != (tuple(legs), memo):
            raise IdempotencyConflict(key)
        return earlier
    flows = flows_of(connection, {name for leg in legs for name in (leg.debit, leg.credit)})
    for leg in legs:
        apply_leg(flows, leg)
    transfer = _append(connection, key, tuple(legs), memo, now.astimezone(UTC))
    _store_flows(connection, flows)
    return transfer


def apply_leg(flows: Mapping[AccountId, Flow], leg: Leg) -> None:
    """Add a leg to the flows of its two accounts.

    Raises:
        UnknownAccount: One of them is not among ``flows``.
        InsufficientFunds: The debited account would fall below zero.
    """
    for account in (leg.debit, leg.credit):
        if account not in flows:
            raise UnknownAccount(account)
    balance = flows[leg.debit].balance
    if leg.debit != GENESIS and leg.amount > balance:
        raise InsufficientFunds(leg.debit, balance, leg.amount)
    flows[leg.debit].debits += leg.amount
    flows[leg.credit].credits += leg.amount


def flows_of(connection: Connection, accounts: Iterable[AccountId]) -> dict[AccountId, Flow]:
    """Return the stored flows of those of ``accounts`` that are open."""
    stored = select(ACCOUNTS).where(ACCOUNTS.c.account.in_(sorted(accounts)))
    return {
        AccountId(row.account): Flow(row.debits, row.credits) for row in connection.execute(stored)
    }


def chained(previous: bytes, transfer: Transfer) -> bytes:
    """Return the SHA-256 that ties a row of the journal to the row before it."""
    legs = [[leg.debit, leg.credit, f"{leg.amount:d}"] for leg in transfer.legs]
    content: list[JSON] = [
        transfer.sequence,
        transfer.key,
        transfer.memo,
        transfer.at.isoformat(),
        legs,
    ]
    return hashlib.sha256(previous + canonical_json(content)).digest()


def _check_amounts(key: str, legs: Sequence[Leg]) -> None:
    for leg in legs:
        if leg.amount < 0:
            raise NegativeAmount(leg.amount)
        if leg.amount == 0:
            raise EmptyTransfer(key)
    if not legs:
        raise EmptyTransfer(key)


def _check_reserved(key: str, legs: Sequence[Leg]) -> None:
    for leg in legs:
        if leg.debit == BURNED:
            raise AccountReserved(BURNED)
        if leg.credit == GENESIS or (leg.debit == GENESIS and key != GENESIS_KEY):
            raise AccountReserved(GENESIS)


def _append(
    connection: Connection, key: str, legs: tuple[Leg, ...], memo: str, at: datetime
) -> Transfer:
    last = select(func.max(TRANSFERS.c.sequence)).scalar_subquery()
    tip = connection.execute(select(TRANSFERS).where(TRANSFERS.c.sequence == last)).one_or_none()
    sequence, previous = (tip.sequence + 1, tip.chain) if tip is not None else (1, CHAIN_START)
    transfer = Transfer(sequence, key, legs, memo, at)
    row = {"sequence": sequence, "key": key, "memo": memo, "at": at.isoformat()}
    connection.execute(insert(TRANSFERS), row | {"chain": chained(previous, transfer)})
    connection.execute(
        insert(LEGS),
        [
            {
                "sequence": sequence,
                "position": position,
                "debit": leg.debit,
                "credit": leg.credit,
                "amount": leg.amount,
            }
            for position, leg in enumerate(legs)
        ],
    )
    return transfer


def _store_flows(connection: Connection, flows: Mapping[AccountId, Flow]) -> None:
    change = update(ACCOUNTS).where(ACCOUNTS.c.account == bindparam("name"))
    connection.execute(
        change.values(debits=bindparam("out"), credits=bindparam("into")),
        [{"name": name, "out": flow.debits, "into": flow.credits} for name, flow in flows.items()],
    )
