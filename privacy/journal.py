"""The privacy ledger's file: entries that are only ever added, each sealed to the one before it.

A row that is changed, dropped, moved or added by anyone else breaks the chain; rows missing at the
end disagree with the head beside them; and a whole file put back to an earlier day, or deleted,
disagrees with the head in the small file next to it (``NAME.head``). Each of these refuses::

    entry n    (n, at, dataset, kind, body, link)     link = SHA-256(link of n-1, the rest of n)
    head       (n, link) of the last entry            same transaction
    NAME.head  the same, after the transaction        so it may lag behind, and never leads

What holds, each line a test in tests/privacy/test_journal.py:

1. Whatever is done to a row or to the head is noticed before anything more is spent.
2. A transaction that does not finish leaves nothing behind, wherever it is stopped.
3. Entries' times never go back, unless the steward says what the time is.
4. A ledger that exists and cannot be opened is ``BudgetUnreadable``, whatever the reason.

The chain has no key: it finds accidents and clumsy hands, and whoever can write both files can
write a false history. Receipts signed in the past are what an auditor holds against that.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from protocol.errors import PrivacyError, StorageFailed
from storage.database import DatabaseDamaged, open_database, reading, writing
from storage.files import PRIVATE, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTRIES_MAX: Final = 300_000
"""Entries read at most; a hospital does not take part in more rounds than they are for."""
CLOCK_TOLERANCE_SECONDS: Final = 300
"""How far a clock may stand behind the last entry: time servers correct by less."""
_LABEL: Final = b"bithive privacy ledger 1\n"

_METADATA: Final = sa.MetaData()
_HEAD: Final = sa.Table(
    "ledger_head",
    _METADATA,
    sa.Column("only", sa.Integer, sa.CheckConstraint("only = 1"), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("link", sa.Text, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
)
_ENTRIES: Final = sa.Table(
    "ledger_entries",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Integer, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("link", sa.Text, nullable=False),
)


class BudgetUnreadable(PrivacyError):
    """The privacy ledger cannot be trusted, so nothing may be spent."""

    code = "privacy-ledger-unreadable"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(
            f"the privacy ledger {name} cannot be trusted ({reason}), so no round may use the "
            "data; restore its newest backup, and let the data steward lower the cap by what the "
            "receipts since then say was spent"
        )


class ClockBackwards(PrivacyError):
    """The clock stands before the ledger's last entry, so nothing new may be reserved."""

    code = "privacy-clock-backwards"

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(
            f"this machine's clock stands {seconds} seconds before the privacy ledger's last "
            "entry; set the clock right, or, if it had been ahead until now, let the data steward "
            "confirm the present time with 'bithive site budget --accept-clock'"
        )


@dataclass(frozen=True)
class Entry:
    """One thing that was decided, and when (seconds since 1970)."""

    number: int
    at: int
    dataset: str
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Head:
    """How many entries there are, and the last one's link; ``""`` before the first."""

    number: int
    link: str


@dataclass
class Pages:
    """The verified journal inside one transaction; entries can be added while it lasts."""

    entries: list[Entry]
    head: Head
    salt: bytes
    _connection: sa.Connection
    _now: int

    def add(self, dataset: str, kind: str, body: dict[str, Any], *, at: int | None = None) -> None:
        """Write the next entry; it is there when the transaction ends.

        Args:
            dataset: Whose it is.
            kind: What was decided.
            body: Plain values.
            at: The steward's word on the time; by default the clock's, or the last entry's where
                that is later.
        """
        last = self.entries[-1].at if self.entries else 0
        entry = Entry(
            self.head.number + 1, max(self._now, last) if at is None else at, dataset, kind, body
        )
        text = _text(body)
        link = _link(self.head.link, self.salt, entry, text)
        self._connection.execute(
            _ENTRIES.insert().values(
                number=entry.number,
                at=entry.at,
                dataset=dataset,
                kind=kind,
                body=text,
                link=link,
            )
        )
        self._connection.execute(_HEAD.update().values(number=entry.number, link=link))
        self.entries.append(entry)
        self.head = Head(entry.number, link)

    def check_clock(self) -> None:
        """See that time has not gone back since the last entry.

        Raises:
            ClockBackwards: By more than the tolerance.
        """
        behind = (self.entries[-1].at if self.entries else 0) - self._now
        if behind > CLOCK_TOLERANCE_SECONDS:
            raise ClockBackwards(behind)

    @property
    def now(self) -> int:
        """What the clock says, in seconds since 1970."""
        return self._now


