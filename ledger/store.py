"""The ledger's tables, in SQLite or PostgreSQL; how they are made durable is ``storage``'s matter.

In SQLite amounts are 16-byte big-endian BLOBs: the supply needs 88 bits, SQLite's integers have 64,
and big-endian bytes compare in the order of the numbers. In PostgreSQL they are ``NUMERIC(38,0)``.
Either lets the database itself refuse an account that would fall below zero. An account keeps the
sums of its debits and of its credits, which only grow; its balance is the difference.

The journal (``transfers`` and ``legs``) and the flags are append-only: triggers refuse an update or
a delete, in both databases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    event,
)
from sqlalchemy.types import TypeEngine

from storage import database

AMOUNT_BYTES: Final = 16
AMOUNT_DIGITS: Final = 38
"""Of PostgreSQL's NUMERIC; the supply has 27, so sums of debits have room for 10**11 supplies."""


class Amount(TypeDecorator[int]):
    """Base units, as 16 bytes that sort like the numbers, or as a number of 38 digits."""

    impl = LargeBinary(AMOUNT_BYTES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return how a database stores amounts."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(AMOUNT_DIGITS, 0))
        return dialect.type_descriptor(LargeBinary(AMOUNT_BYTES))

    def process_bind_param(self, value: int | None, dialect: Dialect | None) -> Any:
        """Write an amount."""
        return None if value is None else stored_amount(value, dialect)

    def process_result_value(self, value: Any, dialect: Dialect | None) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Read an amount."""
        if isinstance(value, bytes):
            return int.from_bytes(value, "big")
        return None if value is None else int(value)


def stored_amount(amount: int, dialect: Dialect | None) -> bytes | int:
    """Return an amount as the database takes it, without a column to say which."""
    if dialect is not None and dialect.name == "postgresql":
        return amount
    return amount.to_bytes(AMOUNT_BYTES, "big")


LOCK_NUMBER: Final = 0x6C6564676572
"""Of PostgreSQL's advisory lock while tables are made: "ledger"."""

METADATA: Final = MetaData()
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")


def _amount(name: str) -> Column[int]:
    return Column(name, Amount, nullable=False)


def _sound(name: str) -> tuple[CheckConstraint, CheckConstraint]:
    """Return the checks of an amount's form in either database."""
    blob = f"typeof({name}) = 'blob' AND length({name}) = {AMOUNT_BYTES}"
    return (
        CheckConstraint(blob).ddl_if(dialect="sqlite"),
        CheckConstraint(f"{name} >= 0").ddl_if(dialect="postgresql"),
    )


ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("account", String, primary_key=True),
    _amount("debits"),
    _amount("credits"),
    *_sound("debits"),
    *_sound("credits"),
    CheckConstraint("debits <= credits OR account = 'genesis'", name="no_negative_balance"),
)
TRANSFERS: Final = Table(
    "transfers",
    METADATA,
    Column("sequence", _NUMBER, primary_key=True, autoincrement=False),
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
    *_sound("amount"),
)
ESCROWS: Final = Table(
    "escrows",
    METADATA,
    Column("order", String, primary_key=True),
    Column("funder", ForeignKey("accounts.account"), nullable=False),
    _amount("amount"),
    Column("state", String, CheckConstraint("state IN ('held', 'captured', 'refunded')")),
    *_sound("amount"),
)
HOLDS: Final = Table(
    "holds",
    METADATA,
    Column("hold", String, primary_key=True),  # the key of the transfer that reserved the money
    Column("debit", ForeignKey("accounts.account"), nullable=False),
    Column("credit", ForeignKey("accounts.account"), nullable=False),
    _amount("amount"),
    Column("expires", String, nullable=False),  # ISO 8601, UTC
    Column("state", String, CheckConstraint("state IN ('pending', 'posted', 'void', 'expired')")),
    Column("ended_by", String),  # the key of the transfer that ended it
    *_sound("amount"),
)
FLAGS: Final = Table(
    "flags",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("account", ForeignKey("accounts.account"), nullable=False),
    Column("flag", String, nullable=False),
    Column("raised", Integer, nullable=False),  # 1 from here on, or 0
    Column("reason", String, nullable=False),
    Column("at", String, nullable=False),  # ISO 8601, UTC
)
STAKES: Final = Table(
    "stakes",
    METADATA,
    Column("stake", String, primary_key=True),  # the key of the transfer that bonded it
    Column("party", String, nullable=False),
    Column("days", Integer, nullable=False),  # of its tier
    _amount("amount"),  # still at stake
    Column("bonded", String, nullable=False),  # ISO 8601, UTC
    Column("unbonding", String),  # since when
    Column("state", String, CheckConstraint("state IN ('bonded', 'unbonding', 'free', 'slashed')")),
    *_sound("amount"),
)
_REFUSE: Final = DDL(  # type: ignore[no-untyped-call] # SQLAlchemy left its annotation out
    "CREATE OR REPLACE FUNCTION bithive_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
)
for _table in (TRANSFERS, LEGS, FLAGS):
    event.listen(_table, "after_create", _REFUSE.execute_if(dialect="postgresql"))
    for _change in ("UPDATE", "DELETE"):
        _name = f"{_table.name}_refuse_{_change.lower()} BEFORE {_change} ON {_table.name}"
        for _dialect, _body in (
            ("sqlite", f"BEGIN SELECT RAISE(ABORT, '{_table.name} is append-only'); END"),
            ("postgresql", "FOR EACH ROW EXECUTE FUNCTION bithive_append_only()"),
        ):
            _ddl = DDL(f"CREATE TRIGGER {_name} {_body}")  # type: ignore[no-untyped-call] # likewise
            event.listen(_table, "after_create", _ddl.execute_if(dialect=_dialect))


def open_tables(source: Path | Engine) -> Engine:
    """Open the ledger's tables, in a file that is private to its owner, or on a server.

    Args:
        source: A SQLite file, or an engine of ``storage.database`` or ``storage.postgresql``.

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        DiskFull, StorageFailed: It cannot be created or written.
    """
    if isinstance(source, Path):
        return database.open_database(source, METADATA, private=True)
    with database.writing(source) as connection:
        if connection.dialect.name == "postgresql":
            # Not two programs at once: the lock goes with the transaction.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NUMBER})")
        METADATA.create_all(connection)
    return source


@contextlib.contextmanager
def writing(engine: Engine, table: Table = TRANSFERS) -> Iterator[Connection]:
    """Give a connection that alone may write; commit at the end, or nothing at all.

    SQLite holds its write lock from the beginning. In PostgreSQL the lock of ``table``, unlike a
    query, is waited for before the transaction's one state is fixed.
    """
    with database.writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE")
        yield connection
