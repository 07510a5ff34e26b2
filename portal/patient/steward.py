"""What a hospital's steward does beside the page: invite, enrol, fetch openings.

The hospital keeps a private list of the codes that it handed out and to whom, until they are used,
and of the commitments that it enrolled for whom.
Its keys never leave its folder, and the server sees what it seals or signs.

What holds (tests/portal/test_patient_steward.py):

1. A commitment is signed for only if the holder of a code that this hospital gave out sent it.
2. A code serves once.
3. A carer is signed for only with her ward's commitment, which takes over on the ward's day; what
   she grants beyond that day is not kept.
4. After an enrolment was ended neither the patient nor her carer can prove anything new.
5. An opening is kept only if it opens its leaf, for this hospital's patient, study and data set,
   and is tied to the consent document that the hospital would write itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, MetaData, String, Table

from consent.enrolment import CommitmentUnusable, EnrolmentGroup, MemberUnknown, WardOfAge
from consent.grant import Opening, subject_of
from consent.openings import OpeningStore
from consent.proofing import (
    CARER,
    SELF,
    Enrolment,
    Policy,
    Proofing,
    Removal,
    check_carer_terms,
    minor,
)
from consent.receipts import GrantReceipt
from consent.store import Element
from consent.terms import PACKED_BITS, Terms
from identity.roles import About, Actor, Denied, Permission, Role, check, unrecorded
from portal.patient.codes import new_invitation, read_invitation
from portal.patient.mailbox import Box, Mailbox, Request
from portal.patient.sealing import (
    InvitationKeys,
    Person,
    SealedBroken,
    Ward,
    check_request,
    invitation_keys,
    opening_context,
    read_object,
    seal_person,
    unseal,
)
from portal.site_settings import site_keys
from protocol.errors import BitHiveError, ConsentError
from protocol.ids import PatientId, SiteId, number_of
from protocol.terms import StudyTerms
from storage.database import open_database, reading, writing
from zk.cover import DATASET_BITS, SITE_BITS, STUDY_BITS
from zk.poseidon import FIELD

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


class NobodyAsked(ConsentError):
    """A code was not used on the page yet."""

    code = "nobody-asked"

    def __init__(self) -> None:
        super().__init__(
            "nobody has entered this code on the page yet, or with another commitment; "
            "have the patient enter it and compare"
        )


class OpeningForeign(ConsentError):
    """What a patient sent does not open a leaf that this hospital can use."""

    code = "opening-foreign"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"a sealed opening cannot be used: {why}; its grant stays in the registry and covers "
            "nothing, and the patient can grant anew"
        )


@dataclass(frozen=True)
class Waiting:
    """A person who was identified asks to be enrolled."""

    code: str
    commitment: int
    """Of whoever acts now: the person, or her carer."""
    ward: int | None = None
    """From a carer: of the ward, who takes over on her day."""


@dataclass(frozen=True)
class Fetched:
    """What became of the openings that waited."""

    kept: int
    refused: tuple[ConsentError, ...]


class Steward:
    """One hospital's desk for its patients' consents."""

    def __init__(
        self,
        folder: Path,
        site: SiteId,
        *,
        terms: StudyTerms,
        mailbox: Mailbox,
        group: EnrolmentGroup,
        entropy: Callable[[int], bytes],
        actor: Actor | None = None,
        audit: Denied = unrecorded,
    ) -> None:
        """Open the desk over the hospital's own folder.

        Args:
            folder: With its keys and openings, closed to others.
            site: The hospital.
            terms: Of the study.
            mailbox: The server's.
            group: The enrolment group.
            entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.
            actor: Who stands at the desk; by default the site's steward, since the folder is hers.
            audit: Told of what she asks for without a right to it.

        Raises:
            SiteKeysMissing, SiteKeysUnreadable, StorageError: The folder cannot be used.
        """
        self._site = site
        steward = Actor(f"steward of {site}", frozenset({Role.STEWARD}), site=site)
        self._actor = steward if actor is None else actor
        self._audit = audit
        self._terms = terms
        self._mailbox = mailbox
        self._group = group
        self._entropy = entropy
        self._keys = site_keys(folder)
        self._openings = OpeningStore(folder / "openings.db")
        self._issued = open_database(folder / INVITATIONS, METADATA, private=True)
        self._issued.hide_parameters = True  # statements carry patients' numbers

    def _check(self, permission: Permission) -> None:
        check(self._actor, permission, about=About(site=self._site), audit=self._audit)

    def close(self) -> None:
        """Close the files; what was changed is on the disk already."""
        self._issued.dispose()
        self._openings.close()

    def invite(
        self, patient: PatientId, proofing: Proofing, *, now: datetime, ward: Ward | None = None
    ) -> str:
        """Return a one-time code for a person whom the steward has identified.

        Args:
            patient: The hospital's own number for her.
            proofing: How the steward made sure who she is, or who her carer is.
            now: With a time zone.
            ward: The code goes to a carer of the patient, whose office was proven to the steward.

        Raises:
            WardOfAge: The patient decides alone already.
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        if ward is not None and ward.until <= now.astimezone(UTC).date():
            raise WardOfAge
        code = new_invitation(self._entropy)
        keys = invitation_keys(code)
        person = Person(patient, subject_of(patient, self._openings.hospital_salt), ward)
        row = {
            "code": read_invitation(code),
            "patient": patient,
            "proofing": proofing.value,
            "day": now.astimezone(UTC).date().isoformat(),
        }
        with writing(self._issued) as connection:
            connection.execute(sa.insert(ISSUED).values(row))
            if ward is not None:
                of_ward = {"relation": ward.relation.value, "until": ward.until.isoformat()}
                connection.execute(
                    sa.insert(ISSUED_FOR).values(of_ward | {"code": read_invitation(code)})
                )
        self._mailbox.invite(keys.lookup, self._site, seal_person(person, keys, self._site))
        return code

    def waiting(self) -> list[Waiting]:
        """Return who asks to be enrolled with a code that this hospital gave out.

        Raises:
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        with reading(self._issued) as connection:
            codes = connection.execute(sa.select(ISSUED.c.code).order_by(ISSUED.c.code)).scalars()
            by_lookup = {invitation_keys(code).lookup: code for code in codes}
        found = []
        for request in self._mailbox.requests(self._site):
            code = by_lookup.get(request.lookup)
            if code is not None and self._is_of(invitation_keys(code), request):
                found.append(Waiting(code, request.commitment, request.ward))
        return found

    def enrol(self, code: str, commitment: int | None = None, *, now: datetime) -> Enrolment:
        """Sign for the commitment that came with a code, and let it join the group.

        For a carer's code, the carer joins and acts in the ward's place until the ward's day.

        Args:
            code: As given out.
            commitment: What the patient reads from her page; None to take what was sent.
            now: With a time zone.

        Raises:
            CodeMistyped, CodeNotIssued: It is no code of this hospital.
            NobodyAsked: No such commitment came with it.
            WardOfAge: It came from a carer whose office has ended.
            CommitmentUnusable, CarerUnusable, StorageError: It cannot join.
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        symbols = read_invitation(code)
        issued = self._issued_row(symbols)
        # Only a carer's code takes a ward's commitment, and it takes nothing else.
        asked = [
            one
            for one in self.waiting()
            if one.code == symbols
            and commitment in {None, one.commitment}
            and (one.ward is not None) == (issued.until is not None)
        ]
        if not asked:
            raise NobodyAsked
        if asked[-1].ward is None:
            statement = self._signed(asked[-1].commitment, issued, SELF, now)
        else:
            statement = self._enrol_carer(asked[-1], issued, now)
        self._remember(statement.commitment, issued.patient)
        self._group.enrol(statement, now=now)
        with writing(self._issued) as connection:
            connection.execute(sa.delete(ISSUED_FOR).where(ISSUED_FOR.c.code == symbols))
            connection.execute(sa.delete(ISSUED).where(ISSUED.c.code == symbols))
        self._mailbox.forget_invitation(invitation_keys(symbols).lookup)
        return statement

    def _enrol_carer(self, asked: Waiting, issued: sa.Row[Any], now: datetime) -> Enrolment:
        """Let a carer join, remember for whom until when, and return the ward's own statement."""
        assert asked.ward is not None
        policy = minor(date.fromisoformat(issued.until), asked.commitment)
        if date.fromisoformat(issued.until) <= now.astimezone(UTC).date():
            raise WardOfAge
        ward = {"patient": issued.patient, "until": issued.until, "carer": asked.commitment}
        with writing(self._issued) as connection:
            connection.execute(sa.delete(WARDS).where(WARDS.c.patient == issued.patient))
            connection.execute(sa.insert(WARDS).values(ward))
        self._remember(asked.commitment, issued.patient)
        # After a crash between the two the carer is enrolled already; if as something else, the
        # group refuses the ward.
        with contextlib.suppress(CommitmentUnusable):
            self._group.enrol(self._signed(asked.commitment, issued, CARER, now), now=now)
        return self._signed(asked.ward, issued, policy, now)

    def remove(self, patient: PatientId, *, now: datetime) -> list[int]:
        """End a patient's enrolments, her own and her carer's; what was granted is not touched.

        To be done before she is invited anew, or she could act twice: her key was lost, or somebody
        else has it.

        Returns:
            The commitments that prove nothing from now on.

        Raises:
            MemberUnknown: Nobody is enrolled for her.
            StorageError: The disk refused; again ends what is left.
            PermissionMissing: Whoever stands at the desk may not end it.
        """
        self._check(Permission.REMOVE_PATIENT)
        mine = sa.select(ENROLLED.c.commitment).where(ENROLLED.c.patient == patient)
        with reading(self._issued) as connection:
            commitments = list(connection.execute(mine).scalars())
        removed = []
        for commitment in commitments:
            unsigned = Removal(
                site=self._site, commitment=commitment, at=now.astimezone(UTC).isoformat()
            )
            with contextlib.suppress(MemberUnknown):  # removed before a crash, or never joined
                self._group.remove(unsigned.signed_by(self._keys.signing), now=now)
                removed.append(commitment)
        if not removed:
            raise MemberUnknown(self._site)
        with writing(self._issued) as connection:
            connection.execute(sa.delete(ENROLLED).where(ENROLLED.c.patient == patient))
        return removed

    def leave(self, patient: PatientId, *, now: datetime) -> None:
        """End a patient's enrolments and call back her invitations; again, does nothing.

        What the hospital itself keeps of both is destroyed apart (``portal.patient.leaving``).

        Raises:
            StorageError: The disk refused; again ends what is left.
            PermissionMissing: Whoever stands at the desk may not end it.
        """
        with contextlib.suppress(MemberUnknown):  # nobody is enrolled for her, or not any more
            self.remove(patient, now=now)
        given = sa.select(ISSUED.c.code).where(ISSUED.c.patient == patient)
        with reading(self._issued) as connection:
            codes = list(connection.execute(given).scalars())
        for code in codes:
            self._mailbox.forget_invitation(invitation_keys(code).lookup)

    def _remember(self, commitment: int, patient: str) -> None:
        with writing(self._issued) as connection:
            connection.execute(sa.delete(ENROLLED).where(ENROLLED.c.commitment == commitment))
            connection.execute(sa.insert(ENROLLED).values(commitment=commitment, patient=patient))

    def _signed(
        self, commitment: int, issued: sa.Row[Any], policy: Policy, now: datetime
    ) -> Enrolment:
        return Enrolment(
            site=self._site,
            commitment=commitment,
            proofing=Proofing(issued.proofing),
            at=now.astimezone(UTC).isoformat(),
            policy=policy,
        ).signed_by(self._keys.signing)

    def _issued_row(self, symbols: str) -> sa.Row[Any]:
        wanted = sa.select(ISSUED, ISSUED_FOR.c.until).outerjoin(ISSUED_FOR)
        with reading(self._issued) as connection:
            row = connection.execute(wanted.where(ISSUED.c.code == symbols)).first()
        if row is None:
            raise CodeNotIssued(self._site)
        return row

    def fetch(self) -> Fetched:
        """Take the openings that wait into the hospital's book, and throw away what opens nothing.

        Raises:
            StorageError: The disk refused; what was not kept still waits.
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        kept, refused = 0, []
        for box in self._mailbox.boxes(self._site):
            try:
                box.receipt.check(self._terms.consent.registry_key)
                patient, opening = self._open(box)
                self._openings.add(patient, opening, box.receipt)
                kept += 1
            except ConsentError as error:
                refused.append(error)
            self._mailbox.forget(box.leaf)
        return Fetched(kept, tuple(refused))

    def _open(self, box: Box) -> tuple[PatientId, Opening]:
        registry = self._terms.consent.registry
        context = opening_context(registry, box.lane, box.leaf)
        body = read_object(unseal(box.sealed, self._keys.agreement, context=context), "opening")
        patient, opening = _read(body)
        if opening.subject != subject_of(patient, self._openings.hospital_salt):
            raise OpeningForeign("it is for nobody whom this hospital knows by that number")
        if opening.leaf() != box.leaf:
            raise OpeningForeign("it does not open its leaf")
        terms = opening.terms
        numbers = (terms.site, terms.dataset, terms.study)
        expected = (
            number_of(self._site, bits=SITE_BITS),
            number_of(self._terms.consent.dataset, bits=DATASET_BITS),
            number_of(self._terms.study, bits=STUDY_BITS),
        )
        if numbers != expected:
            raise OpeningForeign("its terms name another hospital, data set or study")
        opening.check_document(patient)
        self._check_carer(patient, terms, box.receipt)
        return patient, opening

    def _check_carer(self, patient: PatientId, terms: Terms, receipt: GrantReceipt) -> None:
        """Refuse what a carer granted beyond her office; on the ward's day and later she is free.

        Until that day nobody but the carer can prove to be in the ward's place.
        """
        with reading(self._issued) as connection:
            row = connection.execute(sa.select(WARDS).where(WARDS.c.patient == patient)).first()
        if row is None:
            return
        until = date.fromisoformat(row.until)
        if datetime.fromisoformat(receipt.at).astimezone(UTC).date() < until:
            check_carer_terms(minor(until, row.carer), terms)

    def _is_of(self, keys: InvitationKeys, request: Request) -> bool:
        """Say whether a request was made with its code; what was not is left where it is."""
        try:
            check_request(keys, self._site, request.commitment, request.mac, ward=request.ward)
        except BitHiveError:
            return False
        return True


def _read(body: dict[str, Any]) -> tuple[PatientId, Opening]:
    """Read what a browser sealed; hostile."""
    try:
        patient = PatientId(_text(body["patient"]))
        subject, salt, packed, randomness = (
            int(_text(body[name])) for name in ("subject", "salt", "terms", "randomness")
        )
    except (KeyError, ValueError) as error:
        raise SealedBroken("opening") from error
    if not all(0 <= number < FIELD for number in (subject, salt, randomness)):
        raise SealedBroken("opening")
    if not 0 <= packed < 1 << PACKED_BITS:
        raise SealedBroken("opening")
    return patient, Opening(subject, salt, Terms.unpacked(packed), randomness)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError("not a text of 1 to 200 characters")
    return value
