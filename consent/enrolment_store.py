"""The enrolment group's tables: hospitals' statements, and the log of the group's changes.

No name, ever: a commitment, the hospital that vouched for it, and when. The log is append-only:
triggers refuse an update or a delete, in SQLite and PostgreSQL. Of a statement only its end is
written later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from consent.store import Element, make_tables, refuse_rewriting

METADATA: Final = MetaData()

ENROLMENTS: Final = Table(
    "enrolments",
    METADATA,
    Column("commitment", Element, primary_key=True),
    Column("site", String, nullable=False),
    Column("proofing", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("until", String, index=True),  # ISO 8601 date, of a minor
    Column("carer", Element, unique=True),  # of a minor: one carer's commitment, one ward
    Column("at", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("place", Integer, unique=True),  # none for a carer
    Column("of_age", Boolean, nullable=False, default=False),  # a minor who acts alone by now
    Column("removed_at", String),
    Column("removal_signature", LargeBinary),
)
ENROLMENT_LOG: Final = Table(
    "enrolment_log",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("place", Integer, nullable=False),
    Column("leaf", Element, nullable=False),
    Column("left", Boolean, nullable=False),  # the leaf before acts for nobody any more
    Column("root", Element, nullable=False, index=True),
    Column("at", String, nullable=False),  # ISO 8601, UTC
)

refuse_rewriting(ENROLMENT_LOG)


def open_tables(database: str | Path | Engine) -> Engine:
    """Open the group's tables, in a file, in memory (``":memory:"``) or beside others.

    Args:
        database: A SQLite file, or an engine of ``storage.database`` or ``consent.postgresql``.

    Raises:
        DatabaseDamaged: The file is there and is not a sound SQLite database.
        StorageError: The file cannot be created or written.
    """
    return make_tables(database, METADATA)
