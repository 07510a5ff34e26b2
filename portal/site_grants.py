"""A hospital grants, and ends grants, for a server that it shares no disk with: by files.

The hospital makes the openings, keeps them, and asks for their leaves to be published. Only when
the registry's receipt has come does an opening become usable. No patient's number leaves::

    list of patients ─▶ openings wait in SITE/grants.db ─▶ NAME.grants.json
    NAME.receipts.json ─▶ SITE/openings.db, and a paper for each patient in SITE/papers
    a patient asks ─▶ left out at once ─▶ NAME.withdrawals.json

What holds, each line a test in tests/portal/test_site_grants.py:

1. Asked again, before receipts have come, the file is the same to the byte.
2. A receipt counts only under the registry's key that the hospital was set up with, and for a leaf
   of its own; with one that does not, nothing of the file is kept.
3. Killed anywhere and run again, every opening is kept once, and no grant is asked for twice.
4. From the moment a withdrawal is asked for, the hospital's agent leaves the patient out, also one
   that has lost its memory and starts again.
5. Neither file nor message names a patient.
6. Where an officer has approved the study, nothing is granted for other terms than the approved.
7. Who withdrew here is asked for again only where she is named as having agreed anew, however
   often the list with her on it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from consent.grant import new_opening
from consent.openings import OpeningStore
from consent.publication import grant_id
from consent.purposes import BITS, granted_mask
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.terms import Terms
from consent.withdrawal import SiteWithdrawal
from fl_client.jobs import JobBook, JobNotApproved
from fl_client.offers import check_addressed
from fl_client.store import SiteStore
from portal.consent_files import (
    EndedGrant,
    GrantsFile,
    NewGrant,
    ReceiptsFile,
    WithdrawalsFile,
    read_file,
)
from portal.grant_book import GrantBook, Waiting
from portal.papers import Papers
from portal.patient_list import Wish
from portal.site_settings import SiteOwn, check_held, site_keys
from protocol.canonical import canonical, digest
from protocol.errors import ConsentError
from protocol.ids import GrantId, PatientId, SiteId, StudyId, number_of
from protocol.terms import StudyTerms
from protocol.units import day_number

GRANT_DAYS: Final = 365
"""How long a grant lasts where the list says nothing, from the study's first day."""


class ReceiptNotOurs(ConsentError):
    """A receipt is for a grant that this hospital has not asked for or ended."""

    code = "receipt-not-ours"

    def __init__(self, grant: GrantId, site: SiteId) -> None:
        self.grant = grant
        super().__init__(
            f"{site} has not asked for what happened to grant {grant}; nothing of the file was "
            "kept, so ask the server for this hospital's own receipts"
        )


class GrantTermsDiffer(ConsentError):
    """Grants were to be made for other terms of a study than the hospital's officer approved."""

    code = "grant-terms-differ"

    def __init__(self, study: StudyId) -> None:
        self.study = study
        super().__init__(
            f"the officer of this hospital approved study {study} with other terms than these; ask "
            "the server's operator for the folder anew, or the officer which terms hold"
        )


class NoGrantsToSend(ConsentError):
    """Nobody on the list needs a grant that is not there yet."""

    code = "no-grants-to-send"

    def __init__(self, already: int, withdrew: int = 0) -> None:
        self.already = already
        self.withdrew = withdrew
        left = f", and {withdrew} withdrew here and did not agree anew" if withdrew else ""
        super().__init__(
            f"{already} patients of the list have their grants and receipts{left}; there is "
            "nothing to send"
        )


class NoGrantsToEnd(ConsentError):
    """A patient has no grant that could end, or nothing that ended waits to be confirmed."""

    code = "no-grants-to-end"

    def __init__(self, site: SiteId) -> None:
        super().__init__(
            f"{site} has no grant to end there, neither published nor on its way; see whether the "
            "number is the hospital's own for this patient"
        )


@dataclass(frozen=True)
class Asking:
    """A file that asks for grants, and what it is about: counts."""

    content: bytes
    new: int
    waiting: int
    """Grants in the file."""
    already: int
    """Patients of the list who have receipts."""
    withdrew: int = 0
    """Patients of the list who withdrew here, and are left out."""


@dataclass(frozen=True)
class Taken:
    """What a file of receipts brought: counts of grants."""

    added: int
    known: int
    ended: int
    """Confirmed as ended."""
    waiting: int
    """Of this hospital, still without a receipt."""
    papers: Path | None


@dataclass(frozen=True)
class Ending:
    """A file that ends grants, and how many of them are the asked-for patient's."""

    content: bytes
    grants: int
    ids: tuple[GrantId, ...] = ()
    """Of the asked-for patient's."""