class Journal:
    """The journal in one SQLite file; safe to open from several processes.

    Args:
        path: The file; created with mode 0600 where there is none.
        clock: Seconds since 1970.

    Raises:
        BudgetUnreadable: It exists and cannot be opened, or is not what was written.
        StorageError: It is new and cannot be made.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        self._witness = path.with_name(path.name + ".head")
        exists = path.is_file() and path.stat().st_size > 0
        if self._witness.exists() and not exists:
            raise BudgetUnreadable(path.name, "it is gone, while its head is still there")
        try:
            self._engine = open_database(path, _METADATA, private=True)
            with self._typed(), writing(self._engine) as connection:
                self._check_file(connection)
                if connection.execute(sa.select(_HEAD.c.only)).first() is None:
                    self._begin(connection)
            with self.read():
                pass
        except (DatabaseDamaged, StorageFailed) as error:
            if not exists:
                raise
            raise BudgetUnreadable(path.name, f"it cannot be opened: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Pages]:
        """Hold the file's write lock for a read-modify-write; all of it happens or none.

        Raises:
            BudgetUnreadable: The journal is not what was written.
            StorageError: The disk refused; nothing was changed.
        """
        with self._typed(), writing(self._engine) as connection:
            pages = self._pages(connection)
            before = pages.head
            yield pages
        if pages.head != before:
            self._note(pages.head)

    @contextmanager
    def read(self) -> Iterator[Pages]:
        """Give the journal as it stands.

        Raises:
            BudgetUnreadable: The journal is not what was written.
        """
        with self._typed(), reading(self._engine) as connection, connection.begin():
            yield self._pages(connection)

    def _begin(self, connection: sa.Connection) -> None:
        entries = connection.execute(sa.select(sa.func.count()).select_from(_ENTRIES)).scalar_one()
        if entries or self._witness.exists():
            raise BudgetUnreadable(self.path.name, "its head is missing")
        salt = secrets.token_bytes(16)
        connection.execute(_HEAD.insert().values(only=1, number=0, link="", salt=salt.hex()))

    def _check_file(self, connection: sa.Connection) -> None:
        if connection.exec_driver_sql("PRAGMA quick_check").scalar() != "ok":
            raise BudgetUnreadable(self.path.name, "damaged pages")
        if "limits" in sa.inspect(connection).get_table_names():
            raise BudgetUnreadable(self.path.name, "an older version wrote it")

    def _pages(self, connection: sa.Connection) -> Pages:
        """Read every entry, refusing any history that could not have been written by us."""
        noted = self._noted()  # before the entries: it may lag behind them, and never leads
        try:
            row = connection.execute(sa.select(_HEAD)).one_or_none()
            rows = connection.execute(
                sa.select(_ENTRIES).order_by(_ENTRIES.c.number).limit(ENTRIES_MAX + 1)
            ).all()
        except sa.exc.DBAPIError as error:
            raise BudgetUnreadable(self.path.name, "it cannot be read") from error
        if row is None:
            raise BudgetUnreadable(self.path.name, "its head is missing")
        if len(rows) > ENTRIES_MAX:
            raise BudgetUnreadable(self.path.name, f"more than {ENTRIES_MAX} entries")
        try:
            salt = bytes.fromhex(row.salt)
            entries, links = _verified(rows, salt)
        except (TypeError, ValueError, RecursionError) as error:
            raise BudgetUnreadable(self.path.name, "an entry was changed") from error
        if (row.number, row.link) != (len(entries), links[-1]):
            raise BudgetUnreadable(self.path.name, "entries are missing at its end")
        if noted is not None and (noted.number > len(entries) or links[noted.number] != noted.link):
            raise BudgetUnreadable(self.path.name, "it is older than its head")
        head = Head(row.number, row.link)
        return Pages(entries, head, salt, connection, int(self._clock()))

    def _note(self, head: Head) -> None:
        noted = self._noted()
        if noted is None or noted.number < head.number:
            content = json.dumps({"number": head.number, "link": head.link})
            write_whole(self._witness, content.encode(), mode=PRIVATE)

    def _noted(self) -> Head | None:
        try:
            found = json.loads(self._witness.read_text())
            return Head(int(found["number"]), str(found["link"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BudgetUnreadable(self._witness.name, "it is no head of a ledger") from error

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except DatabaseDamaged as error:
            raise BudgetUnreadable(self.path.name, "damaged pages") from error


def _verified(rows: Any, salt: bytes) -> tuple[list[Entry], list[str]]:
    entries, links = [], [""]
    for row in rows:
        entry = Entry(row.number, row.at, row.dataset, row.kind, json.loads(row.body))
        whole = type(entry.number) is type(entry.at) is int and type(entry.body) is dict
        if not whole or entry.number != len(links):
            raise ValueError
        if row.link != _link(links[-1], salt, entry, row.body):
            raise ValueError
        entries.append(entry)
        links.append(row.link)
    return entries, links


def _link(before: str, salt: bytes, entry: Entry, body: str) -> str:
    sealed = _text([before, salt.hex(), entry.number, entry.at, entry.dataset, entry.kind, body])
    return hashlib.sha256(_LABEL + sealed.encode()).hexdigest()


def _text(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
