"""The round engine: a state machine that always ends, and that a killed server takes up.

::

    roll call ─▶ ┌ roster ─▶ uploads ─▶ unmasking ─▶ opening ─▶ closing ─▶ scoring ┐ ─▶ (next round)
                 └──────────────────────────── one round ──────────────────────────┘
    stored:        the plan   each one,   every accepted answer    the closed   that it was
                              then the    and how each step        round        settled
                              set frozen  ended

*roster*     connected sites are called and agree on keys; the signed plan and its lanes are stored.
*uploads*    sites are asked, and every answer is stored as it passes the gate, or its refusal is.
*unmasking*  no upload enters any more: one set, one commitment, endorsed and unmasked.
*opening*    the sum is decrypted; two sites agree on its integers.
*closing*    the new model, the countersigned receipts, the manifest and the flag appear in one
             transaction.
*scoring*    the closed round is handed to whoever values contributions and pays.

Each step ends when all have answered, a grace after a quorum has, or at its deadline
(``fl_server.phases``), so a site that is gone delays a round and never stops it. Too few sites do
not stop it either: the round closes without an update, nobody is paid for it, and the updates that
were sound are named with the ones that were not. A run ends early only where there are too few
sites to plan a round for ``Deadlines.roster`` seconds, where the sites contradict each other on
what a sum holds, or where the server's own disk, database or market refuses; run again, it goes on.

One server at a time has a run (``fl_server.lease``). The engine knows no Flower (``Transport``
does), no money (``after_close`` gets a ``RoundClosed``) and no secret key of the encryption. Its
parts: ``sites`` asks, ``group_key`` sees to the key, ``intake`` and ``gate`` let contributions in,
``summation`` has the sum opened, ``answers`` remembers, ``news`` tells the sites how their lanes
stand, ``reporter`` says what happens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.registry import Registry
from fl_server.aggregation import Stepping, without_surplus
from fl_server.calling import Called
from fl_server.gate import Gate
from fl_server.group_key import GroupKeeper
from fl_server.intake import Intake
from fl_server.lanes import lane_states
from fl_server.lease import LEASE_SECONDS, Lease
from fl_server.model_state import unchanged
from fl_server.news import LaneNews, epoch_of
from fl_server.offering import Offering
from fl_server.opening import OpeningMissing, SumUnsound
from fl_server.phases import Deadlines, Phase
from fl_server.questions import Questions
from fl_server.reporter import Reporter
from fl_server.sites import Sites, TooFewSites
from fl_server.store import ClosedRound, PlannedRound, ServerStore, StoredRound, run_of
from fl_server.summation import Opened, SecureSum
from fl_server.transport import Transport
from fl_server.uploads import RoundFrozen
from privacy.bfv import ServerContext, self_test
from privacy.mechanism import check_mechanism
from privacy.opening import check_way
from privacy.parameters import ParameterSet
from privacy.sharing import QuorumMissing, quorum
from protocol.canonical import digest
from protocol.errors import BitHiveError, ConfigurationError
from protocol.ids import SiteId
from protocol.messages import Manifest, Receipt, RoundClosed, RoundPlan
from protocol.progress import Progress, Step, silent
from protocol.terms import StudyTerms
from protocol.units import day_number
from zk.keys import VerificationKey

NOTHING: Final = "0" * 64
"""Stands for a digest where there is none: before the first round, or of a round without a sum."""


AGAIN_SECONDS: Final = 5.0
"""How long a round that has too few sites waits before it looks again."""
STEPS_OF_SITES: Final = frozenset({"call", "train", "endorse", "unmask", "share", "open"})
"""Late replies to these are kept; to a roll call, key or news they tell nothing."""


class RunUnknown(ConfigurationError):
    """The database holds another run than the one that was named."""

    code = "run-unknown"

    def __init__(self, asked: str, held: str) -> None:
        self.asked = asked
        super().__init__(f"there is no run {asked} here, but run {held}; name that one, or none")


@dataclass
class Engine:
    """Runs one study's rounds to the end.

    ``resume`` names the run that is meant, where somebody did; ``lease_seconds`` is for how long a
    server whose heart stopped beating keeps it.
    """

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
    resume: str = ""
    lease_seconds: float = LEASE_SECONDS
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        check_way(self.parameters, self.terms.opening)
        check_mechanism(self.terms, self.parameters)
        self_test(self.parameters)
        context = ServerContext(self.parameters)
        self._gate = Gate(self.terms, self.verification_key, context, self.today)
        self._report = Reporter(self.store.events, self.progress)
        self._sites = Sites(self.terms, self.transport, self._report, offering=self.offering)
        self._sites.on_late = self._late

    @property
    def run_id(self) -> str:
        """The run's id: the same for every server that goes on with it."""
        return run_of(self.terms)

    def run(self) -> None:
        """Run every round that is not closed yet.

        Raises:
            RunUnknown: Another run was meant.
            RunBusy: Another server has the run.
            LeaseLost: Another server took it over meanwhile; what was stored is kept.
            TooFewSites: Fewer sites than the study needs answered the roll call, or the calls of a
                round.
            OpeningDisputed: Sites opened a sum to different integers.
            StorageError: The server's disk refused; run again, closed rounds are kept.
        """
        if self.resume not in {"", self.run_id}:
            raise RunUnknown(self.resume, self.run_id)
        with Lease(self.store.database, self.run_id, seconds=self.lease_seconds).held():
            self.store.database.sweep()
            try:
                self._run()
            except BitHiveError as error:
                with contextlib.suppress(BitHiveError):  # of a full disk nothing can be told there
                    self._report.run(error.code)
                raise

    def _run(self) -> None:
        last = self.store.rounds_closed()
        stored = self.store.round(last) if last else None
        if stored is not None and stored.closed is not None and not stored.settled:
            self._hand_over(stored.closed)
        if last == self.terms.rounds:
            return
        self._report.run("started")
        self._start(last + 1)
        for number in range(last + 1, self.terms.rounds + 1):
            self._news.send(number - 1)  # patients may have withdrawn while the last was settled
            self._hand_over(self._round(number))
        self._report.run("finished")

    def _start(self, number: int = 1) -> None:
        """Find the sites, and what they hold."""
        wait = self.deadlines
        self._report.enter(
            number,
            "roster",
            deadline=wait.join,
            quorum=self.terms.sites_min,
            asked=len(self.terms.sites),
        )
        held = self._sites.roll_call(wait.join, wait.roster)
        self._keeper = GroupKeeper(
            self.terms, self._sites, self.store, self._report, wait.join, holding=held
        )
        self._news = LaneNews(self.terms, self._sites, self.registry, self._report, wait.prepare)
        self._intake = Intake(self.terms, self._sites, self.store, self._gate, self._report, wait)
        questions = Questions(
            self.terms,
            self._sites,
            self._report,
            wait.open,
            answers=self.store.answers,
            grace=wait.grace,
            patience=wait.patience,
            entered=self._enter_sum,
        )
        self._sum = SecureSum(self.terms, questions, self.signing_key, self.parameters, wait.call)

    def _round(self, number: int) -> RoundClosed:
        if self.store.round(number) is None:
            self.store.plan(self._plan_when_possible(number))
        stored = self.store.planned(number)
        self._news.told(stored.lanes)
        if not stored.frozen:
            needed = max(self.terms.sites_min, quorum(stored.called))
            self._report.enter(
                number,
                "uploads",
                deadline=self.deadlines.train,
                quorum=needed,
                asked=len(stored.plan.sites),
            )
            self._intake.collect(stored)
            self.store.freeze(number)
        return self._close(stored)

    # Roster: call, key and plan

    def _plan_when_possible(self, number: int) -> PlannedRound:
        """Plan the round; where too few sites are there, wait for them as long as is allowed."""
        seconds = self.deadlines.roster
        needed = self.terms.sites_min
        self._report.enter(
            number, "roster", deadline=seconds, quorum=needed, asked=len(self.terms.sites)
        )
        until = time.monotonic() + seconds
        while True:
            try:
                came = self._sites.refresh(self.deadlines.call)
                self._keeper.holding.update(came)
                return self._plan(number)
            except TooFewSites:
                if time.monotonic() + AGAIN_SECONDS > until:
                    raise
            self.sleep(AGAIN_SECONDS)

    def _plan(self, number: int) -> PlannedRound:
        """Agree on the round's keys with the sites that are there, and plan it for those."""
        model, steps = self.store.models.head(number - 1)
        manifest = self.store.manifest(number - 1)
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
            model=model,
            key_id=key_id,
            steps=tuple(float(step) for step in steps),
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

    # Unmasking, opening and closing

    def _close(self, stored: StoredRound) -> RoundClosed:
        plan = stored.plan
        uploads = self.store.uploads.of(plan.round)
        try:
            opened = self._opened(stored)
        except (QuorumMissing, SumUnsound, OpeningMissing) as error:
            self._enter_closing(plan.round)
            for site in uploads:
                why = f"a sound update, but {error}"
                self._intake.refuse(site, plan.round, error.code, why)
            return self._store_close(plan, (), None, None)
        self._enter_closing(plan.round)
        for site in opened.liars:
            note = "its tag is not that of the update it signed; the update itself stands"
            self._report(Step("refuse", plan.round, site, note=f"tag-false: {note}"))
        integers, odd = without_surplus(
            self.terms,
            opened.integers,
            opened.surplus,
            roster=len(plan.sites),
            arrived=len(uploads),
        )
        for site in odd:
            note = "surplus-refused: it showed other seeds than the sum can spare; its noise stays"
            self._report(Step("refuse", plan.round, site, note=note))
        stepping = Stepping(
            self.terms,
            self.parameters,
            steps=np.array(plan.steps),
            integers=integers,
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
        return self._store_close(plan, receipts, stepping, opened)

    def _store_close(
        self,
        plan: RoundPlan,
        receipts: tuple[Receipt, ...],
        stepping: Stepping | None,
        opened: Opened | None,
    ) -> RoundClosed:
        """Close the round; without a sum the model stays as it is."""

        def finish(model_sha256: str) -> ClosedRound:
            manifest = Manifest(
                study=plan.study,
                round=plan.round,
                plan=digest(plan),
                commitment=NOTHING if opened is None else digest(opened.commitment),
                integers_sha256=NOTHING if opened is None else opened.integers_sha256,
                model_sha256=model_sha256,
                previous=plan.previous,
            ).signed_by(self.signing_key.sign)
            closed = RoundClosed(
                study=plan.study,
                round=plan.round,
                server_key=self.terms.server_key,
                model_sha256=model_sha256,
                manifest=digest(manifest),
                receipts=receipts,
                refused=refused,
            )
            commitment = None if opened is None else opened.commitment
            integers = None if opened is None else opened.integers
            faults = () if opened is None else opened.faults
            return ClosedRound(closed, manifest, commitment, integers, faults)

        refused = self.store.uploads.refusals(plan.round)
        slices = unchanged if stepping is None else stepping.slices
        steps = np.array(plan.steps) if stepping is None else stepping.next_steps()
        self._report.closed(plan.round, receipts=len(receipts))
        closed = self.store.close_with(plan.round, slices, steps, finish)
        self._report(Step("close", plan.round, None, plan.round, self.terms.rounds))
        return closed

    def _opened(self, stored: StoredRound) -> Opened:
        """Have the sum opened; where too few sites do, ask those that did not again."""
        uploads = self.store.uploads.of(stored.plan.round)
        for _attempt in range(1, self.deadlines.attempts):
            try:
                return self._sum.open(stored.plan, stored.called, uploads)
            except OpeningMissing:
                self._sites.refresh(self.deadlines.call)
        return self._sum.open(stored.plan, stored.called, uploads)

    # Scoring

    def _hand_over(self, closed: RoundClosed) -> None:
        self._report.enter(closed.round, "scoring", deadline=self.deadlines.settle)
        self.store.events.flush()  # a market in another process takes its time
        self.after_close(closed)
        self.store.settled(closed.round)

    # What happens

    def _enter_sum(self, number: int, kind: str, quorum_: int, asked: int) -> None:
        if kind in {"endorse", "share"} or (kind == "open" and self._report.phase != "opening"):
            phase: Phase = "unmasking" if kind == "endorse" else "opening"
            self._report.enter(
                number, phase, deadline=self.deadlines.open, quorum=quorum_, asked=asked
            )

    def _enter_closing(self, number: int) -> None:
        self._report.enter(number, "closing", deadline=0.0)

    def _late(self, kind: str, group: str, site: SiteId, reply: bytes) -> None:
        number = group.rpartition("-")[2]
        if kind in STEPS_OF_SITES and number.isdigit():
            self._intake.stray(kind, int(number), site, RoundFrozen.code, reply)
