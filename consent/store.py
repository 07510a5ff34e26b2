"""The registry's tables: lanes, grants, leaf changes and epochs. No name of a patient, ever.

Leaves and roots are 32-byte BLOBs, big-endian: SQLite's integers end at 64 bits. The log and the
epochs are append-only: triggers refuse an update or a delete, in SQLite and PostgreSQL. Of a grant
only its end is ever written later. That a nullifier has one live grant at most is the database's
own rule too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    event,
)

from protocol.errors import storage_error
from storage.database import name_of, open_database, writing

ELEMENT_BYTES: Final = 32


class Element(TypeDecorator[int]):
    """A field element as 32 big-endian bytes."""

    impl = LargeBinary(ELEMENT_BYTES)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Write an element."""
        return None if value is None else value.to_bytes(ELEMENT_BYTES, "big")

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Read an element."""
        return None if value is None else int.from_bytes(value, "big")


LOCK_NUMBER: Final = 0x626974686976
"""Of PostgreSQL's advisory lock while tables are made: "bithiv"."""

METADATA: Final = MetaData()

REGISTRY: Final = Table(
    "registry",
    METADATA,
    Column("format", Integer, primary_key=True),
    Column("id", String, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
)
NUMBERS: Final = Table(
    "numbers",
    METADATA,
    Column("kind", String, primary_key=True),
    Column("number", String, primary_key=True),  # hexadecimal, as terms have it
    Column("name", String, nullable=False),
)
LANES: Final = Table(
    "lanes",
    METADATA,
    Column("first_chunk", Integer, primary_key=True, autoincrement=False),
    Column("chunk_count", Integer, nullable=False),
    Column("chunk_size", Integer, nullable=False),
    Column("study", String, nullable=False),
    Column("site", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("epoch", Integer, nullable=False, index=True),  # the first that is signed after it
    UniqueConstraint("study", "site", "dataset"),
)
EPOCHS: Final = Table(
    "epochs",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("root", Element, nullable=False),
    Column("at", String, nullable=False),  # ISO 8601, UTC
    Column("signature", LargeBinary, nullable=False),
    Column("head", LargeBinary, nullable=False),  # of the log, this epoch included
    Column("head_signature", LargeBinary, nullable=False),
)
GRANTS: Final = Table(
    "grants",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),  # index of the leaf
    Column("grant", String, unique=True, nullable=False),
    Column("lane", ForeignKey("lanes.first_chunk"), index=True, nullable=False),
    Column("leaf", Element, unique=True, nullable=False),
    Column("revoke_hash", LargeBinary, nullable=False),
    # Of a grant that its giver proved; none of these for one that a hospital made.
    Column("nullifier", Element, index=True),
    Column("payout_id", Element),
    Column("proof", String),
    # Deferred: a grant's end is written before the epoch and grant that end it. Indexed: as long
    # as a reference is open, SQLite looks for children of every row that is inserted.
    Column(
        "withdrawn_epoch",
        ForeignKey("epochs.number", deferrable=True, initially="DEFERRED"),
        index=True,
    ),
    Column(
        "replaced_by",
        ForeignKey("grants.place", deferrable=True, initially="DEFERRED"),
        index=True,
    ),
)
_IS_LIVE: Final = GRANTS.c.withdrawn_epoch.is_(None)
Index(
    "grants_one_live_per_nullifier",
    GRANTS.c.nullifier,
    unique=True,
    sqlite_where=_IS_LIVE,
    postgresql_where=_IS_LIVE,
)
CHANGES: Final = Table(
    "changes",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("place", ForeignKey("grants.place"), nullable=False, index=True),
    Column("leaf", Element, nullable=False),
    Column("epoch", ForeignKey("epochs.number"), nullable=False, index=True),
)


def refuse_rewriting(*tables: Table) -> None:
    """Have the database itself refuse an update or a delete in tables, in SQLite and PostgreSQL."""
    for table in tables:
        event.listen(table, "after_create", _REFUSE.execute_if(dialect="postgresql"))
        for change in ("UPDATE", "DELETE"):
            name = f"{table.name}_refuse_{change.lower()} BEFORE {change} ON {table.name}"
            for dialect, body in (
                ("sqlite", f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"),
                ("postgresql", "EXECUTE FUNCTION bithive_append_only()"),
            ):
                ddl = DDL(f"CREATE TRIGGER {name} {body}")  # type: ignore[no-untyped-call] # SQLAlchemy left its annotation out
                event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


_REFUSE: Final = DDL(  # type: ignore[no-untyped-call] # likewise
    "CREATE OR REPLACE FUNCTION bithive_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
)
refuse_rewriting(EPOCHS, CHANGES)


def open_tables(database: str | Path | Engine) -> Engine:
    """Open the registry's tables, in a file, in memory (``":memory:"``) or beside others.

    Args:
        database: A SQLite file, or an engine of ``storage.database`` or ``consent.postgresql``.

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        StorageError: The file cannot be created or written.
    """
    return make_tables(database, METADATA)


def make_tables(database: str | Path | Engine, metadata: MetaData) -> Engine:
    """Open tables of ``consent``, in a file, in memory or beside others; see ``open_tables``."""
    if isinstance(database, Engine):
        with _alone(database), writing(database) as connection:
            metadata.create_all(connection)
        return database
    return open_database(database, metadata)


def lock(connection: Connection, table: Table = REGISTRY) -> None:
    """Let one writer at a time decide; to be called first in a transaction that writes.

    SQLite holds its write lock from the beginning (``storage.database``). In PostgreSQL this lock
    of a table, unlike a query, is waited for before the transaction's one state is fixed.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE")


def forget_past(engine: Engine) -> None:
    """Rewrite a SQLite file by its rows alone, so that nothing else tells how they came there.

    Rows that are gone, the order of what was written (pages, write-ahead log) are gone after it. On
    PostgreSQL this does nothing.

    References:
        SQLite documentation, "VACUUM" and "PRAGMA wal_checkpoint".

    Raises:
        StorageError: The disk refused, or others use the file; it is as it was.
    """
    if engine.dialect.name != "sqlite":
        return
    raw = engine.raw_connection()  # neither statement may stand in a transaction
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise storage_error(error, name_of(engine)) from error
    finally:
        raw.close()


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Keep other programs on PostgreSQL from making the tables at the same time."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_NUMBER})")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK_NUMBER})")
