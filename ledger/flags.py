"""Flags: what an account may not do for now, or ever again.

==============  ===================================================================
``no-debit``    pays nothing (a party under investigation, a bucket under time lock)
``no-credit``   receives nothing
``closed``      neither, for ever; only an empty account to which nothing can return is closed
==============  ===================================================================

That no account falls below zero, that burned never pays and that genesis pays once are no flags:
they cannot be lowered. Each change is a row that is never edited; the newest one counts.

What holds, each line a test in tests/ledger/test_flags.py:

1. A transfer that a raised flag forbids is refused and moves nothing.
2. A closed account stays closed and empty; none is closed that a hold, an escrow or a stake can
   still pay.
3. A repeated transfer is found although its account was flagged since.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Connection, func, insert, or_, select

from ledger.chart import kind_of
from ledger.store import ESCROWS, FLAGS, HOLDS, STAKES
from protocol.errors import LedgerError
from protocol.ids import AccountId

REASON_CHARACTERS_MAX = 400


class Flag(StrEnum):
    """What an account may not do."""

    NO_DEBIT = "no-debit"
    NO_CREDIT = "no-credit"
    CLOSED = "closed"


class AccountFlagged(LedgerError):
    """A flag forbids what the transfer asks of an account."""

    code = "account-flagged"

    def __init__(self, account: AccountId, flag: Flag) -> None:
        self.account = account
        self.flag = flag
        super().__init__(f"{account} is flagged {flag.value}; use another account or lift the flag")


class AccountNotEmpty(LedgerError):
    """An account that holds something was to be closed."""

    code = "account-not-empty"

    def __init__(self, account: AccountId, balance: int) -> None:
        self.account = account
        self.balance = balance
        super().__init__(f"{account} holds {balance} base units; move them before closing it")


class AccountAwaited(LedgerError):
    """An account to which money can still return was to be closed; then it never could."""

    code = "account-awaited"

    def __init__(self, account: AccountId, what: str) -> None:
        self.account = account
        self.what = what
        super().__init__(f"{account} can still be paid by {what}; let that end before closing it")


def check_not_awaited(connection: Connection, account: AccountId) -> None:
    """Return if no hold, escrow or stake can pay ``account``; what vests for it is not known here.

    Raises:
        AccountAwaited: One can.
    """
    parties = or_(HOLDS.c.debit == account, HOLDS.c.credit == account)
    held = (ESCROWS.c.funder == account, ESCROWS.c.state == "held")
    party = account.removeprefix("wallet:") if kind_of(account) == "wallet" else ""
    staked = (STAKES.c.party == party, STAKES.c.state.in_(("bonded", "unbonding")))
    asked = {
        "hold": select(HOLDS.c.hold).where(parties, HOLDS.c.state == "pending"),
        "escrow": select(ESCROWS.c.order).where(*held),
        "stake": select(STAKES.c.stake).where(*staked),
    }
    for kind, query in asked.items():
        name = connection.execute(query.limit(1)).scalar()
        if name is not None:
            raise AccountAwaited(account, f"the {kind} {name}")


def write_flag(
    connection: Connection,
    account: AccountId,
    flag: Flag,
    *,
    raised: bool,
    reason: str,
    now: datetime,
) -> None:
    """Raise or lower a flag of an open account; whoever calls checked that it may be."""
    assert 0 < len(reason) <= REASON_CHARACTERS_MAX
    assert now.tzinfo is not None
    last = connection.execute(select(func.max(FLAGS.c.number))).scalar() or 0
    row = {
        "number": last + 1,
        "account": account,
        "flag": flag.value,
        "raised": int(raised),
        "reason": reason,
        "at": now.astimezone(UTC).isoformat(),
    }
    connection.execute(insert(FLAGS), row)


def flags_of(connection: Connection, accounts: Iterable[AccountId]) -> dict[AccountId, set[Flag]]:
    """Return the raised flags of those of ``accounts`` that have any."""
    # Flags are few: a scan of them costs less than asking for thousands of accounts by name.
    rows = connection.execute(select(FLAGS).order_by(FLAGS.c.number)).all()
    if not rows:
        return {}
    wanted, found = set(accounts), dict[AccountId, set[Flag]]()
    for row in rows:
        if row.account in wanted:
            flags = found.setdefault(AccountId(row.account), set())
            (flags.add if row.raised else flags.discard)(Flag(row.flag))
    return {account: flags for account, flags in found.items() if flags}


def check_flags(flags: dict[AccountId, set[Flag]], debit: AccountId, credit: AccountId) -> None:
    """Refuse a leg that a flag of one of its accounts forbids.

    Raises:
        AccountFlagged: One does.
    """
    for account, forbidden in ((debit, Flag.NO_DEBIT), (credit, Flag.NO_CREDIT)):
        raised = flags.get(account, set()) & {forbidden, Flag.CLOSED}
        if raised:
            raise AccountFlagged(account, min(raised))
