"""A hospital's book of grants on their way: asked for and not published, ended and not confirmed.

Between the file that asks for grants and the file that brings their receipts lies somebody's walk
with both. What opens a grant must not be lost meanwhile, nor made twice, nor used before it is
published. So it waits here, and moves to the openings when its receipt has come. What was ended
waits here too, until the registry has confirmed it.

The file is readable by its owner alone: it names patients. Nothing in it is printed or logged.

What holds, each line a test in tests/portal/test_site_grants.py:

1. A patient has one grant on its way in a study at most.
2. What moved to the openings, or was ended before it was published, is not kept here any more.
3. Who withdrew is not made to wait for another grant, unless somebody says that she agreed anew.
4. Of a patient who is erased no byte stays (tests/portal/test_erasing.py); that a grant has ended
   stays, which names nobody and which the server may still have to hear.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, LargeBinary, MetaData, String, Table, UniqueConstraint

from consent.grant import Opening, WithdrawalCode
from consent.openings import REWRITE_WAIT_SECONDS
from consent.store import Element
from consent.terms import Terms
from consent.withdrawal import SiteWithdrawal
from protocol.errors import storage_error
from protocol.ids import GrantId, PatientId, SiteId, StudyId
from storage.database import open_database, reading, write_anew, writing
from storage.files import PRIVATE

BOOK = "grants.db"
METADATA = MetaData()
WAITING = Table(
    "waiting",
    METADATA,
    Column("leaf", Element, primary_key=True),
    Column("grant", String, nullable=False, unique=True),
    Column("study", String, nullable=False),
    Column("patient", String, nullable=False),
    Column("subject", Element, nullable=False),
    Column("salt", Element, nullable=False),
    Column("terms", Element, nullable=False),  # packed
    Column("randomness", Element, nullable=False),
    Column("code", LargeBinary, nullable=False),  # the patient's, for her paper
    UniqueConstraint("study", "patient"),
)
ENDED = Table(
    "ended",
    METADATA,
    Column("grant", String, primary_key=True),
    Column("site", String, nullable=False),
    Column("at", String, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("confirmed", Boolean, nullable=False),
)
WITHDREW = Table(
    "withdrew",
    METADATA,
    Column("patient", String, primary_key=True),
)


@dataclass(frozen=True, repr=False)
class Waiting:
    """A grant that waits for its receipt."""

    grant: GrantId
    study: StudyId
    patient: PatientId
    opening: Opening
    code: WithdrawalCode

    def __repr__(self) -> str:
        return f"Waiting({self.grant})"


class GrantBook:
    """One hospital's grants on their way; every method is one transaction."""

    name = "grants on their way"

    def __init__(self, folder: Path) -> None:
        """Open the book in a hospital's folder, making it where there is none.

        Raises:
            StorageError: It cannot be used.
        """
        self._door = folder / "grants.lock"
        self._engine = open_database(folder / BOOK, METADATA, private=True)
        self._engine.hide_parameters = True  # statements carry patients' numbers

    def __repr__(self) -> str:
        return "GrantBook(hidden)"

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other command moves what is kept of this hospital's patients.

        Receipts taken in while a patient is erased would put her back.

        Raises:
            StorageError: The operating system refused.
        """
        try:
            door = os.open(self._door, os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise storage_error(error, self._door.name) from error
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            yield
        finally:
            os.close(door)

    def add(self, grants: Iterable[Waiting], *, anew: Collection[PatientId] = ()) -> int:
        """Let grants wait, all of them or none; a patient who has one in the study keeps it.

        Args:
            grants: What is to wait.
            anew: Who agreed again, whether or not she withdrew before.

        Returns:
            How many were left out because their patient withdrew here.
        """
        rows = [_row(one) for one in grants]
        with writing(self._engine) as connection:
            for patient in anew:
                connection.execute(sa.delete(WITHDREW).where(WITHDREW.c.patient == patient))
            withdrew = set(connection.execute(sa.select(WITHDREW.c.patient)).scalars())
            kept = [row for row in rows if row["patient"] not in withdrew]
            if kept:
                connection.execute(sa.insert(WAITING).prefix_with("OR IGNORE"), kept)
        return len(rows) - len(kept)

    def waiting(self, study: StudyId | None = None) -> list[Waiting]:
        """Return what waits, of one study or of all, by leaf: an order that says nothing."""
        query = sa.select(WAITING)
        if study is not None:
            query = query.where(WAITING.c.study == study)
        with reading(self._engine) as connection:
            found = [_waiting(row) for row in connection.execute(query)]
        return sorted(found, key=lambda one: one.opening.leaf())

    def moved(self, grants: Collection[GrantId]) -> None:
        """Forget grants whose openings are kept elsewhere now."""
        with writing(self._engine) as connection:
            for grant in grants:
                connection.execute(sa.delete(WAITING).where(WAITING.c.grant == grant))

    def end(self, statements: Sequence[SiteWithdrawal], patient: PatientId | None = None) -> None:
        """Keep the hospital's word that grants end, and forget those that still wait.

        Args:
            statements: The word, for each grant.
            patient: Whose they are, who withdrew; None where there are none.
        """
        with writing(self._engine) as connection:
            if statements and patient is not None:
                left = sa.insert(WITHDREW).prefix_with("OR IGNORE").values(patient=patient)
                connection.execute(left)
            for one in statements:
                connection.execute(
                    sa.insert(ENDED)
                    .prefix_with("OR IGNORE")
                    .values(
                        grant=one.grant,
                        site=one.site,
                        at=one.at,
                        signature=one.signature,
                        confirmed=False,
                    )
                )
                connection.execute(sa.delete(WAITING).where(WAITING.c.grant == one.grant))

    def holds(self, patient: PatientId) -> int:
        """Return how many of a patient's grants are on their way, and whether she withdrew."""
        count = 0
        with reading(self._engine) as connection:
            for table in (WAITING, WITHDREW):
                hers = sa.select(sa.func.count()).where(table.c.patient == patient)
                count += connection.execute(hers).scalar_one()
        return count

    def destroy(self, patient: PatientId) -> None:
        """Leave no byte of a patient's grants that are, or were, on their way.

        Raises:
            StorageError: The disk refused, or another process is reading; try again.
        """
        with writing(self._engine) as connection:
            for table in (WAITING, WITHDREW):
                connection.execute(sa.delete(table).where(table.c.patient == patient))
        write_anew(self._engine, wait_seconds=REWRITE_WAIT_SECONDS)

    def ended(self) -> dict[GrantId, bool]:
        """Return every grant that was ended, and whether the registry has confirmed it."""
        query = sa.select(ENDED.c.grant, ENDED.c.confirmed)
        with reading(self._engine) as connection:
            return {GrantId(row.grant): row.confirmed for row in connection.execute(query)}

    def unconfirmed(self) -> list[SiteWithdrawal]:
        """Return what ended and the registry has not confirmed, in the order of its grants."""
        query = sa.select(ENDED).where(~ENDED.c.confirmed).order_by(ENDED.c.grant)
        with reading(self._engine) as connection:
            return [
                SiteWithdrawal(SiteId(row.site), GrantId(row.grant), row.at, row.signature)
                for row in connection.execute(query)
            ]

    def confirm(self, grants: Collection[GrantId]) -> None:
        """Note that the registry has ended these."""
        with writing(self._engine) as connection:
            for grant in grants:
                done = sa.update(ENDED).where(ENDED.c.grant == grant).values(confirmed=True)
                connection.execute(done)


def _row(one: Waiting) -> dict[str, Any]:
    return {
        "leaf": one.opening.leaf(),
        "grant": one.grant,
        "study": one.study,
        "patient": one.patient,
        "subject": one.opening.subject,
        "salt": one.opening.salt,
        "terms": one.opening.terms.packed(),
        "randomness": one.opening.randomness,
        "code": one.code.secret,
    }


def _waiting(row: sa.Row[Any]) -> Waiting:
    opening = Opening(row.subject, row.salt, Terms.unpacked(row.terms), row.randomness)
    return Waiting(
        GrantId(row.grant),
        StudyId(row.study),
        PatientId(row.patient),
        opening,
        WithdrawalCode(row.code),
    )
