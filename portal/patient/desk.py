"""The desk: everything that a patient may ask of the server, each one call to ``consent``.

It assembles registry, enrolment group, claims, mailbox and rounds. What is asked about data is
asked by lane, never by leaf: whoever asks for all tells nobody which one is hers. Nothing here
knows who asks, and nothing that is kept could tell.

A grant waits for its batch (``consent.batching``), so that the time at which it came does not say
whose it is; a withdrawal never waits. With an interval of nothing every grant is a batch of its own
and is published at once, for demonstrations and tests.

What holds (tests/portal/test_patient_api.py, test_patient_batches.py):

1. A refused grant, withdrawal or claim leaves nothing behind.
2. Only grants that were accepted count towards how often one person may grant.
3. The opening of what was accepted goes to the hospital once it is published, over any crash, and
   is thrown away if it never will be.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from consent.batching import GrantQueue
from consent.claims import Claim, ClaimBook, Payout
from consent.enrolment import EnrolmentGroup
from consent.lanes import Lane, LaneUnknown
from consent.publication import ProvenGrant, grant_id
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.registry import Registry
from consent.withdrawal import GrantUnknown
from fl_server.store import ServerStore
from ledger.books import Ledger
from portal.patient.limits import Buckets, Limits, granting_buckets
from portal.patient.mailbox import Mailbox, Request
from portal.patient.rounds import Coverage, RoundReceipt, Rounds
from protocol.errors import BitHiveError
from protocol.ids import GrantId, SiteId, StudyId
from protocol.terms import StudyTerms
from zk.semaphore import SemaphoreProof, Verifier

AT_ONCE: Final = timedelta()
"""An interval of nothing: no grant waits, and its time shows."""
LOG_PAGE: Final = 1000
"""Changes of a lane in one answer."""


@dataclass(frozen=True)
class GrantWish:
    """A grant as a browser sends it."""

    site: SiteId
    grant: ProvenGrant
    sealed: bytes
    """The opening, for the hospital alone."""


@dataclass(frozen=True)
class Accepted:
    """A grant that waits for its batch."""

    grant: GrantId
    due: datetime
    """When the batch is published, about: the same for everybody."""


@dataclass(frozen=True)
class Change:
    """A leaf of a lane was set, or taken out (0)."""

    sequence: int
    index: int
    leaf: int
    epoch: int
    at: str


@dataclass
class Desk:
    """The server's side; ``clock`` gives times with a time zone."""

    terms: StudyTerms
    registry: Registry
    queue: GrantQueue
    group: EnrolmentGroup
    claims: ClaimBook
    mailbox: Mailbox
    rounds: ServerStore | None
    """None where the study has not begun."""
    verifier: Verifier
    clock: Callable[[], datetime]
    granting: Buckets = field(default_factory=lambda: granting_buckets(Limits()))
    """How often one person may grant: every change uses up a place of the lane for good."""
    ticks: Callable[[], float] = time.monotonic
    """Seconds that never go back."""
    books: Ledger | None = None
    """None where nobody pays."""
    _rounds: Rounds | None = None
    _changes: dict[int, list[Change]] = field(default_factory=dict)
    """By chunk, as far as the log was read; the log only grows."""
    _read_through: int = -1
    """Number of the last epoch that was read."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _accepting: threading.Lock = field(default_factory=threading.Lock)
    """Held while an opening is kept whose grant is not accepted yet."""

    @property
    def study(self) -> StudyId:
        """The study that this desk serves."""
        return self.terms.study

    def lanes(self) -> list[Lane]:
        """Return the study's lanes, one for each hospital that takes part."""
        wanted = (self.study, self.terms.consent.dataset)
        return [lane for lane in self.registry.lanes() if (lane.study, lane.dataset) == wanted]

    def lane(self, site: SiteId) -> Lane:
        """Return a hospital's lane in the study.

        Raises:
            LaneUnknown: It has none.
        """
        for lane in self.lanes():
            if lane.site == site:
                return lane
        raise LaneUnknown(f"{site} in {self.study}")

    # Enrolment

    def members(self) -> tuple[int, list[int]]:
        """Return root and all members of the enrolment group."""
        now = self.clock()
        return self.group.root(now=now), self.group.members(now=now)

    def ask_enrolment(self, request: Request) -> None:
        """Keep a request for the hospital; see ``Mailbox.request``."""
        self.mailbox.request(request, now=self.clock())

    # Granting and withdrawing

    def grant(self, wish: GrantWish) -> GrantReceipt | Accepted:
        """Accept a proven grant for the next batch, in place of the same person's earlier one.

        The opening is kept first: a leaf that nobody can open would use up its place for nothing.

        Returns:
            When its batch is due; the receipt where batches wait for nothing.

        Raises:
            LaneUnknown, LaneFull, LeafUnusable: The leaf cannot be published.
            ConsentError, ProofError: Whatever ``consent.grants_by_proof`` refuses.
            GrantedTooOften: She has changed it again and again.
            MailboxFull: The hospital has not fetched its openings for long.
            StorageError: The disk refused; nothing was accepted.
        """
        person, at = str(wish.grant.proof.nullifier), self.ticks()
        # Taken below, when the proof has held: a nullifier is public, and anybody can send it.
        self.granting.check(person, at=at)
        lane = self.lane(wish.site)
        with self._accepting:
            box = self.mailbox.keep(wish.site, lane.first_chunk, wish.grant.leaf, wish.sealed)
            try:
                name = self.queue.accept(
                    lane, wish.grant, group=self.group, now=self.clock(), verifier=self.verifier
                )
            except BaseException:
                self.mailbox.forget(box)
                raise
        self.granting.spend(person, at=at)
        if self.queue.interval == AT_ONCE:
            with contextlib.suppress(BitHiveError):  # accepted it is; the next batch has it
                self.publish_due()
                return self.registry.receipt(name)
        return Accepted(name, self.queue.due(now=self.clock()))

    def publish_due(self) -> int:
        """Publish what waits if it is time, hand the openings on, and return how many there were.

        To be called again and again: what a crash or a full disk has left undone is done then.

        Raises:
            LaneFull: See ``GrantQueue.publish_due``.
            StorageError: The disk refused; call again.
        """
        published = self.queue.publish_due(now=self.clock())
        self._tidy()
        if published and self.queue.interval != AT_ONCE:
            self.queue.forget_past()
            self.mailbox.forget_past()
        return len(published)

    def _tidy(self) -> None:
        """Mark the openings of published leaves, and throw away those that will never be."""
        with self._accepting:
            waiting = self.queue.waiting_grants()
            for leaf in self.mailbox.unpublished():
                name = grant_id(self.registry.id, leaf)
                if name in waiting:
                    continue
                try:
                    self.mailbox.published(leaf, self.registry.receipt(name))
                except GrantUnknown:
                    self.mailbox.forget(leaf)

    def withdraw(self, grant: GrantId, code: bytes) -> WithdrawalReceipt | None:
        """End a grant by the code on its paper; see ``GrantQueue.withdraw``."""
        receipt = self.queue.withdraw(grant, code, now=self.clock())
        self._tidy()
        return receipt

    def withdraw_proven(self, grant: GrantId, proof: SemaphoreProof) -> WithdrawalReceipt | None:
        """End a grant by a proof of who gave it; see ``GrantQueue.withdraw_proven``."""
        receipt = self.queue.withdraw_proven(
            grant, proof, group=self.group, now=self.clock(), verifier=self.verifier
        )
        self._tidy()
        return receipt

    # What is public

    def changes(self, lane: Lane, after: int) -> list[Change]:
        """Return a page of a lane's changes: each leaf that was set, or taken out.

        Args:
            lane: Of the study.
            after: The sequence of the last change that the caller has, 0 for none.
        """
        with self._lock:
            while page := self.registry.log_page(after=self._read_through):
                for entry in (entry for line in page for entry in line.changes):
                    chunk = entry.index // lane.chunk_size
                    change = Change(entry.sequence, entry.index, entry.leaf, entry.epoch, entry.at)
                    self._changes.setdefault(chunk, []).append(change)
                self._read_through = page[-1].epoch.number
            of_lane = [one for chunk in lane.chunks for one in self._changes.get(chunk, ())]
        of_lane.sort(key=lambda change: change.sequence)
        first = bisect_right(of_lane, after, key=lambda change: change.sequence)
        return of_lane[first : first + LOG_PAGE]

    def receipts_of(self, lane: Lane, epoch: int) -> list[GrantReceipt]:
        """Return the receipts of all grants that an epoch published in a lane.

        Raises:
            EpochUnknown: There is no such epoch.
        """
        return self.registry.receipts(lane, epoch)

    def coverage(self, site: SiteId) -> list[Coverage]:
        """Return what was proven of a hospital's lane in every closed round."""
        return self._history().coverage(site)

    def receipts(self, site: SiteId) -> list[RoundReceipt]:
        """Return what a hospital's rounds cost in privacy, and paid to its patients."""
        return self._history().receipts(site)

    def _history(self) -> Rounds:
        if self._rounds is None:
            self._rounds = Rounds(self.study, self.rounds, self.books)
        return self._rounds

    # Claims

    def claim(self, site: SiteId, epoch: int, recipient: str, proof: SemaphoreProof) -> Claim:
        """Keep a claim, to be paid once; see ``ClaimBook.claim``."""
        return self.claims.claim(
            proof,
            self.study,
            epoch,
            site,
            recipient,
            now=self.clock(),
            verifier=self.verifier,
        )

    def payouts(self, site: SiteId) -> list[Payout]:
        """Return the payouts to a hospital's patients, in the order of their epochs."""
        return self.claims.payouts(self.study, site)

    def payout(self, site: SiteId, epoch: int) -> tuple[Payout, list[int]]:
        """Return a payout and the whole group that shares it.

        Raises:
            PayoutUnknown: Nothing was opened.
        """
        payout = self.claims.payout(self.study, epoch, site)
        return payout, self.claims.members(payout)
