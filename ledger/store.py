"""The ledger's tables and transactions on SQLite; what is committed here survives a power cut.

Every database is opened with a write-ahead log, ``synchronous=FULL`` and foreign keys on. A change
runs in one ``BEGIN IMMEDIATE`` transaction, so that what it read is still so when it writes.

Amounts are 16-byte big-endian BLOBs: the supply needs 88 bits, SQLite's integers have 64, and
big-endian bytes compare in the order of the numbers. That lets the database itself refuse an
account that would fall below zero. An account keeps the sums of its debits and of its credits,
which only grow; its balance is the difference.

The journal (``transfers`` and ``legs``) is append-only: triggers refuse an update or a delete.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    DDL,
    URL,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
)
from sqlalchemy.exc import DBAPIError

from protocol.errors import BitHiveError, LedgerError, storage_error

AMOUNT_BYTES: Final = 16
BUSY_SECONDS: Final = 30
"""How long a writer waits for another; a settlement takes milliseconds."""


class LedgerDamaged(LedgerError):
    """The stored books contradict themselves or cannot be read."""

    code = "ledger-damaged"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(
            f"the ledger is damaged: {finding}; restore the last backup and settle again, "
            "what it already holds is not paid twice"
        )


class Amount(TypeDecorator[int]):
    """Base units, from 0 to ``2**128 - 1``, as 16 bytes that sort like the numbers."""

    impl = LargeBinary(AMOUNT_BYTES)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Write an amount."""
        return None if value is None else value.to_bytes(AMOUNT_BYTES, "big")

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Read an amount."""
        return None if value is None else int.from_bytes(value, "big")


METADATA: Final = MetaData()


def _amount(name: str) -> Column[int]:
    right_size = f"typeof({name}) = 'blob' AND length({name}) = {AMOUNT_BYTES}"
    return Column(name, Amount, CheckConstraint(right_size), nullable=False)


ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("account", String, primary_key=True),
    _amount("debits"),
    _amount("credits"),
    CheckConstraint("debits <= credits OR account = 'genesis'", name="no_negative_balance"),
)
TRANSFERS: Final = Table(
    "transfers",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("key", String, unique=True, nullable=False),
    Column("memo", String, nullable=False),
    Column("at", String, nullable=False),  # ISO 8601, UTC
    Column("chain", LargeBinary, nullable=False),  # SHA-256 over this row and the row before
)
LEGS: Final = Table(
    "legs",
    METADATA,
    Column("sequence", ForeignKey("transfers.sequence"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("debit", ForeignKey("accounts.account"), nullable=False),
    Column("credit", ForeignKey("accounts.account"), nullable=False),
    _amount("amount"),
)
ESCROWS: Final = Table(
    "escrows",
    METADATA,
    Column("order", String, primary_key=True),
    Column("funder", ForeignKey("accounts.account"), nullable=False),
    _amount("amount"),
    Column("state", String, CheckConstraint("state IN ('held', 'captured', 'refunded')")),
)
AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("key", String, unique=True),  # the writer's idempotency key, if it gave one
    Column("record", String, nullable=False),  # canonical JSON, the leaf of the tree
    Column("frontier", LargeBinary, nullable=False),  # roots of the full subtrees, largest first
    Column("root", LargeBinary, nullable=False),  # of the tree up to and with this record
    Column("signature", LargeBinary, nullable=False),  # of the tree head
)

for _table in (TRANSFERS, LEGS, AUDIT):
    for _change in ("UPDATE", "DELETE"):
        event.listen(
            _table,
            "after_create",
            DDL(  # type: ignore[no-untyped-call] # SQLAlchemy left its annotation out
                f"CREATE TRIGGER {_table.name}_refuse_{_change.lower()} BEFORE {_change} "
                f"ON {_table.name} BEGIN SELECT RAISE(ABORT, '{_table.name} is append-only'); END"
            ),
        )


def open_database(path: Path) -> Engine:
    """Open the database at ``path``, creating it, readable by its owner alone, if need be.

    Raises:
        LedgerDamaged: The file is there and is not a sound SQLite database.
        DiskFull, StorageFailed: The file cannot be created or written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise storage_error(error, f"the ledger {path.name}") from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_SECONDS}
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    with writing(engine, f"the ledger {path.name}") as connection:
        METADATA.create_all(connection)
    return engine


@contextmanager
def writing(engine: Engine, what: str) -> Iterator[Connection]:
    """Run the block in one transaction that no other writer can interleave with.

    It commits when the block ends and rolls back when the block raises.

    Raises:
        DiskFull, StorageFailed: The database did not take it; nothing of the block remains.
        LedgerDamaged: The database file cannot be read.
    """
    with (
        _typed_errors(what),
        engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection,
    ):
        yield connection


@contextmanager
def reading(engine: Engine, what: str) -> Iterator[Connection]:
    """Run the block on one unchanging snapshot of the database. Raises as ``writing`` does."""
    with _typed_errors(what), engine.begin() as connection:
        yield connection


@contextmanager
def _typed_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _trouble(error, what) from error


def _trouble(error: Exception, what: str) -> BitHiveError:
    # SQLite says in words what is wrong with a file (SQLITE_CORRUPT, SQLITE_NOTADB).
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return LedgerDamaged(f"{what} cannot be read from the database file")
    return storage_error(error, what)


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    # The driver would otherwise begin transactions itself, and never an immediate one.
    connection.isolation_level = None
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # The change of mode needs the file alone and does not wait for it as other statements do, so
    # two processes that open a new database at once must take turns here.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
