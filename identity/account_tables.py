"""The tables of local accounts, in SQLite or PostgreSQL: people, sessions, failed attempts.

No column holds a password or a session's token: hashes only. An attempt's name and address are
hashed too, since people type passwords into the wrong field.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, Engine, Float, Integer, MetaData, String, Table

from storage import database

LOCK_NUMBER: Final = 0x70656F706C65
"""Of PostgreSQL's advisory lock while tables are made: "people"."""

METADATA: Final = MetaData()
PEOPLE: Final = Table(
    "people",
    METADATA,
    Column("name", String, primary_key=True),
    Column("password", String, nullable=False),  # Argon2id in the PHC string format
    Column("roles", String, nullable=False),  # separated by spaces
    Column("site", String),
    Column("account", String),
    Column("disabled", Integer, nullable=False, default=0),
)
SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("token", String, primary_key=True),  # SHA-256 of what the browser holds
    Column("name", String, nullable=False, index=True),
    Column("made_at", Float, nullable=False),  # seconds since 1970
    Column("used_at", Float, nullable=False),
    Column("ends_at", Float, nullable=False),
)
FAILURES: Final = Table(
    "failures",
    METADATA,
    Column("key", String, primary_key=True),  # SHA-256 of a name or an address
    Column("count", Integer, nullable=False),
    Column("last_at", Float, nullable=False, index=True),
)


def open_tables(where: Path | Engine) -> Engine:
    """Open the tables in a file of mode 0600, or in a database that is open.

    Raises:
        DatabaseDamaged, StorageError: As ``storage.database``.
    """
    if isinstance(where, Path):
        return database.open_database(where, METADATA, private=True)
    with _alone(where), database.writing(where) as connection:
        METADATA.create_all(connection)
    return where


@contextlib.contextmanager
def deciding(engine: Engine, table: Table) -> Iterator[Connection]:
    """Give a connection for a change of ``table``, one writer at a time.

    SQLite holds its write lock from the beginning. In PostgreSQL this lock, unlike a query, is
    waited for before the transaction's one state is fixed.
    """
    with database.writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE")
        yield connection


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
