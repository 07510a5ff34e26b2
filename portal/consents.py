"""Consent in a home, for the commands: grant on a hospital's word, history, withdrawal, receipts.

A home has the registry's file and key, every hospital's openings, and the papers that patients
keep. The commands here do what each party would do with its own part, one party at a time: a
steward grants with the hospital's folder, a patient withdraws with her paper, anybody checks
receipts and the log with public keys. Erasing is in ``portal.erasing``.

The paper is written before the grant is published, and the opening after: a crash between the two
leaves a leaf that nobody can use and a paper that still ends it.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from consent.batching import GrantQueue
from consent.epochs import EpochLine
from consent.grant import WithdrawalCode, new_opening
from consent.lanes import Lane, LaneUnknown
from consent.openings import OpeningStore
from consent.publication import grant_id
from consent.purposes import category_mask, granted_mask
from consent.rebuilding import Rebuilt, all_pages, read_published, rebuild_registry
from consent.receipts import GrantReceipt, WithdrawalReceipt, read_receipt
from consent.registry import Registry
from consent.terms import Terms
from consent.versions import Version, versions_of
from identity.roles import About, Permission, check
from portal.books import NoRunHere
from portal.home import Home
from portal.local_actor import at_site
from portal.own_log import own_record
from privacy.signatures import registered, signing_key
from protocol.errors import ConsentError
from protocol.ids import GrantId, PatientId, SiteId, number_of
from protocol.terms import StudyTerms
from protocol.units import day_number
from storage.files import PRIVATE, private_folder, write_whole


class GrantsAlready(ConsentError):
    """A patient would have two live grants in one study on her hospital's word."""

    code = "grants-already"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(
            f"this patient's grant {grant} is live in this study; withdraw it before granting anew"
        )


class GrantNotHeld(ConsentError):
    """A hospital has no receipt of this grant."""

    code = "grant-not-held"

    def __init__(self, grant: GrantId, site: SiteId) -> None:
        self.grant = grant
        super().__init__(f"{site} keeps no receipt of grant {grant}; name its own hospital")


@dataclass(frozen=True)
class Paper:
    """What the patient takes home."""

    grant: GrantId
    code: WithdrawalCode
    receipt: GrantReceipt


