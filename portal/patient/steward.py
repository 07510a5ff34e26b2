"""What a hospital's steward does beside the page: invite, enrol, fetch openings.

Whom it invited and enrolled is in the hospital's private list (``invitations.py``); what patients
sealed for it is read in ``boxes.py``. Its keys never leave its folder, and the server sees what it
seals or signs.

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
from datetime import UTC, datetime
from pathlib import Path

from consent.enrolment import CommitmentUnusable, EnrolmentGroup, MemberUnknown, WardOfAge
from consent.grant import subject_of
from consent.openings import OpeningStore
from consent.proofing import CARER, SELF, Enrolment, Policy, Proofing, Removal, minor
from identity.roles import About, Actor, Denied, Permission, Role, check, unrecorded
from portal.patient.boxes import BoxReader
from portal.patient.codes import new_invitation, read_invitation
from portal.patient.invitations import InvitationBook, Issued, Office
from portal.patient.mailbox import Mailbox, Request
from portal.patient.sealing import (
    InvitationKeys,
    Person,
    Ward,
    check_request,
    invitation_keys,
    seal_person,
)
from portal.site_settings import site_keys
from protocol.errors import BitHiveError, ConsentError
from protocol.ids import PatientId, SiteId
from protocol.terms import StudyTerms


class NobodyAsked(ConsentError):
    """A code was not used on the page yet."""

    code = "nobody-asked"

    def __init__(self) -> None:
        super().__init__(
            "nobody has entered this code on the page yet, or with another commitment; "
            "have the patient enter it and compare"
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
        self._book = InvitationBook(folder, site)

    def _check(self, permission: Permission) -> None:
        check(self._actor, permission, about=About(site=self._site), audit=self._audit)

    def close(self) -> None:
        """Close the files; what was changed is on the disk already."""
        self._book.close()
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
        on = now.astimezone(UTC).date()
        self._book.add(read_invitation(code), patient, proofing, ward=ward, on=on)
        self._mailbox.invite(keys.lookup, self._site, seal_person(person, keys, self._site))
        return code

    def waiting(self) -> list[Waiting]:
        """Return who asks to be enrolled with a code that this hospital gave out.

        Raises:
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        by_lookup = {invitation_keys(code).lookup: code for code in self._book.codes()}
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
        issued = self._book.issued(symbols)
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
        self._book.add_member(statement.commitment, issued.patient)
        self._group.enrol(statement, now=now)
        self._book.use(symbols)
        self._mailbox.forget_invitation(invitation_keys(symbols).lookup)
        return statement

    def _enrol_carer(self, asked: Waiting, issued: Issued, now: datetime) -> Enrolment:
        """Let a carer join, remember for whom until when, and return the ward's own statement."""
        assert asked.ward is not None
        assert issued.until is not None
        policy = minor(issued.until, asked.commitment)
        if issued.until <= now.astimezone(UTC).date():
            raise WardOfAge
        self._book.add_ward(issued.patient, Office(asked.commitment, issued.until))
        self._book.add_member(asked.commitment, issued.patient)
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
        removed = []
        for commitment in self._book.members(patient):
            unsigned = Removal(
                site=self._site, commitment=commitment, at=now.astimezone(UTC).isoformat()
            )
            with contextlib.suppress(MemberUnknown):  # removed before a crash, or never joined
                self._group.remove(unsigned.signed_by(self._keys.signing), now=now)
                removed.append(commitment)
        if not removed:
            raise MemberUnknown(self._site)
        self._book.drop_members(patient)
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
        for code in self._book.codes(of=patient):
            self._mailbox.forget_invitation(invitation_keys(code).lookup)

    def _signed(self, commitment: int, issued: Issued, policy: Policy, now: datetime) -> Enrolment:
        return Enrolment(
            site=self._site,
            commitment=commitment,
            proofing=issued.proofing,
            at=now.astimezone(UTC).isoformat(),
            policy=policy,
        ).signed_by(self._keys.signing)

    def fetch(self) -> Fetched:
        """Take the openings that wait into the hospital's book, and throw away what opens nothing.

        Raises:
            StorageError: The disk refused; what was not kept still waits.
            PermissionMissing: Whoever stands at the desk may not enrol.
        """
        self._check(Permission.ENROL_PATIENT)
        reader = BoxReader(
            self._site, self._terms, self._keys.agreement, self._openings.hospital_salt, self._book
        )
        kept, refused = 0, []
        for box in self._mailbox.boxes(self._site):
            try:
                patient, opening = reader.read(box)
                self._openings.add(patient, opening, box.receipt)
                kept += 1
            except ConsentError as error:
                refused.append(error)
            self._mailbox.forget(box.leaf)
        return Fetched(kept, tuple(refused))

    def _is_of(self, keys: InvitationKeys, request: Request) -> bool:
        """Say whether a request was made with its code; what was not is left where it is."""
        try:
            check_request(keys, self._site, request.commitment, request.mac, ward=request.ward)
        except BitHiveError:
            return False
        return True
