"""What a hospital keeps of who was invited and enrolled, destroyed when a patient is erased.

Her commitment stands in the group that the server keeps, and only a statement that the hospital
signs takes it out (``Steward.leave``). Whose it is, the hospital alone knows, until here.

What holds, each line a test in tests/portal/test_erasing.py:

1. An enrolled patient is not forgotten before her enrolment was ended: her key could act for
   somebody of whom the hospital knows nothing, or twice if she came back.
2. Where nobody was ever invited, nothing is made.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from consent.openings import REWRITE_WAIT_SECONDS
from portal.patient.invitations import ENROLLED, INVITATIONS, ISSUED, ISSUED_FOR, METADATA, WARDS
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId
from storage.database import open_database, reading, write_anew, writing


class StillEnrolled(ConsentError):
    """A patient is to be erased whose enrolment was not ended."""

    code = "still-enrolled"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"{site} enrolled this patient in the server's group, and nothing of her was erased: "
            "give --server with the server's home, by which her enrolment is ended too, or end it "
            "where that is mounted (`bithive patient remove`) and erase her then"
        )


class Invitations:
    """Who was invited and enrolled at one hospital, as its steward's desk keeps it."""

    name = "invitations and enrolments"

    def __init__(self, folder: Path) -> None:
        """Open the desk's file in a hospital's folder, if there is one.

        Raises:
            StorageError: It cannot be used.
        """
        there = (folder / INVITATIONS).is_file()
        self._engine = (
            open_database(folder / INVITATIONS, METADATA, private=True) if there else None
        )
        if self._engine is not None:
            self._engine.hide_parameters = True  # statements carry patients' numbers

    def enrolled(self, patient: PatientId) -> int:
        """Return how many commitments stand for a patient, a carer's among them."""
        return self._count(patient, ENROLLED)

    def holds(self, patient: PatientId) -> int:
        """Return how many invitations, offices of carers and commitments are kept of a patient."""
        return self._count(patient, ISSUED, WARDS, ENROLLED)

    def destroy(self, patient: PatientId) -> None:
        """Destroy them.

        Raises:
            StorageError: The disk refused, or another process is reading; try again.
        """
        if self._engine is None:
            return
        codes = sa.select(ISSUED.c.code).where(ISSUED.c.patient == patient)
        with writing(self._engine) as connection:
            connection.execute(sa.delete(ISSUED_FOR).where(ISSUED_FOR.c.code.in_(codes)))
            for table in (ISSUED, WARDS, ENROLLED):
                connection.execute(sa.delete(table).where(table.c.patient == patient))
        write_anew(self._engine, wait_seconds=REWRITE_WAIT_SECONDS)

    def close(self) -> None:
        """Close the file."""
        if self._engine is not None:
            self._engine.dispose()

    def _count(self, patient: PatientId, *tables: sa.Table) -> int:
        if self._engine is None:
            return 0
        with reading(self._engine) as connection:
            counts = [
                connection.execute(
                    sa.select(sa.func.count()).select_from(one).where(one.c.patient == patient)
                ).scalar_one()
                for one in tables
            ]
        return sum(counts)
