"""A hospital erases a patient: all that its own folder keeps of her, whoever the server is.

The hospital's half needs no server: her grants end here at once, by the file that any withdrawal
goes by (``portal.site_grants``), and what tells whose leaves they were is destroyed. The server's
half is that file, which it takes in as it takes in withdrawals; it never knew whose they were.
Where one machine has both, the file is carried across by itself.

::

    places, in this order                      what is hers there
    site.db         the agent's memory         models computed from her records, her chunks' proofs
    features.db     a study's feature step     what its code made of her records
    invitations.db  the steward's desk         codes given to her, commitments that stand for her
    papers/         to be handed out           her grants and the codes that end them
    grants.db       grants on their way        what opens those whose receipts have not come
    openings.db     openings                   what opens her leaves, last: the others go by it

What stays names nobody: leaves and grants that ended, what was spent of epsilon, and the
fingerprints of a cohort that the steward fixed, which say that she was in it and nothing of a leaf.
Her records are the hospital's, and stay until it deletes them.

What holds, each line a test in tests/portal/test_erasing.py:

1. No file below the hospital's folder has her number, her pseudonym, a salt, or a code of hers.
2. Killed at any step and run again, it ends where it would have ended.
3. She is left out before anything is destroyed, and the server's half is written again until the
   server has confirmed it.
4. Others lose nothing, and she may come back with a new grant.
5. Only who may erase erases; the record of it says who and when, and not whom.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from consent.erasure import Erased, Place, erase
from consent.interrupted import Interrupted
from consent.openings import OpeningStore
from fl_client.feature_store import FILE, FeatureStore
from fl_client.forgetting import AgentMemory, Key
from fl_client.lane import SLOTS
from identity.consortium import Record
from identity.roles import About, Actor, Permission, check
from portal.admitting import admit_withdrawals
from portal.consents import Consents
from portal.grant_book import GrantBook
from portal.home import Home
from portal.local_actor import at_site
from portal.own_log import own_record
from portal.papers import Papers
from portal.patient.homes import open_steward
from portal.patient.invitations import INVITATIONS
from portal.patient.leaving import Invitations, StillEnrolled
from portal.patient.steward import Steward
from portal.site_grants import Ending, GrantDesk, NoGrantsToEnd
from privacy.signatures import registered
from protocol.ids import PatientId, SiteId

ERASURES: Final = "erasures"
"""Below the hospital's folder: marks of erasures that are not finished."""
KIND: Final = "patient-erased"


@dataclass(frozen=True)
class ErasedHere:
    """What a hospital did, and what is left to do."""

    erased: Erased
    ending: Ending | None
    """The file for the server, of hers and others' that it has not confirmed; None without any."""
    training: tuple[Key, ...]
    """Rounds that may be training now, and may keep something of what they have read."""

    @property
    def ended(self) -> int:
        """How many of her grants ended, or wait for the server to confirm that they have."""
        return 0 if self.ending is None else self.ending.grants

    def as_json(self) -> dict[str, Any]:
        """Return plain values, of which none names the patient."""
        return {
            "destroyed": dict(self.erased.destroyed),
            "resumed": self.erased.resumed,
            "interrupted": self.erased.interrupted,
            "training": [list(one) for one in self.training],
        }

    def text(self) -> str:
        """Return what was done and what is left, in sentences."""
        kept = (f"{count} {name}" for name, count in self.erased.destroyed.items() if count)
        said = [f"destroyed: {', '.join(kept) or 'what an interrupted erasure had left'}"]
        said += [
            f"round {number} of {study} may be training and keep what it has read of her: run this "
            "again when it is over"
            for study, number in self.training
        ]
        if self.erased.interrupted:
            said.append(
                f"{self.erased.interrupted} erasures of other patients were interrupted: run them "
                "again with their numbers"
            )
        said.append(
            "Delete her from backups of this hospital's folder too, and from its lists: one that "
            "still has her would ask for a grant of hers again."
        )
        return "\n".join(said)


@dataclass(frozen=True)
class Eraser:
    """Erases patients of one hospital.

    Attributes:
        desk: The hospital's consents.
        actor: Whoever erases.
        record: The hospital's own log.
        entropy: Gives so many unpredictable bytes: ``secrets.token_bytes``.
        steward: Who ends enrolments, where the server's group is at hand.
    """

    desk: GrantDesk
    actor: Actor
    record: Record
    entropy: Callable[[int], bytes]
    steward: Steward | None = None

    def erase(self, patient: PatientId, *, now: datetime) -> ErasedHere:
        """End a patient's grants and destroy what links her to them.

        Args:
            patient: The hospital's own number.
            now: With a time zone.

        Raises:
            PermissionMissing: The actor may not.
            NothingToErase: Nothing is kept of such a patient.
            StillEnrolled: She is enrolled, and the server's group is not at hand.
            ErasureUnfinished: A file could not be cleared; again goes on from there.
            StorageError: The disk refused; nothing was destroyed.
        """
        about = About(site=self.desk.own.site)
        check(self.actor, Permission.ERASE_PATIENT, about=about, audit=self.record)
        endings: list[Ending | None] = []
        with _places(self.desk, patient) as places:
            if self.steward is None and places.invitations.enrolled(patient):
                raise StillEnrolled(self.desk.own.site)

            def withdraw() -> None:
                endings.append(_ended(self.desk, patient, now))
                if self.steward is not None:
                    self.steward.leave(patient, now=now)

            erased = erase(
                patient,
                places.in_order(),
                withdraw=withdraw,
                interrupted=Interrupted(self.desk.folder / ERASURES, entropy=self.entropy),
                record=self._recorded,
                by=self.actor.shown,
                now=now,
            )
            training = places.memory.training(now=now)
        return ErasedHere(erased, endings[0], tuple(training))

    def _recorded(self, facts: Mapping[str, Any], key: str) -> None:
        self.record(KIND, {"site": self.desk.own.site, **facts}, key=f"{KIND} {key}")


