"""A party's statement: what came and went on its accounts between two moments, and what is left.

Drawn from the journal alone, so that closing less opening is the sum of the lines, whatever the
stored balances say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import or_, select

from ledger import chart
from ledger.books import Ledger
from ledger.journal import UnknownAccount
from ledger.store import ACCOUNTS, LEGS, TRANSFERS
from protocol.ids import AccountId
from storage.database import reading


@dataclass(frozen=True)
class Line:
    """One leg as the party sees it: positive ``amount`` came, negative went, in base units."""

    at: datetime
    sequence: int
    key: str
    memo: str
    account: AccountId
    other: AccountId
    amount: int
    balance: int


@dataclass(frozen=True)
class Statement:
    """A party's accounts from ``since`` until just before ``until``; together, in base units."""

    party: str
    accounts: tuple[AccountId, ...]
    since: datetime | None
    until: datetime | None
    opening: int
    lines: tuple[Line, ...]
    closing: int

    @property
    def received(self) -> int:
        """Base units that came in."""
        return sum(line.amount for line in self.lines if line.amount > 0)

    @property
    def paid(self) -> int:
        """Base units that went out."""
        return -sum(line.amount for line in self.lines if line.amount < 0)


def accounts_of(party: str) -> tuple[AccountId, ...]:
    """Return the accounts of the chart that are named for ``party``."""
    return chart.wallet(party), chart.stake(party), chart.vesting(party)


def statement(
    ledger: Ledger,
    party: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Statement:
    """Draw the statement of a party: its wallet, its stake and what vests for it.

    Args:
        ledger: The books.
        party: As in ``wallet:PARTY``; or a whole account name, for that account alone.
        since: The first moment; from the beginning if none is given.
        until: The moment before which it ends; the newest transfer if none is given.

    Raises:
        AccountMisnamed: The chart cannot have such accounts.
        UnknownAccount: None of them was opened.
    """
    single = ":" in party or party in chart.PARTS_OF_KIND
    names = (chart.check_account(party),) if single else accounts_of(party)
    first = "" if since is None else since.astimezone(UTC).isoformat()
    balance, opening, lines = 0, 0, []
    with reading(ledger.engine) as connection:
        known = select(ACCOUNTS.c.account).where(ACCOUNTS.c.account.in_(names))
        accounts = tuple(sorted(AccountId(one) for one in connection.execute(known).scalars()))
        if not accounts:
            raise UnknownAccount(names[0])
        query = select(TRANSFERS, LEGS.c.debit, LEGS.c.credit, LEGS.c.amount)
        query = query.join_from(TRANSFERS, LEGS)
        query = query.where(or_(LEGS.c.debit.in_(accounts), LEGS.c.credit.in_(accounts)))
        if until is not None:
            query = query.where(TRANSFERS.c.at < until.astimezone(UTC).isoformat())
        rows = connection.execute(query.order_by(LEGS.c.sequence, LEGS.c.position)).all()
    for row in rows:
        for account, other, amount in _sides(row, accounts):
            balance += amount
            if row.at < first:
                opening = balance
                continue
            at = datetime.fromisoformat(row.at)
            line = (at, row.sequence, row.key, row.memo, account, other, amount, balance)
            lines.append(Line(*line))
    return Statement(party, accounts, since, until, opening, tuple(lines), balance)


def _sides(
    row: object, accounts: tuple[AccountId, ...]
) -> Iterator[tuple[AccountId, AccountId, int]]:
    values = row._mapping  # type: ignore[attr-defined] # noqa: SLF001 - SQLAlchemy's public name
    debit, credit, amount = (
        AccountId(values["debit"]),
        AccountId(values["credit"]),
        values["amount"],
    )
    if debit in accounts:
        yield debit, credit, -amount
    if credit in accounts:
        yield credit, debit, amount
