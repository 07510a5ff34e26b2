"""The double-entry ledger: every base unit of BTT, where it is and how it came there.

    >>> from datetime import UTC, datetime
    >>> from tempfile import TemporaryDirectory
    >>> from ledger import chart, tokenomics
    >>> now = datetime(2026, 11, 21, tzinfo=UTC)
    >>> folder = TemporaryDirectory()
    >>> ledger = Ledger(Path(folder.name) / "ledger.db")
    >>> _ = ledger.genesis(tokenomics.load().allocation, now=now)
    >>> buyer = ledger.open_account(chart.wallet("buyer"))
    >>> _ = ledger.transfer(
    ...     "grant:1", chart.treasury("ecosystem"), buyer, 500, memo="a start", now=now
    ... )
    >>> ledger.balance(buyer), ledger.supply() == TOTAL_SUPPLY
    (500, True)
    >>> ledger.close(); folder.cleanup()

What holds, each line a rule or invariant in tests/ledger/test_machine.py:

1. Conservation: what all accounts hold, the burned account included, is the supply, always.
2. No account is below zero. (The genesis account stands for the outside: it owes the supply.)
3. One key, one transfer, whatever is repeated, by whichever process, after whichever crash.
4. Burned BTT never comes back.
5. Balances are the fold of the journal; ``verify`` recomputes them and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from ledger import journal
from ledger.chart import BURNED, GENESIS, treasury
from ledger.flags import (
    AccountFlagged,
    AccountNotEmpty,
    Flag,
    check_not_awaited,
    flags_of,
    write_flag,
)
from ledger.journal import Entry, Leg, Transfer, UnknownAccount
from ledger.reconcile import LedgerReport, reconcile
from ledger.store import ACCOUNTS, open_tables, writing
from ledger.tokenomics import Allocation
from protocol.ids import AccountId
from protocol.units import TOTAL_SUPPLY
from storage.database import reading


class Ledger:
    """The books in one database. Safe to share between threads and processes.

    Args:
        database: The SQLite file, created if need be; or an engine of ``ledger.store.open_tables``,
            to share one file with the audit log, or for a server of ``storage.postgresql``.

    Raises:
        DatabaseDamaged: The file is not a sound database.
        DiskFull, StorageFailed: The file cannot be created. Every method may raise these three.
    """

    def __init__(self, database: Path | Engine) -> None:
        self.engine = open_tables(database) if isinstance(database, Path) else database

    def close(self) -> None:
        """Close the connections to the file."""
        self.engine.dispose()

    def begin(self) -> AbstractContextManager[Connection]:
        """Begin a transaction for ``ledger.journal``; it commits if the block does not raise."""
        return writing(self.engine)

    def genesis(self, allocation: Allocation, *, now: datetime) -> Transfer:
        """Mint the whole supply, once, into the treasury buckets of ``allocation``.

        Repeating it returns the first genesis.

        Raises:
            IdempotencyConflict: Genesis was with another allocation.
        """
        amounts = allocation.amounts()
        assert sum(amounts.values()) == TOTAL_SUPPLY
        buckets = sorted(amounts)
        legs = [Leg(GENESIS, treasury(bucket), amounts[bucket]) for bucket in buckets]
        with self.begin() as connection:
            accounts = [GENESIS, BURNED, *(leg.credit for leg in legs)]
            journal.open_accounts(connection, accounts)
            return journal.post(
                connection, journal.GENESIS_KEY, legs, memo="the whole supply", now=now
            )

    def open_account(self, account: AccountId) -> AccountId:
        """Open ``account`` if it is not open yet, and return it.

        Raises:
            AccountMisnamed: The chart has no such account.
        """
        self.open_accounts([account])
        return account

    def open_accounts(self, accounts: Iterable[AccountId]) -> None:
        """Open those of ``accounts`` that are not open yet, in one transaction."""
        with self.begin() as connection:
            journal.open_accounts(connection, accounts)

    def transfer(
        self,
        key: str,
        debit: AccountId,
        credit: AccountId,
        amount: int,
        *,
        memo: str,
        now: datetime,
    ) -> Transfer:
        """Move ``amount`` base units from ``debit`` to ``credit``, exactly once per ``key``.

        Raises:
            NegativeAmount, EmptyTransfer, UnknownAccount, InsufficientFunds, IdempotencyConflict:
                As ``ledger.journal.post``.
            AccountReserved: As there, or an account is named that moves by rules of its own.
            AccountFlagged: A flag forbids it.
        """
        return self.transfer_many(key, [Leg(debit, credit, amount)], memo=memo, now=now)

    def transfer_many(self, key: str, legs: Sequence[Leg], *, memo: str, now: datetime) -> Transfer:
        """Post all of ``legs`` as one transfer, or none of them. Raises as ``transfer`` does."""
        for leg in legs:
            journal.check_no_escrow(leg.debit, leg.credit)
        with self.begin() as connection:
            return journal.post(connection, key, legs, memo=memo, now=now)

    def post_batch(self, entries: Sequence[Entry], *, now: datetime) -> list[Transfer]:
        """Post transfers with a key each in one commit, all or none. Raises as ``transfer`` does.

        Returns:
            One transfer for each entry, in order; an earlier one where it is repeated.
        """
        for entry in entries:
            for leg in entry.legs:
                journal.check_no_escrow(leg.debit, leg.credit)
        with self.begin() as connection:
            return journal.post_batch(connection, entries, now=now)

    def reverse(self, key: str, of: str, *, memo: str, now: datetime) -> Transfer:
        """Correct the transfer posted under ``of``: post its legs backwards, under ``key``.

        Nothing is edited: both stay in the journal. Raises as ``transfer`` does, burned BTT and
        genesis among what is refused.
        """
        earlier = self.find(of)
        assert earlier is not None, f"there is no transfer {of} to reverse"
        legs = [Leg(leg.credit, leg.debit, leg.amount) for leg in reversed(earlier.legs)]
        return self.transfer_many(key, legs, memo=memo, now=now)

    def set_flag(
        self, account: AccountId, flag: Flag, *, raised: bool = True, reason: str, now: datetime
    ) -> None:
        """Raise or lower a flag of ``account``; see ``ledger.flags``.

        Raises:
            UnknownAccount: It was never opened.
            AccountNotEmpty: It is to be closed and holds something.
            AccountAwaited: It is to be closed, and a hold, an escrow or a stake can return to it.
            AccountFlagged: It is closed: that is for ever.
        """
        with self.begin() as connection:
            flow = journal.flows_of(connection, [account]).get(account)
            if flow is None:
                raise UnknownAccount(account)
            if Flag.CLOSED in flags_of(connection, [account]).get(account, set()):
                raise AccountFlagged(account, Flag.CLOSED)
            if flag is Flag.CLOSED and flow.balance != 0:
                raise AccountNotEmpty(account, flow.balance)
            if flag is Flag.CLOSED:
                check_not_awaited(connection, account)
            write_flag(connection, account, flag, raised=raised, reason=reason, now=now)

    def flags(self, account: AccountId) -> frozenset[Flag]:
        """Return the flags of ``account`` that are raised."""
        with reading(self.engine) as connection:
            return frozenset(flags_of(connection, [account]).get(account, set()))

    def burn(
        self, key: str, account: AccountId, amount: int, *, memo: str, now: datetime
    ) -> Transfer:
        """Destroy ``amount`` base units of ``account``. Raises as ``transfer`` does."""
        return self.transfer(key, account, BURNED, amount, memo=memo, now=now)

    def find(self, key: str) -> Transfer | None:
        """Return the transfer posted under ``key``, if there is one."""
        with reading(self.engine) as connection:
            return journal.find(connection, key)

    def balance(self, account: AccountId) -> int:
        """Return what ``account`` holds, in base units; of genesis, the supply it owes, negative.

        Raises:
            UnknownAccount: It was never opened.
        """
        with reading(self.engine) as connection:
            flow = journal.flows_of(connection, [account]).get(account)
        if flow is None:
            raise UnknownAccount(account)
        return flow.balance

    def balances(self, prefix: str = "") -> dict[AccountId, int]:
        """Return balances of the accounts whose names begin with ``prefix``, in name order.

        The genesis account is not among them: what remains is held by someone, or burned.
        """
        return dict(self._held(prefix))

    def supply(self) -> int:
        """Return all base units there are or were: held plus burned. Zero before genesis."""
        return sum(balance for _, balance in self._held(""))

    def verify(self) -> LedgerReport:
        """Derive every balance again from the journal and check the laws at the top of this file.

        Raises:
            LedgerDamaged: Something does not agree; the message says what.
            DatabaseDamaged: The file cannot be read.
        """
        with reading(self.engine) as connection:
            return reconcile(connection)

    def _held(self, prefix: str) -> Iterator[tuple[AccountId, int]]:
        with reading(self.engine) as connection:
            rows = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.account)).all()
        for row in rows:
            if row.account != GENESIS and row.account.startswith(prefix):
                yield AccountId(row.account), row.credits - row.debits