@dataclass(frozen=True)
class Consents:
    """The consent of one home's study."""

    home: Home
    terms: StudyTerms

    @classmethod
    def of(cls, path: Path) -> Consents:
        """Open the home of a founded run.

        Raises:
            NoRunHere: It holds none.
        """
        file = path / "server" / "terms.json"
        if not file.is_file():
            raise NoRunHere(path)
        return cls(Home(path), StudyTerms.model_validate_json(file.read_bytes()))

    def grant(
        self,
        site: SiteId,
        patient: PatientId,
        *,
        purposes: list[str],
        categories: list[str],
        until: date,
        now: datetime,
        user: str | None = None,
    ) -> Paper:
        """Publish a grant on the hospital's word.

        Args:
            site: The hospital.
            patient: Its own number for the patient, who signed on paper.
            purposes: Codes or shorthands of the Data Use Ontology.
            categories: Codes of data categories.
            until: The last day of use.
            now: With a time zone.
            user: Who asks, as the operating system calls her; None for the hospital's own program.

        Raises:
            PermissionMissing: She may not.
            SiteUnknown: The site is not of this study.
            UnknownPurpose, UnknownCategory, TermsNeverValid: The terms cannot be meant.
            GrantsAlready: She has a live grant.
            LaneUnknown, LaneProvenOnly, LaneFull: The site's lane does not take it.
            StorageError: The disk refused.
        """
        registered(self.terms, site)
        if user is not None:
            folder = self.home.site(site)
            actor, about = at_site(folder, site, user), About(site=site)
            check(actor, Permission.PUBLISH_GRANT, about=about, audit=own_record(folder))
        terms = Terms(
            grants=granted_mask(purposes) | category_mask(categories),
            site=number_of(site, bits=32),
            dataset=number_of(self.terms.consent.dataset, bits=32),
            study=number_of(self.terms.study, bits=64),
            not_before=day_number(now.date()),
            expiry=day_number(until) + 1,
        )
        openings, registry = self._openings(site), self._registry()
        for receipt in openings.receipts_of(patient):
            if registry.status(receipt.grant).is_live:
                raise GrantsAlready(receipt.grant)
        opening, code = new_opening(
            patient, openings.hospital_salt, terms, entropy=secrets.token_bytes
        )
        grant = grant_id(registry.id, opening.leaf())
        self._keep_paper(grant, code)
        receipt = registry.publish(
            self._lane(registry, site), opening.leaf(), code.revoke_hash, now=now
        )
        openings.add(patient, opening, receipt)
        return Paper(grant, code, receipt)

    def history(self, site: SiteId, patient: PatientId) -> list[Version]:
        """Return the versions of a patient's consent, oldest first.

        Raises:
            SiteUnknown: The site is not of this study.
        """
        registered(self.terms, site)
        return versions_of(self._openings(site), self._reader(), patient)

    def withdraw(self, grant: GrantId, code: bytes, *, now: datetime) -> WithdrawalReceipt | None:
        """End a grant by the code on its paper, published or waiting for its batch.

        Returns:
            The receipt; None for a grant that waited and now never will be published.

        Raises:
            GrantUnknown, WithdrawalCodeWrong: It is not that grant's code.
        """
        registry, waiting = self._registry(), self.home.server / "queue.db"
        if not waiting.is_file():
            return registry.withdraw(grant, code, now=now)
        shuffle = random.SystemRandom().shuffle
        queue = GrantQueue(waiting, registry, interval=timedelta(), shuffle=shuffle)
        return queue.withdraw(grant, code, now=now)

    def receipt(self, site: SiteId, grant: GrantId) -> GrantReceipt:
        """Return the receipt of a grant as its hospital keeps it.

        Raises:
            SiteUnknown: The site is not of this study.
            GrantNotHeld: This hospital has none.
        """
        registered(self.terms, site)
        receipt = self._openings(site).receipt_of(grant)
        if receipt is None:
            raise GrantNotHeld(grant, site)
        return receipt

    def log(self) -> Iterator[EpochLine]:
        """Yield the registry's public log."""
        reader = self._reader()
        return all_pages(lambda after: reader.log_page(after=after))

    @property
    def registry_key(self) -> bytes:
        """The registry's public key, as the study's terms name it."""
        return self.terms.consent.registry_key

    def _registry(self) -> Registry:
        return open_registry(self.home.server, self.terms)

    def _reader(self) -> Registry:
        return Registry.reader(self.home.server / "registry.db", public_key=self.registry_key)

    def _openings(self, site: SiteId) -> OpeningStore:
        return OpeningStore(self.home.site(site) / "openings.db")

    def _lane(self, registry: Registry, site: SiteId) -> Lane:
        wanted = (self.terms.study, site, self.terms.consent.dataset)
        for lane in registry.lanes():
            if (lane.study, lane.site, lane.dataset) == wanted:
                return lane
        raise LaneUnknown(f"{site} in {self.terms.study}")

    def _keep_paper(self, grant: GrantId, code: WithdrawalCode) -> None:
        folder = private_folder(self.home.patients / "papers")
        paper = {"grant": grant, "code": code.secret.hex()}
        write_whole(folder / f"{grant}.json", json.dumps(paper).encode(), mode=PRIVATE)


def open_registry(server: Path, terms: StudyTerms) -> Registry:
    """Return the study's registry in a server's folder, opened with its key, founded if missing."""
    return Registry(
        server / "registry.db",
        registry_id=terms.consent.registry,
        signing_key=signing_key(server / "registry.key"),
    )


def check_receipt(text: str, registry_key: bytes) -> GrantReceipt | WithdrawalReceipt:
    """Return the receipt in ``text`` if the registry signed it.

    Raises:
        ReceiptMalformed: It is no receipt.
        NotSignedByRegistry: The registry did not sign it.
    """
    receipt = read_receipt(text)
    receipt.check(registry_key)
    return receipt


def check_log(lines: Iterator[str], registry_key: bytes, *, every_root: bool) -> Rebuilt:
    """Rebuild a registry from a saved log.

    Raises:
        LogLineMalformed, LogBroken, LogInconsistent, NotSignedByRegistry: It is not sound.
    """
    return rebuild_registry(read_published(lines), registry_key, every_root=every_root)
