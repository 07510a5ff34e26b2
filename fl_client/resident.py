"""The hospital's resident process: one door for all studies, shut to what no officer approved.

It holds an agent for each approved study, made when the approval is there and without a restart,
and hands it the frames of its study. Offers of jobs are kept for an officer and answered with how
they stand. Its operator may pause it, drain it or leave at any time (``fl_client.duty``).

::

    frame ─▶ offer? ─▶ kept as pending, answered: pending, approved or refused
        └──▶ study ─▶ job approved now? ─▶ on duty? ─▶ that study's agent

What holds, each line a test in tests/fl_client/test_resident.py:

1. No agent sees a frame of a study whose job is not approved now; a join names the very job.
2. A job that is approved while the process runs is served without a restart, and one that is
   refused is served no more from the next frame on; nor does an update leave that was still being
   trained.
3. Paused, it answers nothing but refusals, also where it was training; draining, it finishes the
   round under way.
4. What goes wrong in one study is a refusal there, and no other study notices.
5. What a study's code made is deleted once its last round is answered (``fl_client.retention``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from fl_client.duty import FINISHING, Duty, SiteLeft
from fl_client.epsilon import Epsilon
from fl_client.job_code import JobCode
from fl_client.jobs import CodeNotAllowed, Job, JobBook, JobNotApproved
from fl_client.logs import event
from fl_client.offers import check_addressed, read_offer
from fl_client.refusals import refusal
from fl_client.retention import tidy
from fl_client.routing import KINDS, Route, route
from fl_client.store import SiteStore
from fl_client.telemetry import OTHER, Telemetry
from fl_client.under_way import UnderWay
from privacy.keys import SiteKeys
from protocol.canonical import body
from protocol.errors import BitHiveError, FederationError
from protocol.frames import Frame, decode, encode
from protocol.ids import SiteId
from protocol.jobs import JobAnswer, SignOff, moment_of

log = logging.getLogger("bithive.resident")
SMALL: Final = 2**16
"""A refusal is smaller; larger replies are not read again."""


class StudyAgent(Protocol):
    """An agent of one study."""

    def answer(self, frame: bytes) -> bytes:
        """Answer one frame."""
        ...

    def close(self) -> None:
        """Stop what works behind the door."""
        ...


Make = Callable[[Job], StudyAgent]
"""Makes the agent of an approved job from what this hospital holds."""


class AgentFailed(FederationError):
    """A hospital's agent failed in a way that nobody expected."""

    code = "agent-failed"

    def __init__(self) -> None:
        super().__init__("this hospital's agent failed; its log says where, go on without it")


@dataclass(frozen=True)
class Identity:
    """Who this hospital is."""

    site: SiteId
    keys: SiteKeys


@dataclass
class Serving:
    """An agent that was made for a job."""

    job: str
    agent: StudyAgent


