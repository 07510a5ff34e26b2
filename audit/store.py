"""The log's tables, in SQLite or PostgreSQL, beside the ledger's or alone.

A batch is one row: its records, one a line, and the head that was signed over it. Rows of batches
and cosignatures are only added: triggers refuse to change or delete one. The tiles are what follows
from the records, kept so that nobody recomputes the tree: tile ``n`` of level ``l`` holds the roots
of the full subtrees of ``256**l`` records with the numbers ``256 n`` to ``256 n + 255``. Only the
last tile of a level is not full, and only it is ever written again.

References:
    C2SP, tlog-tiles (levels, numbers, and why 256).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    event,
    inspect,
)

from audit.checkpoints import AuditDamaged
from storage import database

LOCK_NUMBER: Final = 0x6175646974
"""Of PostgreSQL's advisory lock while tables are made: "audit"."""

METADATA: Final = MetaData()
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")

BATCHES: Final = Table(
    "audit_batches",
    METADATA,
    Column("first", _NUMBER, primary_key=True, autoincrement=False),  # position, from 0
    Column("size", _NUMBER, unique=True, nullable=False),  # of the log with this batch
    Column("key", String, unique=True),  # the writer's idempotency key, if it gave one
    Column("records", LargeBinary, nullable=False),  # canonical JSON, each ended by a line feed
    Column("frontier", LargeBinary, nullable=False),  # roots of the full subtrees, largest first
    Column("root", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),  # of the head, as a checkpoint
)
TILES: Final = Table(
    "audit_tiles",
    METADATA,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),  # up to 256 of 32 bytes
)
COSIGNATURES: Final = Table(
    "audit_cosignatures",
    METADATA,
    Column("size", _NUMBER, primary_key=True, autoincrement=False),  # of the head that was seen
    Column("key", String, primary_key=True),  # of the witness, as its verifier key is written
    Column("line", String, nullable=False),  # as the witness sent it
)

_REFUSE: Final = DDL(  # type: ignore[no-untyped-call] # SQLAlchemy left its annotation out
    "CREATE OR REPLACE FUNCTION bithive_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
)
for _table in (BATCHES, COSIGNATURES):
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
    """Open the log's tables, in a file that is private to its owner, or in a database.

    Args:
        source: A SQLite file, made where there is none; or an engine of ``storage.database`` or
            ``storage.postgresql``, in which other tables may live.

    Raises:
        AuditDamaged: It holds a log of an older form.
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        DiskFull, StorageFailed: It cannot be created or written.
    """
    if isinstance(source, Path):
        source = database.open_database(source, METADATA, private=True)
    with database.writing(source) as connection:
        if inspect(connection).has_table("audit"):
            raise AuditDamaged("an older version wrote it, in a form that this one cannot read")
        if connection.dialect.name == "postgresql":
            # Not two programs at once: the lock goes with the transaction.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NUMBER})")
        METADATA.create_all(connection)
    return source


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection that alone may append; commit at the end, or nothing at all.

    SQLite holds its write lock from the beginning. In PostgreSQL the table's lock, unlike a query,
    is waited for before the transaction's one state is fixed.
    """
    with database.writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"LOCK TABLE {BATCHES.name} IN EXCLUSIVE MODE")
        yield connection
