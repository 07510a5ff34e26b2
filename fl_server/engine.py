"""The round engine: a state machine that a killed server takes up where it was.

::

    roll call ─▶ ┌ call, group key ─▶ planned ─▶ frozen ─▶ opened ─▶ closed ┐ ─▶ (next round)
                 └─────────────────────── one round ────────────────────────┘

*planned*  the signed plan, its roster and the lanes it refers to are stored; sites are asked, and
           every answer is stored as it passes the gate, or its refusal is.
*frozen*   no answer enters any more: one set of contributions, one commitment, one opening.
*closed*   the new model, the countersigned receipts, the manifest and the flag appear in one
           transaction.

A site that answered a question gives the same answer when it is asked again, so after a crash the
engine simply asks again. Exceptions of one site never end a round; too few sites do not either:
the round closes without an update, nobody is paid for it, and the updates that were sound are
named with the ones that were not.

The engine knows no Flower (``Transport`` does), no money (``after_close`` gets a ``RoundClosed``)
and no secret key of the encryption. Its parts: ``sites`` asks, ``group_key`` sees to the key,
``gate`` lets contributions in, ``summation`` has the sum opened, ``news`` tells the sites how their
lanes stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.registry import Registry
from fl_server.aggregation import apply_sum, without_surplus
from fl_server.gate import Admitted, Gate
from fl_server.group_key import GroupKeeper
from fl_server.lanes import lane_states
from fl_server.news import PREPARE_SECONDS, LaneNews, epoch_of
from fl_server.offering import Offering
from fl_server.sites import Sites, TooFewSites, refusal_of
from fl_server.store import ClosedRound, ModelState, PlannedRound, ServerStore, StoredRound
from fl_server.summation import Called, Opened, SecureSum, SumUnsound
from fl_server.transport import Transport
from privacy.bfv import ServerContext, self_test
from privacy.mechanism import check_mechanism
from privacy.opening import check_way
from privacy.parameters import ParameterSet
from privacy.sharing import QuorumMissing, quorum
from protocol.errors import BitHiveError, FederationError
from protocol.frames import Frame, encode
from protocol.ids import SiteId
from protocol.messages import (
    ChunkState,
    Contribution,
    Manifest,
    Receipt,
    Refusal,
    RoundClosed,
    RoundPlan,
    StudyTerms,
    TrainRequest,
    body,
    digest,
    read,
)
from protocol.progress import Progress, Step, silent
from protocol.units import day_number
from zk.keys import VerificationKey

COUNT_BYTES: Final = 4
NOTHING: Final = "0" * 64
"""Stands for a digest where there is none: before the first round, or of a round without a sum."""


@dataclass(frozen=True)
class Deadlines:
    """How long each phase waits for its slowest site, in seconds."""

    join: float = 120.0
    call: float = 60.0
    train: float = 3600.0
    open: float = 600.0
    prepare: float = PREPARE_SECONDS


@dataclass
class Engine:
    """Runs one study's rounds to the end."""

    terms: StudyTerms
    store: ServerStore
    registry: Registry
    transport: Transport
    verification_key: VerificationKey
    signing_key: Ed25519PrivateKey
    parameters: ParameterSet
    after_close: Callable[[RoundClosed], None]
    progress: Progress = silent
    deadlines: Deadlines = field(default_factory=Deadlines)
    offering: Offering | None = None
    today: Callable[[], int] = lambda: day_number(datetime.now(UTC).date())

    def __post_init__(self) -> None:
        check_way(self.parameters, self.terms.opening)
        check_mechanism(self.terms, self.parameters)
        self_test(self.parameters)
        context = ServerContext(self.parameters)
        self._gate = Gate(self.terms, self.verification_key, context, self.today)
        self._sites = Sites(self.terms, self.transport, self.progress, offering=self.offering)

    def run(self) -> None:
        """Run every round that is not closed yet.

        Raises:
            TooFewSites: Fewer sites than the study needs answered the roll call or a round's call.
            OpeningDisputed: Sites opened a sum to different integers.
            OpeningMissing: Fewer than two sites opened it.
            StorageError: The server's disk refused; run again, closed rounds are kept.
        """
        last = self.store.rounds_closed()
        stored = self.store.round(last) if last else None
        if stored is not None and stored.closed is not None and not stored.settled:
            self._hand_over(stored.closed)
        if last == self.terms.rounds:
            return
        self._start()
        for number in range(last + 1, self.terms.rounds + 1):
            self._news.send(number - 1)  # patients may have withdrawn while the last was settled
            self._hand_over(self._round(number))

    def _start(self) -> None:
        """Find the sites, and what they hold."""
        held = self._sites.roll_call(self.deadlines.join)
        self._keeper = GroupKeeper(
            self.terms, self._sites, self.store, self.progress, self.deadlines.join, holding=held
        )
        self._news = LaneNews(
            self.terms, self._sites, self.registry, self.progress, self.deadlines.prepare
        )
        self._sum = SecureSum(
            self.terms,
            self._sites,
            self.signing_key,
            self.parameters,
            self.progress,
            call_seconds=self.deadlines.call,
            open_seconds=self.deadlines.open,
        )

    def _round(self, number: int) -> RoundClosed:
        before = self.store.model(number - 1)
        if self.store.round(number) is None:
            self.store.plan(self._plan(number, before))
        stored = self.store.planned(number)
        self._news.told(stored.lanes)
        if not stored.frozen:
            self._collect(stored, before)
            self.store.freeze(number)
        return self._close(stored, before)

    # Call, key and plan

    def _plan(self, number: int, before: ModelState) -> PlannedRound:
        """Agree on the round's keys with the sites that are there, and plan it for those."""
        manifest = self._manifest(number - 1)
        previous = NOTHING if manifest is None else digest(manifest)
        called = self._call(number, previous)
        key_id, holding = self._keeper.ensure(number, sorted(called.keys))
        roster = sorted(holding)
        self._check_roster(called, roster)
        with self.registry.snapshot() as epoch:  # no withdrawal between the root and the lanes
            lanes = lane_states(self.registry, self.terms)
        plan = RoundPlan(
            study=self.terms.study,
            terms=digest(self.terms),
            round=number,
            model=before.sha256,
            key_id=key_id,
            steps=tuple(float(step) for step in before.steps),
            epoch=epoch_of(epoch),
            call=digest(called.call),
            roster=tuple(called.keys[site] for site in roster),
            previous=previous,
        )
        plan = plan.signed_by(self.signing_key.sign)
        sites = len(called.call.sites)
        return PlannedRound(plan, sites, lanes, called.plan_envelopes(roster))

    def _call(self, number: int, previous: str) -> Called:
        """Call the connected sites, and without those that stayed silent if those are many."""
        candidates = sorted(self._sites.nodes)
        while len(candidates) >= self.terms.sites_min:
            called = self._sum.call(number, previous, candidates)
            if len(called.keys) >= quorum(len(candidates)):
                return called
            candidates = sorted(called.keys)
        raise TooFewSites(len(candidates), self.terms.sites_min)

    def _check_roster(self, called: Called, roster: list[SiteId]) -> None:
        needed = max(self.terms.sites_min, quorum(len(called.call.sites)))
        if len(roster) < needed:
            raise TooFewSites(len(roster), needed)

    def _manifest(self, number: int) -> Manifest | None:
        stored = self.store.round(number)
        return None if stored is None else stored.manifest

    # Contributions

    def _collect(self, stored: StoredRound, before: ModelState) -> None:
        plan = stored.plan
        answered = set(self.store.uploads(plan.round))
        answered |= {refusal.site for refusal in self.store.refusals(plan.round)}
        manifest = self._manifest(plan.round - 1)
        requests = {
            site: encode(
                "train",
                body(TrainRequest(plan=plan, manifest=manifest, chunks=stored.lanes.get(site, ()))),
                {"model": before.blob, "shares": stored.shares[site]},
            )
            for site in plan.sites
            if site not in answered
        }
        group = f"round-{plan.round}"
        for site, reply in self._sites.ask("train", requests, group, self.deadlines.train):
            answered.add(site)
            self._consider(site, reply, stored)
        for identity in self.terms.sites:
            if identity.site not in answered:
                why = "the site did not answer in time"
                self._refuse(identity.site, plan.round, "no-answer", why)

    def _consider(self, site: SiteId, reply: Frame, stored: StoredRound) -> None:
        """Let one answer through the gate, or record why not."""
        number = stored.plan.round
        if reply.kind != "contribution":
            code, reason = refusal_of(reply)
            self._refuse(site, number, code, reason)
            return
        started = time.thread_time()
        try:
            admitted, contribution = self._admit(site, reply, stored)
        except BitHiveError as error:
            self._refuse(site, number, error.code, str(error))
            return
        left_out = left_out_by(reply, stored.lanes[site])
        self.store.accept(
            contribution, admitted.update.blob, list(admitted.statements), left_out=left_out
        )
        if left_out:
            note = f"{left_out} patients withdrew after the plan and were left out"
            self.progress(Step("leave-out", number, site, note=note))
        spent = time.thread_time() - started
        self.progress(Step("gate", number, site, seconds=spent - admitted.proof_seconds))
        self.progress(Step("verify", number, site, seconds=admitted.proof_seconds))

    def _admit(
        self, site: SiteId, reply: Frame, stored: StoredRound
    ) -> tuple[Admitted, Contribution]:
        contribution = read(Contribution, reply.body)
        if contribution.receipt.site != site:
            raise FederationError(f"{site} answered in the name of another site")
        known = dict.fromkeys(self.store.verified(contribution.receipt.certificates), True)
        ciphertext = reply.blobs.get("update", b"")
        lane = stored.lanes.get(site, ())
        return self._gate.admit(contribution, ciphertext, stored.plan, lane, known), contribution

    def _refuse(self, site: SiteId, number: int, code: str, reason: str) -> None:
        refusal = Refusal(site=site, round=number, code=code[:60], reason=reason[:1000])
        self.store.refuse(refusal)
        self.progress(Step("refuse", number, site, note=f"{code}: {reason}"))

    # The sum

    def _close(self, stored: StoredRound, before: ModelState) -> RoundClosed:
        plan = stored.plan
        uploads = self.store.uploads(plan.round)
        try:
            opened = self._sum.open(plan, stored.called, uploads)
        except (QuorumMissing, SumUnsound) as error:
            for site in uploads:
                self._refuse(site, plan.round, error.code, f"a sound update, but {error}")
            return self._store_close(plan, (), before, None)
        for site in opened.liars:
            note = "its tag is not that of the update it signed; the update itself stands"
            self.progress(Step("refuse", plan.round, site, note=f"tag-false: {note}"))
        integers, odd = without_surplus(
            self.terms,
            opened.integers,
            opened.surplus,
            roster=len(plan.sites),
            arrived=len(uploads),
        )
        for site in odd:
            note = "surplus-refused: it showed other seeds than the sum can spare; its noise stays"
            self.progress(Step("refuse", plan.round, site, note=note))
        after = apply_sum(
            self.terms,
            self.parameters,
            before,
            integers,
            weight=opened.weight,
            sites=len(uploads),
            largest=max(receipt.proven_patients for receipt in opened.commitment.receipts),
        )
        receipts = tuple(
            receipt.model_copy(
                update={"server_signature": self.signing_key.sign(receipt.server_bytes())}
            )
            for receipt in opened.commitment.receipts
        )
        return self._store_close(plan, receipts, after, opened)

    def _store_close(
        self,
        plan: RoundPlan,
        receipts: tuple[Receipt, ...],
        after: ModelState,
        opened: Opened | None,
    ) -> RoundClosed:
        manifest = Manifest(
            study=plan.study,
            round=plan.round,
            plan=digest(plan),
            commitment=NOTHING if opened is None else digest(opened.commitment),
            integers_sha256=NOTHING if opened is None else opened.integers_sha256,
            model_sha256=after.sha256,
            previous=plan.previous,
        ).signed_by(self.signing_key.sign)
        closed = RoundClosed(
            study=plan.study,
            round=plan.round,
            server_key=self.terms.server_key,
            model_sha256=after.sha256,
            manifest=digest(manifest),
            receipts=receipts,
            refused=self.store.refusals(plan.round),
        )
        commitment = None if opened is None else opened.commitment
        integers = None if opened is None else opened.integers
        faults = () if opened is None else opened.faults
        self.store.close(ClosedRound(closed, manifest, commitment, integers, faults), after)
        self.progress(Step("close", plan.round, None, plan.round, self.terms.rounds))
        return closed

    def _hand_over(self, closed: RoundClosed) -> None:
        self.after_close(closed)
        self.store.settled(closed.round)


def left_out_by(reply: Frame, lane: Sequence[ChunkState]) -> int:
    """Return how many patients a site says it left out: told, not proven, and paid to nobody."""
    count = int.from_bytes(reply.blobs.get("left-out", b"")[:COUNT_BYTES], "big")
    live = sum(leaf != 0 for state in lane for leaf in state.leaves)
    return count if count <= live else 0