@dataclass(frozen=True)
class GrantDesk:
    """The consents of one hospital, in its own folder."""

    folder: Path
    own: SiteOwn

    @classmethod
    def open(cls, folder: Path, site: SiteId) -> GrantDesk:
        """Open the desk of a hospital that was set up.

        Raises:
            SiteNotSetUp, SiteSettingsDamaged: It was not, or not so that it can be used.
        """
        return cls(folder, SiteOwn.load(folder, site))

    def ask(
        self,
        terms: StudyTerms,
        wishes: Sequence[Wish],
        *,
        anew: Sequence[Wish] = (),
        entropy: Callable[[int], bytes],
    ) -> Asking:
        """Make openings for patients who have none, and the file that asks for their grants.

        A grant counts from the study's first day, as all of its certificates cover all its days;
        it is used from the round after its publication on.

        Args:
            terms: The study's, as the server handed them out.
            wishes: Who agreed on paper, and to what; of them who withdrew here is left out.
            anew: Who agreed on paper again, after she withdrew or without having done so.
            entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.

        Raises:
            StudyNotHeld: The study takes other records, or trusts another registry.
            JobFalse: It does not name this hospital by its own keys.
            GrantTermsDiffer: An officer has approved it with other terms.
            TermsNeverValid: A patient's last day is before the study's first.
            NoGrantsToSend: Everybody has her grant, or withdrew.
            StorageError: The disk refused; run it again.
        """
        keys = site_keys(self.folder)
        check_held(terms, self.own)
        check_addressed(terms, self.own.site, keys)
        self._check_approved(terms)
        book, openings = GrantBook(self.folder), self._openings()
        try:
            having = self._granted(openings, book, terms.study)
            known = having | {one.patient for one in book.waiting(terms.study)}
            wanted = {one.patient: one for one in (*wishes, *anew)}
            missing = [one for one in wanted.values() if one.patient not in known]
            salt = openings.hospital_salt
            withdrew = book.add(
                [self._waiting(terms, one, salt, entropy) for one in missing],
                anew=[one.patient for one in anew],
            )
            waiting = book.waiting(terms.study)
        finally:
            openings.close()
            book.close()
        already = len(having & wanted.keys())
        if not waiting:
            raise NoGrantsToSend(already, withdrew)
        grants = tuple(
            NewGrant(leaf=one.opening.leaf(), revoke_hash=one.code.revoke_hash) for one in waiting
        )
        unsigned = GrantsFile(
            site=self.own.site, study=terms.study, terms=digest(terms), grants=grants
        )
        content = canonical(unsigned.signed_by(keys.sign)) + b"\n"
        return Asking(content, len(missing) - withdrew, len(waiting), already, withdrew)

    def take(self, content: bytes) -> Taken:
        """Check receipts and keep what they are for; again, changes nothing.

        Args:
            content: As it came from the server; hostile.

        Raises:
            ConsentFileRefused, ReceiptMalformed: It is no file of receipts.
            NotSignedByRegistry: The registry that this hospital trusts did not sign one.
            ReceiptNotOurs: One is not for a grant of this hospital.
            PlaceTaken: Two grants have one place.
            StorageError: The disk refused; run it again.
        """
        receipts = read_file(ReceiptsFile, content).read()
        for one in receipts:
            one.check(self.own.registry_key)
        book, openings = GrantBook(self.folder), self._openings()
        try:
            with book.turn():
                return self._take(receipts, book, openings)
        finally:
            openings.close()
            book.close()

    def end(self, patient: PatientId | None, *, now: datetime) -> Ending:
        """Leave a patient out from now on, and return the file that ends her grants.

        The file holds all that ended here and was not confirmed yet, hers and others'.

        Args:
            patient: The hospital's own number; None for the file alone.
            now: With a time zone.

        Raises:
            NoGrantsToEnd: She has none, or nothing waits to be confirmed.
            StorageError: The disk refused; run it again.
        """
        keys, site = site_keys(self.folder), self.own.site
        book = GrantBook(self.folder)
        try:
            leaves = {} if patient is None else self._leaves_of(patient, book)
            # First where the agent looks: from here on she takes part in nothing.
            SiteStore(self.folder / "site.db").consents.end(leaves.values())
            words = (SiteWithdrawal(site, grant, now.isoformat()) for grant in leaves)
            book.end([one.signed_by(keys.signing) for one in words], patient)
            statements = book.unconfirmed()
        finally:
            book.close()
        if not statements or (patient is not None and not leaves):
            raise NoGrantsToEnd(site)
        unsigned = WithdrawalsFile(
            site=site,
            registry=self.own.registry,
            withdrawals=tuple(
                EndedGrant(grant=one.grant, at=one.at, signature=one.signature)
                for one in statements
            ),
        )
        return Ending(canonical(unsigned.signed_by(keys.sign)) + b"\n", len(leaves), tuple(leaves))

    def _check_approved(self, terms: StudyTerms) -> None:
        """Return if the study has no approved job here, as before it is offered, or this one."""
        try:
            job = JobBook(self.folder / "site.db", self.own.site).approved(terms.study)
        except JobNotApproved:
            return
        if job.manifest.terms != digest(terms):
            raise GrantTermsDiffer(terms.study)

    def tell_agent(self) -> None:
        """Write down again, where the agent looks, every grant that was ended here.

        An agent's memory that was lost, or put back to an earlier day, would use them again.

        Raises:
            StorageError: The disk refused; run it again.
        """
        book, openings = GrantBook(self.folder), self._openings()
        try:
            receipts = [openings.receipt_of(grant) for grant in book.ended()]
        finally:
            openings.close()
            book.close()
        leaves = [one.leaf for one in receipts if one is not None]
        SiteStore(self.folder / "site.db").consents.end(leaves)

    def _leaves_of(self, patient: PatientId, book: GrantBook) -> dict[GrantId, int]:
        """Return a patient's grants, published or on their way, that the registry has not ended."""
        # What waits comes first: receipts that are taken in meanwhile move it to the openings.
        found = {one.grant: one.opening.leaf() for one in book.waiting() if one.patient == patient}
        openings = self._openings()
        found |= {one.grant: one.leaf for one in openings.receipts_of(patient)}
        openings.close()
        ended = book.ended()
        return {grant: leaf for grant, leaf in found.items() if not ended.get(grant, False)}

    def _openings(self) -> OpeningStore:
        return OpeningStore(self.folder / "openings.db")

    def _granted(self, openings: OpeningStore, book: GrantBook, study: StudyId) -> set[PatientId]:
        """Return who has a grant in a study that was not ended here."""
        ended = book.ended()
        number = number_of(study, bits=64)
        return {
            patient
            for patient, opening in openings.all().values()
            if opening.terms.study == number
            and grant_id(self.own.registry, opening.leaf()) not in ended
        }

    def _waiting(
        self, terms: StudyTerms, wish: Wish, salt: int, entropy: Callable[[int], bytes]
    ) -> Waiting:
        opening, code = new_opening(wish.patient, salt, self._terms(terms, wish), entropy=entropy)
        grant = grant_id(self.own.registry, opening.leaf())
        return Waiting(grant, terms.study, wish.patient, opening, code)

    def _terms(self, terms: StudyTerms, wish: Wish) -> Terms:
        consent = terms.consent
        purposes = consent.required & ((1 << BITS) - 1)
        if wish.purposes is not None:
            purposes = granted_mask(wish.purposes)
        last = consent.from_day + GRANT_DAYS - 1 if wish.until is None else day_number(wish.until)
        return Terms(
            grants=purposes | consent.required >> BITS << BITS,
            site=number_of(self.own.site, bits=32),
            dataset=number_of(consent.dataset, bits=32),
            study=number_of(terms.study, bits=64),
            not_before=consent.from_day,
            expiry=last + 1,
        )

    def _take(
        self,
        receipts: Sequence[GrantReceipt | WithdrawalReceipt],
        book: GrantBook,
        openings: OpeningStore,
    ) -> Taken:
        waiting = {one.grant: one for one in book.waiting()}
        ended = book.ended()
        added: list[tuple[Waiting, GrantReceipt]] = []
        known, confirmed = 0, []
        for one in receipts:
            if isinstance(one, WithdrawalReceipt) and one.grant in ended:
                confirmed.append(one.grant)
            elif isinstance(one, GrantReceipt) and one.grant in waiting:
                added.append((waiting[one.grant], one))
            elif isinstance(one, GrantReceipt) and (
                one.grant in ended or openings.receipt_of(one.grant) is not None
            ):
                known += 1  # of what ended nothing is kept: it is not to be used
            else:
                raise ReceiptNotOurs(one.grant, self.own.site)
        openings.add_many((one.patient, one.opening, receipt) for one, receipt in added)
        papers = Papers(self.folder).add([one for one, _ in added]) if added else None
        book.moved([one.grant for one, _ in added])
        book.confirm(confirmed)
        return Taken(len(added), known, len(confirmed), len(book.waiting()), papers)
