"""The ledger's tables; how they are opened and written durably is ``storage.database``'s matter.

Amounts are 16-byte big-endian BLOBs: the supply needs 88 bits, SQLite's integers have 64, and
big-endian bytes compare in the order of the numbers. That lets the database itself refuse an
account that would fall below zero. An account keeps the sums of its debits and of its credits,
which only grow; its balance is the difference.

The journal (``transfers`` and ``legs``) and the audit log are append-only: triggers refuse an
update or a delete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    Dialect,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    event,
)

from storage import database

AMOUNT_BYTES: Final = 16


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


def open_tables(path: Path) -> Engine:
    """Open the database at ``path`` with the ledger's tables, private to its owner.

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        DiskFull, StorageFailed: The file cannot be created or written.
    """
    return database.open_database(path, METADATA, private=True)
