"""Write many rows of the journal at once, as fast as the database takes them.

A batch is one statement per table: SQLAlchemy's own bulk insert spends longer on a row than SQLite
does, so these statements are written out. PostgreSQL is given whole columns (``unnest``), because
one round trip per row would be the cost of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from ledger.store import stored_amount

TransferRow = tuple[int, str, str, str, bytes]
"""sequence, key, memo, at, chain"""
LegRow = tuple[int, int, str, str, int]
"""sequence, position, debit, credit, amount"""
FlowRow = tuple[str, int, int]
"""account, debits, credits"""


def insert_transfers(connection: Connection, rows: Sequence[TransferRow]) -> None:
    """Write rows of the journal."""
    if connection.dialect.name == "postgresql":
        _unnested(
            connection,
            "INSERT INTO transfers (sequence, key, memo, at, chain) SELECT * FROM "
            "unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bytea[])",
            rows,
        )
        return
    statement = "INSERT INTO transfers (sequence, key, memo, at, chain) VALUES (?, ?, ?, ?, ?)"
    connection.exec_driver_sql(statement, list(rows))


def insert_legs(connection: Connection, rows: Sequence[LegRow]) -> None:
    """Write legs of transfers written before."""
    if connection.dialect.name == "postgresql":
        _unnested(
            connection,
            "INSERT INTO legs (sequence, position, debit, credit, amount) SELECT * FROM "
            "unnest(%s::bigint[], %s::int[], %s::text[], %s::text[], %s::text[]::numeric[])",
            [(*row[:4], str(row[4])) for row in rows],
        )
        return
    dialect = connection.dialect
    connection.exec_driver_sql(
        "INSERT INTO legs (sequence, position, debit, credit, amount) VALUES (?, ?, ?, ?, ?)",
        [(*row[:4], stored_amount(row[4], dialect)) for row in rows],
    )


def update_flows(connection: Connection, rows: Sequence[FlowRow]) -> None:
    """Set the sums of accounts that are open."""
    if connection.dialect.name == "postgresql":
        _unnested(
            connection,
            "UPDATE accounts SET debits = new.debits, credits = new.credits FROM "
            "unnest(%s::text[], %s::text[]::numeric[], %s::text[]::numeric[]) "
            "AS new (account, debits, credits) WHERE accounts.account = new.account",
            [(account, str(debits), str(credits_)) for account, debits, credits_ in rows],
        )
        return
    dialect = connection.dialect
    connection.exec_driver_sql(
        "UPDATE accounts SET debits = ?, credits = ? WHERE account = ?",
        [
            (stored_amount(debits, dialect), stored_amount(credits_, dialect), account)
            for account, debits, credits_ in rows
        ],
    )


def _unnested(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    columns = tuple(list(column) for column in zip(*rows, strict=True))
    connection.exec_driver_sql(statement, columns)