def erase_in_home(
    home: Home, site: SiteId, patient: PatientId, *, user: str, now: datetime
) -> ErasedHere:
    """Erase a patient of one of the hospitals whose folders lie beside the server's.

    Args:
        home: With both.
        site: The hospital.
        patient: Its own number for her.
        user: Who erases, as the operating system calls her.
        now: With a time zone.

    Raises:
        NoRunHere, SiteUnknown, SiteNotSetUp: There is no such study, or hospital in it.
        PermissionMissing, NothingToErase, ErasureUnfinished, StorageError: As ``Eraser.erase``.
    """
    registered(Consents.of(home.path).terms, site)
    desk = GrantDesk.open(home.site(site), site)
    _carry_across(home, desk, now)  # what an earlier command was stopped before
    server = home.path if (desk.folder / INVITATIONS).is_file() else None
    done = erase_at_site(desk, patient, home=home.path, server=server, user=user, now=now)
    _carry_across(home, desk, now)
    return done


def erase_at_site(
    desk: GrantDesk,
    patient: PatientId,
    *,
    home: Path,
    server: Path | None = None,
    user: str,
    now: datetime,
) -> ErasedHere:
    """Erase a patient with what lies below a hospital's home, and the server's only if it is given.

    Args:
        desk: The hospital's.
        patient: Its own number for her.
        home: The hospital's, where its steward works.
        server: The server's, to end enrolments in its group; None where it is out of reach.
        user: Who erases, as the operating system calls her.
        now: With a time zone.

    Raises:
        NoRunHere, SiteUnknown, StudyTermsDiffer: The server's home is not of the hospital's study.
        PermissionMissing, NothingToErase, StillEnrolled, ErasureUnfinished, StorageError: As
            ``Eraser.erase``.
    """
    folder, site = desk.folder, desk.own.site
    with contextlib.ExitStack() as opened:
        steward = None
        if server is not None:
            steward = open_steward(home, site, server=server, user=user)
            opened.callback(steward.close)
        eraser = Eraser(
            desk, at_site(folder, site, user), own_record(folder), secrets.token_bytes, steward
        )
        return eraser.erase(patient, now=now)


def _carry_across(home: Home, desk: GrantDesk, now: datetime) -> None:
    with contextlib.suppress(NoGrantsToEnd):
        ending = desk.end(None, now=now)
        desk.take(admit_withdrawals(home, ending.content, now=now).receipts)


@dataclass(frozen=True)
class _Places:
    """Where one hospital keeps something of its patients."""

    memory: AgentMemory
    features: FeatureStore | None
    invitations: Invitations
    papers: Papers
    book: GrantBook
    openings: OpeningStore

    def in_order(self) -> list[Place]:
        features = [] if self.features is None else [self.features]
        before: list[Place] = [self.memory, *features, self.invitations, self.papers, self.book]
        return [*before, self.openings]


@contextlib.contextmanager
def _places(desk: GrantDesk, patient: PatientId) -> Iterator[_Places]:
    """Open a hospital's files, while no other command moves what is in them."""
    folder = desk.folder
    with contextlib.ExitStack() as opened:
        book = opened.enter_context(contextlib.closing(GrantBook(folder)))
        opened.enter_context(book.turn())
        openings = opened.enter_context(contextlib.closing(OpeningStore(folder / "openings.db")))
        slots = SLOTS[desk.own.circuit]
        features = None
        if (folder / FILE).is_file():
            features = opened.enter_context(contextlib.closing(FeatureStore(folder / FILE)))
        chunks = {receipt.index // slots for receipt in openings.receipts_of(patient)}
        yield _Places(
            opened.enter_context(contextlib.closing(AgentMemory(folder / "site.db", chunks))),
            features,
            opened.enter_context(contextlib.closing(Invitations(folder))),
            Papers(folder),
            book,
            openings,
        )


def _ended(desk: GrantDesk, patient: PatientId, now: datetime) -> Ending | None:
    """End a patient's grants; return the file for the server, None where it knows all."""
    with contextlib.suppress(NoGrantsToEnd):
        return desk.end(patient, now=now)
    with contextlib.suppress(NoGrantsToEnd):
        return desk.end(None, now=now)
    return None
