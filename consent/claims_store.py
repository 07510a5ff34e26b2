"""The tables of payouts and claims. Amounts, scopes and nullifiers are 32 bytes, big-endian.

A claim holds a nullifier and a recipient, and nothing that leads from either to a grant. Only the
day of its payment is ever written later. SQLite keeps claims in the order of their ids; the row
versions and the write-ahead log of PostgreSQL keep the order in which they came, and whoever runs
that server can read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from consent.store import Element, make_tables

METADATA: Final = MetaData()

PAYOUTS: Final = Table(
    "payouts",
    METADATA,
    Column("study", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("site", String, nullable=False),
    Column("scope", Element, primary_key=True),
    Column("root", Element, nullable=False),
    Column("shares", Integer, nullable=False),
    Column("pool", Element, nullable=False),
    Column("small", Boolean, nullable=False),
    UniqueConstraint("study", "epoch", "site"),
)
MEMBERS: Final = Table(
    "payout_members",
    METADATA,
    Column("scope", ForeignKey("payouts.scope"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("member", Element, nullable=False),
)
CLAIMS: Final = Table(
    "claims",
    METADATA,
    Column("id", String, primary_key=True),
    Column("scope", ForeignKey("payouts.scope"), nullable=False, index=True),
    Column("nullifier", Element, nullable=False),
    Column("recipient", String, nullable=False),
    Column("amount", Element, nullable=False),
    Column("at", String, nullable=False),  # ISO 8601 date, UTC
    Column("paid_at", String),  # likewise
    UniqueConstraint("scope", "nullifier"),
    sqlite_with_rowid=False,  # row numbers would keep the order in which claims came
)


def open_tables(database: str | Path | Engine) -> Engine:
    """Open the book's tables, in a file, in memory (``":memory:"``) or beside others.

    Args:
        database: A SQLite file, or an engine of ``storage.database`` or ``consent.postgresql``.

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        StorageError: The file cannot be created or written.
    """
    return make_tables(database, METADATA)
