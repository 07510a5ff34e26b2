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
4. A key of a settlement to a chain names a transfer to accounts of a chain, and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, func, insert, select

from ledger import rows
from ledger.chart import BURNED, GENESIS, MANAGED, check_account, kind_of
from ledger.flags import check_flags, flags_of
from ledger.store import ACCOUNTS, LEGS, TRANSFERS
from protocol.errors import LedgerError
from protocol.ids import AccountId
from storage.canonical import JSON, canonical_json

GENESIS_KEY: Final = "genesis"
"""The one transfer that may debit the genesis account."""
CHAIN_KEYS: Final = ("chain:pay:", "chain:root:")
"""A settlement's keys: from these the chain's payments are derived again, so nobody else has them.
"""
LEGS_MAX: Final = 4096
BATCH_MAX: Final = 4096
"""Transfers of a batch."""
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
            "an escrow is opened, released and refunded, a hold posted or voided, a stake unbonded "
            "or slashed, and vesting released by its schedule"
        )


class KeyReserved(LedgerError):
    """The key is one that only a settlement to a chain may use."""

    code = "key-reserved"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"{key} would be taken for a settlement to a chain; use a key that does not begin "
            f"with {' or '.join(CHAIN_KEYS)}"
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
class Entry:
    """A transfer to be posted with others in one batch; see ``post``."""

    key: str
    legs: tuple[Leg, ...]
    memo: str = ""


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
    """Refuse, with AccountReserved, an account that moves only by the rules of its own module."""
    for account in accounts:
        if kind_of(account) in MANAGED:
            raise AccountReserved(account)


def find(connection: Connection, key: str) -> Transfer | None:
    """Return the transfer posted under ``key``, if there is one."""
    return find_many(connection, [key]).get(key)


def find_many(connection: Connection, keys: Iterable[str]) -> dict[str, Transfer]:
    """Return, by key, those transfers that were posted under one of ``keys``."""
    by_key = select(TRANSFERS).where(TRANSFERS.c.key.in_(list(keys)))
    found = {row.sequence: row for row in connection.execute(by_key)}
    if not found:
        return {}
    of_them = select(LEGS).where(LEGS.c.sequence.in_(list(found)))
    legs: dict[int, list[Leg]] = {sequence: [] for sequence in found}
    for leg in connection.execute(of_them.order_by(LEGS.c.sequence, LEGS.c.position)):
        legs[leg.sequence].append(Leg(leg.debit, leg.credit, leg.amount))
    return {
        row.key: Transfer(
            sequence, row.key, tuple(legs[sequence]), row.memo, datetime.fromisoformat(row.at)
        )
        for sequence, row in found.items()
    }


def post(
    connection: Connection, key: str, legs: Sequence[Leg], *, memo: str, now: datetime
) -> Transfer:
    """Write a transfer, or return the earlier one of the same key and content.

    Args:
        connection: Inside ``ledger.store.writing``.
        key: Names this transfer for ever, e.g. ``settle:busi-2026:3``.
        legs: At least one, each of at least one base unit; applied in order.
        memo: What it was for. Part of the content. Never about a patient.
        now: The time to record, with its time zone. Not part of the content.

    Raises:
        NegativeAmount, EmptyTransfer: A leg that moves money backwards or not at all.
        KeyReserved: The key is a settlement's, and a leg pays other than to a chain.
        AccountReserved: A leg pays out of burned, into genesis, or a second time out of genesis.
        AccountFlagged: A flag forbids a leg.
        UnknownAccount: A leg names an account that is not open.
        InsufficientFunds: A leg takes more than its account holds at that moment.
        IdempotencyConflict: The key was used for something else.
    """
    return post_batch(connection, [Entry(key, tuple(legs), memo)], now=now)[0]


def post_batch(
    connection: Connection, entries: Sequence[Entry], *, now: datetime
) -> list[Transfer]:
    """Write transfers in order, all or none; each is what ``post`` would have made of it.

    Returns:
        One transfer for each entry: the new one, or the earlier of the same key and content.

    Raises:
        As ``post``, for the first entry that is refused.
    """
    assert 0 < len(entries) <= BATCH_MAX
    assert now.tzinfo is not None
    for entry in entries:
        _check_entry(entry)
    known = find_many(connection, [entry.key for entry in entries])
    fresh = [entry for entry in entries if entry.key not in known]
    names = {name for entry in fresh for leg in entry.legs for name in (leg.debit, leg.credit)}
    flows, flags = (flows_of(connection, names), flags_of(connection, names)) if fresh else ({}, {})
    sequence, chain = tip(connection)
    at, written = now.astimezone(UTC), list[tuple[Transfer, bytes]]()
    for entry in entries:
        earlier = known.get(entry.key)
        if earlier is not None:
            if (earlier.legs, earlier.memo) != (entry.legs, entry.memo):
                raise IdempotencyConflict(entry.key)
            continue
        for leg in entry.legs:
            check_flags(flags, leg.debit, leg.credit)
            apply_leg(flows, leg)
        sequence += 1
        transfer = known[entry.key] = Transfer(sequence, entry.key, entry.legs, entry.memo, at)
        chain = chained(chain, transfer)
        written.append((transfer, chain))
    if written:
        _write(connection, written)
        sums = [(name, flow.debits, flow.credits) for name, flow in sorted(flows.items())]
        rows.update_flows(connection, sums)
    return [known[entry.key] for entry in entries]


def tip(connection: Connection) -> tuple[int, bytes]:
    """Return the newest row's sequence and link; before the first, 0 and ``CHAIN_START``."""
    last = select(func.max(TRANSFERS.c.sequence)).scalar_subquery()
    newest = select(TRANSFERS.c.sequence, TRANSFERS.c.chain).where(TRANSFERS.c.sequence == last)
    row = connection.execute(newest).one_or_none()
    return (0, CHAIN_START) if row is None else (row.sequence, row.chain)


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


def _check_entry(entry: Entry) -> None:
    key = entry.key
    assert 0 < len(key) <= KEY_CHARACTERS_MAX
    assert len(entry.memo) <= MEMO_CHARACTERS_MAX
    assert len(entry.legs) <= LEGS_MAX
    if not entry.legs:
        raise EmptyTransfer(key)
    for leg in entry.legs:
        if leg.amount < 0:
            raise NegativeAmount(leg.amount)
        if leg.amount == 0:
            raise EmptyTransfer(key)
    # Only a settlement pays into accounts of the chain; see ``check_no_escrow``.
    if key.startswith(CHAIN_KEYS) and any(kind_of(leg.credit) != "chain" for leg in entry.legs):
        raise KeyReserved(key)
    for leg in entry.legs:
        if leg.debit == BURNED:
            raise AccountReserved(BURNED)
        if leg.credit == GENESIS or (leg.debit == GENESIS and key != GENESIS_KEY):
            raise AccountReserved(GENESIS)


def _write(connection: Connection, written: Sequence[tuple[Transfer, bytes]]) -> None:
    rows.insert_transfers(
        connection,
        [(one.sequence, one.key, one.memo, one.at.isoformat(), link) for one, link in written],
    )
    rows.insert_legs(
        connection,
        [
            (one.sequence, position, leg.debit, leg.credit, leg.amount)
            for one, _ in written
            for position, leg in enumerate(one.legs)
        ],
    )
