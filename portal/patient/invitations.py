"""The hospital's private list: codes given out and to whom, and whose commitment is whose.

A code stands in it until it was used. Of a patient for whom a carer acts it says who, and until
when. The server has none of this: it sees commitments, and statements that the hospital signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Column, MetaData, String, Table

from consent.proofing import Proofing
from consent.store import Element
from portal.patient.sealing import Ward
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId
from storage.database import open_database, reading, writing

INVITATIONS: Final = "invitations.db"
METADATA: Final = MetaData()
ISSUED: Final = Table(
    "issued",
    METADATA,
    Column("code", String, primary_key=True),  # canonical
    Column("patient", String, nullable=False),
    Column("proofing", String, nullable=False),
    Column("day", String, nullable=False),
)
ISSUED_FOR: Final = Table(  # invitations to carers
    "issued_for",
    METADATA,
    Column("code", sa.ForeignKey("issued.code"), primary_key=True),
    Column("relation", String, nullable=False),
    Column("until", String, nullable=False),  # ISO 8601 date
)
WARDS: Final = Table(  # patients for whom a carer was enrolled
    "wards",
    METADATA,
    Column("patient", String, primary_key=True),
    Column("until", String, nullable=False),  # ISO 8601 date
    Column("carer", Element, nullable=False),
)
ENROLLED: Final = Table(  # whose commitment is whose: only here
    "enrolled",
    METADATA,
    Column("commitment", Element, primary_key=True),
    Column("patient", String, nullable=False, index=True),
)


class CodeNotIssued(ConsentError):
    """The hospital gave out no such code, or it was used."""

    code = "code-not-issued"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"{site} gave out no such invitation code, or it was used; invite the patient again"
        )


@dataclass(frozen=True)
class Issued:
    """A code that was given out; ``until`` is the ward's day where a carer has it."""

    patient: PatientId
    proofing: Proofing
    until: date | None


@dataclass(frozen=True)
class Office:
    """Who acts for a ward, and the day from which she acts herself."""

    carer: int
    until: date


class InvitationBook:
    """One hospital's list; every method is one transaction."""

    def __init__(self, folder: Path, site: SiteId) -> None:
        """Open the list in the hospital's folder.

        Raises:
            StorageError: It cannot be used.
        """
        self._site = site
        self._engine = open_database(folder / INVITATIONS, METADATA, private=True)
        self._engine.hide_parameters = True  # statements carry patients' numbers

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def add(
        self, symbols: str, patient: PatientId, proofing: Proofing, *, ward: Ward | None, on: date
    ) -> None:
        """Keep a code before it is given out; with a ward, it goes to her carer."""
        row = {
            "code": symbols,
            "patient": patient,
            "proofing": proofing.value,
            "day": on.isoformat(),
        }
        with writing(self._engine) as connection:
            connection.execute(sa.insert(ISSUED).values(row))
            if ward is not None:
                of_ward = {"relation": ward.relation.value, "until": ward.until.isoformat()}
                connection.execute(sa.insert(ISSUED_FOR).values(of_ward | {"code": symbols}))

    def codes(self, *, of: PatientId | None = None) -> list[str]:
        """Return the codes that were not used yet, those of one patient where she is named."""
        query = sa.select(ISSUED.c.code).order_by(ISSUED.c.code)
        if of is not None:
            query = query.where(ISSUED.c.patient == of)
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def issued(self, symbols: str) -> Issued:
        """Return to whom a code was given.

        Raises:
            CodeNotIssued: To nobody, or it was used.
        """
        wanted = sa.select(ISSUED, ISSUED_FOR.c.until).outerjoin(ISSUED_FOR)
        with reading(self._engine) as connection:
            row = connection.execute(wanted.where(ISSUED.c.code == symbols)).first()
        if row is None:
            raise CodeNotIssued(self._site)
        until = None if row.until is None else date.fromisoformat(row.until)
        return Issued(PatientId(row.patient), Proofing(row.proofing), until)

    def use(self, symbols: str) -> None:
        """Forget a code that was used."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(ISSUED_FOR).where(ISSUED_FOR.c.code == symbols))
            connection.execute(sa.delete(ISSUED).where(ISSUED.c.code == symbols))

    def add_member(self, commitment: int, patient: PatientId) -> None:
        """Keep for whom a commitment is enrolled."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(ENROLLED).where(ENROLLED.c.commitment == commitment))
            connection.execute(sa.insert(ENROLLED).values(commitment=commitment, patient=patient))

    def members(self, patient: PatientId) -> list[int]:
        """Return the commitments that are enrolled for a patient, her carer's among them."""
        query = sa.select(ENROLLED.c.commitment).where(ENROLLED.c.patient == patient)
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def drop_members(self, patient: PatientId) -> None:
        """Forget the commitments of a patient, whose enrolments were ended."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(ENROLLED).where(ENROLLED.c.patient == patient))

    def add_ward(self, patient: PatientId, office: Office) -> None:
        """Keep who acts for a patient, in place of who did."""
        row = {"patient": patient, "until": office.until.isoformat(), "carer": office.carer}
        with writing(self._engine) as connection:
            connection.execute(sa.delete(WARDS).where(WARDS.c.patient == patient))
            connection.execute(sa.insert(WARDS).values(row))

    def office(self, patient: PatientId) -> Office | None:
        """Return who acts for a patient, or acted; None where she always did herself."""
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(WARDS).where(WARDS.c.patient == patient)).first()
        return None if row is None else Office(row.carer, date.fromisoformat(row.until))
