"""The tables of payouts and claims. Amounts, scopes and nullifiers are 32 bytes, big-endian.

A claim holds a nullifier and a recipient, and nothing that leads from either to a grant. Only the
time of its payment is ever written later.
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

from consent.store import Element
from storage.database import open_database, writing

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

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        StorageError: The file cannot be created or written.
    """
    if isinstance(database, Engine):
        with writing(database) as connection:
            METADATA.create_all(connection)
        return database
    return open_database(database, METADATA)
