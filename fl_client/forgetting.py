"""What a hospital's agent remembers of one patient, destroyed when she is erased.

Most of what the agent keeps is about rounds and about nobody: ciphertexts, noised sums, leaves that
are public. Two things are not. What an algorithm keeps at the site was computed from her records,
and is known as hers by a fingerprint. A chunk's certificate is kept under a digest of the choice it
proves, which whoever has the records could search for the slot that is hers.

Leaves whose grants ended here stay (``fl_client.ended``): they are what keeps her out, and say
nothing of whose they are once the opening is gone.

What holds, each line a test in tests/fl_client/test_forgetting.py:

1. What was computed from her records goes, with what does not say from whose; the rest stays.
2. The certificates of her chunks go, those of others stay.
3. Where the agent never ran, nothing is made.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from consent.openings import REWRITE_WAIT_SECONDS
from fl_client.tables import (
    ANSWERS,
    CERTIFICATES,
    METADATA,
    PERSONAL,
    PERSONAL_MEMBERS,
    UNDER_WAY,
)
from privacy.cohorts import fingerprint
from protocol.ids import PatientId
from protocol.jobs import moment_of
from storage.database import open_database, reading, write_anew, writing

Key = tuple[str, int]
"""A study, and one of its rounds."""


class AgentMemory:
    """What one agent's database has of a patient whose leaves are in some chunks."""

    name = "models of the site and certificates"

    def __init__(self, path: Path, chunks: Collection[int]) -> None:
        """Open the database, if there is one.

        Args:
            path: The agent's ``site.db``.
            chunks: In which the patient has, or had, a leaf.

        Raises:
            StorageError: It cannot be used.
        """
        there = path.is_file()
        self._engine = open_database(path, METADATA, private=True) if there else None
        self._chunks = list(chunks)

    def holds(self, patient: PatientId) -> int:
        """Return how many models were computed from her records, and certificates may cover her."""
        if self._engine is None:
            return 0
        covering = sa.select(sa.func.count()).where(CERTIFICATES.c.chunk.in_(self._chunks))
        with reading(self._engine) as connection:
            certificates: int = connection.execute(covering).scalar_one()
            return len(_computed_from(connection, patient)) + certificates

    def destroy(self, patient: PatientId) -> None:
        """Destroy them, and what is kept without a word of whose records it is from.

        Raises:
            StorageError: The disk refused, or another process is reading; try again.
        """
        if self._engine is None:
            return
        with writing(self._engine) as connection:
            gone = _computed_from(connection, patient) | _of_nobody_known(connection)
            for study, number in gone:
                for table in (PERSONAL, PERSONAL_MEMBERS):
                    named = (table.c.study == study) & (table.c.round == number)
                    connection.execute(table.delete().where(named))
            connection.execute(CERTIFICATES.delete().where(CERTIFICATES.c.chunk.in_(self._chunks)))
        write_anew(self._engine, wait_seconds=REWRITE_WAIT_SECONDS)

    def training(self, *, now: datetime) -> list[Key]:
        """Return the rounds whose training may be going on, and may keep what it has read."""
        if self._engine is None:
            return []
        answered = (ANSWERS.c.study == UNDER_WAY.c.study) & (ANSWERS.c.round == UNDER_WAY.c.round)
        begun = sa.select(UNDER_WAY).outerjoin(ANSWERS, answered).where(ANSWERS.c.plan.is_(None))
        with reading(self._engine) as connection:
            rows = connection.execute(begun).all()
        return [(row.study, row.round) for row in rows if moment_of(row.until) > now]

    def close(self) -> None:
        """Close the file."""
        if self._engine is not None:
            self._engine.dispose()


def _computed_from(connection: sa.Connection, patient: PatientId) -> set[Key]:
    return {
        (row.study, row.round)
        for row in connection.execute(sa.select(PERSONAL_MEMBERS))
        if fingerprint(bytes(row.salt), patient) in json.loads(row.members)
    }


def _of_nobody_known(connection: sa.Connection) -> set[Key]:
    named = {(row.study, row.round) for row in connection.execute(sa.select(PERSONAL_MEMBERS))}
    kept = connection.execute(sa.select(PERSONAL.c.study, PERSONAL.c.round))
    return {(row.study, row.round) for row in kept} - named