@dataclass
class Resident:
    """All of one hospital's agents behind one door; ``answer`` may be called by many threads."""

    identity: Identity
    home: Path
    """The hospital's folder, whose ``site.db`` holds what it remembers."""
    make: Make
    clock: Callable[[], datetime]
    telemetry: Telemetry = field(default_factory=Telemetry)
    failed: dict[str, str] = field(default_factory=dict)
    """The code with which an agent could not be made, by study."""
    clock_ahead_seconds: float | None = None
    """This clock minus the server's signed time, when an offer last came; its way counts too."""
    _refreshed: tuple[int, datetime] | None = None
    _serving: dict[str, Serving] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        path = self.home / "site.db"
        self.store = SiteStore(path)
        self.book = JobBook(path, self.identity.site, clock=self.clock)
        self.code = JobCode(path)
        self.rounds = UnderWay(path, answered=self.store.under_way, clock=self.clock)
        self.duty = Duty(
            path,
            self.identity.site,
            self.book.decisions,
            clock=self.clock,
            under_way=self.under_way,
        )
        self.epsilon = Epsilon(self.home / "budget.db")

    def under_way(self) -> list[tuple[str, int]]:
        """Return the studies and rounds that this site is in the middle of."""
        return self.rounds.rounds()

    def answer(self, frame: bytes) -> bytes:
        """Answer one frame; a refusal is an answer too."""
        kind = "unreadable"
        try:
            request = decode(frame)
            kind = request.kind
            if kind == "offer":
                self.duty.check(kind, "", None)
                reply = self._offered(request)
            else:
                reply = self._carried(request, frame)
        except SiteLeft as error:
            reply = refusal(error, signed=body(self._signed_off()))
        except BitHiveError as error:
            reply = refusal(error)
        except Exception:  # the other studies go on
            log.exception("agent-failed")
            reply = refusal(AgentFailed())
        self._count(kind, reply)
        return reply

    def refresh(self) -> None:
        """Make the agents of jobs that were approved, and close those of jobs that were refused.

        Cheap where nothing was decided; looks again every minute, for approvals that ended.
        """
        mark = (self.book.decisions.latest(), self.clock().replace(second=0, microsecond=0))
        if mark == self._refreshed:
            return
        approved = self.book.standing()
        for job in approved.values():
            try:
                self._agent(job)
            except BitHiveError as error:
                event(log, "not-served", logging.WARNING, study=job.manifest.study, code=error.code)
        with self._making:
            over = [study for study in self._serving if study not in approved]
            closing = [self._serving.pop(study) for study in over]
        for serving in closing:
            serving.agent.close()
        self._refreshed = mark
        self.tidy()

    def tidy(self) -> None:
        """Delete what studies' code made and nothing needs any more.

        Raises:
            StorageError: As ``fl_client.retention.tidy``.
            DecisionsDamaged: The record of decisions was changed.
        """
        left = self.duty.standing().state == "left"
        jobs = () if left else self.book.standing().values()
        forgotten = tidy(self.home, jobs, self.store)
        if forgotten:
            event(log, "features-forgotten", count=forgotten)

    def studies(self) -> dict[str, str]:
        """Return the studies that are served, each with its job's hash."""
        return {study: serving.job for study, serving in list(self._serving.items())}

    def close(self) -> None:
        """Close every agent, and keep no more than the next start needs."""
        with self._making:
            closing = list(self._serving.values())
            self._serving.clear()
        for serving in closing:
            serving.agent.close()
        try:
            self.tidy()
        except BitHiveError as error:  # the next start does it
            event(log, "not-tidied", logging.WARNING, code=error.code)

    # Offers

    def _offered(self, request: Frame) -> bytes:
        found = read_offer(request)
        check_addressed(found.terms, self.identity.site, self.identity.keys)
        now = self.clock()
        self.clock_ahead_seconds = (now - moment_of(found.offer.at)).total_seconds()
        job = self.book.keep(found.manifest, found.terms)
        if found.bundle is not None and self.book.find(job.hash) is not None:
            named = {one.manifest.code for one in self.book.jobs()}
            self.code.keep(found.bundle, named=named)
        state = job.state(now)
        reason = job.decision.reason if job.decision is not None and state == "refused" else ""
        if state == "expired":
            reason = f"it ended at {job.manifest.expires}"
        if job.manifest.carries_code and not self.book.code_allowed():
            state, reason = "refused", CodeNotAllowed.code
        answer = JobAnswer(
            site=self.identity.site,
            job=job.hash,
            nonce=found.offer.nonce,
            state="refused" if state == "expired" else state,
            reason=reason,
        )
        event(log, "offered", job=job.hash[:16], study=job.manifest.study, state=state)
        return encode("job", body(answer.signed_by(self.identity.keys.sign)))

    # Studies

    def _carried(self, request: Frame, frame: bytes) -> bytes:
        going = route(request, of_terms=self._study_of_terms, of_key=self.store.keys.study_of)
        self.duty.check(request.kind, going.study, going.round)
        job = self.book.approved(going.study)
        if request.kind == "join" and request.body.get("job") != job.hash:
            raise JobNotApproved(going.study, "another job of it is approved")
        agent = self._agent(job)
        if request.kind == "train":
            waits = request.body.get("wait_seconds")
            with self.rounds.training(going.study, going.round or 0, waits):
                reply = agent.answer(frame)
                self._check_still(job, request, going)
            self._trained(request, going, reply)
            return reply
        if request.kind in FINISHING and going.round is not None:
            self.rounds.heard(going.study, going.round)
        return agent.answer(frame)

    def _check_still(self, job: Job, request: Frame, going: Route) -> None:
        """Return if what was trained, for hours perhaps, may leave.

        Raises:
            JobNotApproved: Its approval was taken back, has ended, or is another job's.
            AgentPaused, SiteLeft: The operator stopped it.
        """
        self.duty.check(request.kind, going.study, going.round)
        if self.book.approved(going.study).hash != job.hash:
            raise JobNotApproved(going.study, "another job of it is approved")

    def _agent(self, job: Job) -> StudyAgent:
        study = job.manifest.study
        with self._making:
            serving = self._serving.get(study)
            if serving is not None and serving.job == job.hash:
                return serving.agent
            try:
                agent = self.make(job)
            except BitHiveError as error:
                self.failed[study] = error.code
                raise
            self.failed.pop(study, None)
            self._serving[study] = Serving(job.hash, agent)
        if serving is not None:
            serving.agent.close()
        event(log, "serving", study=study, job=job.hash[:16])
        return agent

    def _study_of_terms(self, terms: str) -> str | None:
        named = (job.manifest.study for job in self.book.jobs() if job.manifest.terms == terms)
        return next(named, None)

    def _trained(self, request: Frame, going: Route, reply: bytes) -> None:
        if request.kind == "train" and going.round is not None and not _refused(reply):
            self.telemetry.trained(going.study, going.round)
            event(log, "round-answered", study=going.study, round=going.round, bytes=len(reply))
            self._refreshed = None  # if it was the last one, what was kept for it goes now

    def _signed_off(self) -> SignOff:
        left = SignOff(site=self.identity.site, at=self.duty.standing().since)
        return left.signed_by(self.identity.keys.sign)

    def _count(self, kind: str, reply: bytes) -> None:
        kind = kind if kind in KINDS or kind == "offer" else OTHER  # else it is the caller's word
        self.telemetry.answered(kind, len(reply))
        code = _refused(reply)
        if code:
            self.telemetry.refused(code)
            event(log, "refused", logging.WARNING, kind=kind, code=code)


def _refused(reply: bytes) -> str:
    """Return the code of a refusal, or nothing for another reply."""
    if len(reply) > SMALL:
        return ""
    answer = decode(reply)
    return str(answer.body.get("code", "")) if answer.kind == "refused" else ""
