"""Jobs offered to this hospital, and what its officer decided: nothing else is ever run.

::

    offered ─▶ pending ──approve──▶ approved ──(its expiry)──▶ expired
                  │                  │    ▲
                  └──refuse──▶ refused ◀──┘        the newest decision counts; each stays recorded

What holds, each line a test in tests/fl_client/test_jobs.py:

1. A study runs only under a job that is approved now: not a pending, refused, revoked or expired
   one, and not under another hash than the one that was approved.
2. A job that asks more epsilon than the data steward's cap leaves cannot be approved.
3. A job that carries Python cannot be approved, nor run, without the separate right to it.
4. Who decides must have the right to, and every refusal of that is recorded.
5. A job whose page or terms are not those that were offered does not run: it is not the one that
   was approved.
6. Undecided offers are kept up to a limit, expired ones too, so that offering fills no disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa

from fl_client.decisions import CODE, Decision, Decisions, Kind
from fl_client.offers import asked_of
from fl_client.tables import JOBS, METADATA
from identity.roles import Actor, Permission
from privacy.statement import PrivacyStatement
from protocol.canonical import canonical, digest
from protocol.errors import ConfigurationError, FederationError, PrivacyError, StorageError
from protocol.ids import SiteId
from protocol.jobs import JobManifest, instant
from protocol.terms import StudyTerms
from storage.database import open_database, reading, writing

PENDING_MAX: Final = 100
EXPIRED_KEPT: Final = timedelta(days=1)
"""So long an offer that nobody decided stays after its end at least: its hash's first digits must
not come to mean another job while an officer has them before her."""
PREFIX_MIN: Final = 8
"""Digits of a job's hash that a person must give at least."""
ROUNDING: Final = 1e-9

State = Literal["pending", "approved", "refused", "expired"]
EpsilonLeft = Callable[[JobManifest], float]
"""What the steward's cap leaves to a job; raises ``PrivacyError`` where there is none."""


class JobNotApproved(FederationError):
    """A study asked for something, and no officer of this hospital approved its job."""

    code = "job-not-approved"

    def __init__(self, study: str, state: str) -> None:
        self.study = study
        self.state = state
        super().__init__(
            f"this hospital has not approved that job of study {study} ({state}); its officer "
            "decides with `bithive site jobs` and `bithive site approve`"
        )


class JobExpired(FederationError):
    """A job was to be approved, or run, after its end."""

    code = "job-expired"

    def __init__(self, job: str, expires: str) -> None:
        self.job = job
        super().__init__(
            f"job {job[:16]} ended at {expires}; ask whoever offered it for one that lasts longer"
        )


class JobUnknown(ConfigurationError):
    """A job was named that was not offered here, or not clearly."""

    code = "job-unknown"

    def __init__(self, named: str) -> None:
        self.named = named
        super().__init__(
            f"no single job here begins with {named[:64]!r}; `bithive site jobs` lists them, and "
            f"{PREFIX_MIN} digits of a hash are enough"
        )


class JobPrefixShort(JobUnknown):
    """A job was named by so few digits of its hash that another may begin with them tomorrow."""

    code = "job-prefix-short"

    def __init__(self, named: str) -> None:
        self.named = named
        ConfigurationError.__init__(
            self,
            f"{named!r} has {len(named)} digits and a job is named by {PREFIX_MIN} of its hash or "
            "more; `bithive site jobs` lists them",
        )


class JobDamaged(StorageError):
    """What is kept of a job is not what was offered under its hash."""

    code = "job-damaged"

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(
            f"what this hospital keeps of job {job[:16]} is not what was offered to it under that "
            "hash; no job is run until site.db is restored from the last backup"
        )


class JobOverBudget(PrivacyError):
    """A job asks more epsilon than the data steward's cap leaves."""

    code = "job-over-budget"

    def __init__(self, asked: PrivacyStatement, left: float) -> None:
        self.asked = asked.epsilon
        self.left = left
        super().__init__(
            f"the job asks {asked.text()}, and at these terms the cap leaves less than that: "
            f"{max(0.0, left - 0.005):.2f}; ask the data steward, or for a job that costs less"
        )


class JobsFull(FederationError):
    """More jobs wait for an officer than this hospital keeps."""

    code = "jobs-full"

    def __init__(self) -> None:
        super().__init__(
            f"{PENDING_MAX} jobs wait for an officer of this hospital; offer this one again when "
            "some are decided"
        )


class CodeNotAllowed(FederationError):
    """A job carries Python, and this hospital runs none."""

    code = "code-not-allowed"

    def __init__(self) -> None:
        super().__init__(
            "this hospital runs no job that carries Python; offer a declarative one, or ask its "
            "officer for `bithive site allow-code`"
        )


@dataclass(frozen=True)
class Job:
    """A job that was offered here, and the newest decision on it."""

    manifest: JobManifest
    terms: StudyTerms
    offered_at: str
    decision: Decision | None

    @property
    def hash(self) -> str:
        """The job's name."""
        return self.manifest.hash

    def state(self, now: datetime) -> State:
        """Say how the job stands."""
        if self.decision is not None and self.decision.kind == "refused":
            return "refused"
        if self.manifest.expired(now):
            return "expired"
        return "pending" if self.decision is None else "approved"


class JobBook:
    """The jobs of one hospital; every change is one transaction of its database."""

    def __init__(
        self, path: Path, site: SiteId, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._engine = open_database(path, METADATA, private=True)
        self._clock = clock
        self.site = site
        self.decisions = Decisions(path.parent)

    # What is offered

    def keep(self, manifest: JobManifest, terms: StudyTerms) -> Job:
        """Keep a checked offer as pending; again, or after its end, change nothing.

        Raises:
            JobsFull: Too many wait already.
        """
        known = self.find(manifest.hash)
        if known is not None:
            return known
        now = self._clock()
        if manifest.expired(now):
            return Job(manifest, terms, instant(now), None)
        with writing(self._engine) as connection:
            self._make_room(connection, now)
            connection.execute(
                sa.insert(JOBS)
                .prefix_with("OR IGNORE")
                .values(
                    job=manifest.hash,
                    study=manifest.study,
                    manifest=canonical(manifest).decode(),
                    terms=canonical(terms).decode(),
                    offered_at=instant(now),
                )
            )
        return self.named(manifest.hash)

    def jobs(self) -> list[Job]:
        """Return every job, oldest first.

        Raises:
            DecisionsDamaged: The record of decisions was changed.
            JobDamaged: A job was changed since it was offered; so does whatever reads it.
        """
        return self._read(sa.select(JOBS).order_by(JOBS.c.offered_at, JOBS.c.job))

    def find(self, job: str) -> Job | None:
        """Return the job of this hash, or None."""
        found = self._read(sa.select(JOBS).where(JOBS.c.job == job))
        return found[0] if found else None

    def named(self, prefix: str) -> Job:
        """Return the job whose hash begins so.

        Raises:
            JobPrefixShort: Fewer than eight digits were given.
            JobUnknown: There is none, or more than one.
        """
        if len(prefix) < PREFIX_MIN:
            raise JobPrefixShort(prefix)
        found = [job for job in self.jobs() if job.hash.startswith(prefix)]
        if len(found) != 1:
            raise JobUnknown(prefix)
        return found[0]

    # What is decided

    def approve(self, job: str, officer: Actor, *, reason: str = "", left: EpsilonLeft) -> Decision:
        """Approve a job, once and until it expires or is refused.

        Args:
            job: Its hash, or the beginning of it.
            officer: Who decides.
            reason: For the record, where she has one to give.
            left: What the data steward's cap leaves.

        Raises:
            PermissionMissing: She may not.
            JobUnknown, JobExpired: There is no such job to approve.
            JobOverBudget: It asks more than the cap leaves.
            DatasetUnknown: The data steward has set no cap.
            CodeNotAllowed: It carries Python.
            DecisionIncomplete: She has no name.
        """
        self._check(officer, Permission.APPROVE_JOB)
        asked = self.named(job)
        manifest = asked.manifest
        if manifest.expired(self._clock()):
            raise JobExpired(asked.hash, manifest.expires)
        if manifest.carries_code and not self.code_allowed():
            raise CodeNotAllowed
        remaining = left(manifest)
        if not manifest.epsilon <= remaining + ROUNDING:
            raise JobOverBudget(asked_of(asked.terms), remaining)
        return self._decide("approved", asked.hash, officer, reason)

    def refuse(self, job: str, officer: Actor, *, reason: str) -> Decision:
        """Refuse a job, also one that was approved: from now on it runs no more.

        Raises:
            PermissionMissing: She may not.
            JobUnknown: There is no such job.
            DecisionIncomplete: She gave no reason or has no name.
        """
        self._check(officer, Permission.APPROVE_JOB)
        return self._decide("refused", self.named(job).hash, officer, reason)

    def allow_code(self, officer: Actor, *, reason: str = "", allowed: bool = True) -> Decision:
        """Give, or take away, the right of approved jobs to bring Python along.

        Raises:
            PermissionMissing: She may not.
        """
        self._check(officer, Permission.ALLOW_CODE)
        return self._decide("code-allowed" if allowed else "code-forbidden", CODE, officer, reason)

    def code_allowed(self) -> bool:
        """Say whether jobs that carry Python may be approved and run; by default not."""
        newest = self._newest().get(CODE)
        return newest is not None and newest.kind == "code-allowed"

    # What may run

    def approved(self, study: str) -> Job:
        """Return the job that a study runs under: the one approved last.

        Raises:
            JobNotApproved: There is none.
            CodeNotAllowed: It carries Python, and the right to it was taken away since.
            DecisionsDamaged: The record of decisions was changed.
        """
        found = self._read(sa.select(JOBS).where(JOBS.c.study == study))
        now = self._clock()
        standing = [
            (job.decision.number, job)
            for job in found
            if job.decision is not None and job.state(now) == "approved"
        ]
        if not standing:
            states = sorted({job.state(now) for job in found})
            raise JobNotApproved(study, ", ".join(states) or "not offered here")
        _, job = max(standing, key=lambda one: one[0])
        if job.manifest.carries_code and not self.code_allowed():
            raise CodeNotAllowed
        return job

    def standing(self) -> dict[str, Job]:
        """Return for each study the job it runs under now; studies without one are left out."""
        found: dict[str, Job] = {}
        for study in {job.manifest.study for job in self.jobs()}:
            with contextlib.suppress(JobNotApproved, CodeNotAllowed):
                found[study] = self.approved(study)
        return found

    def _read(self, query: sa.Select[Any]) -> list[Job]:
        newest = self._newest()
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [_read_job(row, newest.get(row.job)) for row in rows]

    def _make_room(self, connection: sa.Connection, now: datetime) -> None:
        """Drop undecided offers that ended long ago, where there are as many as may be."""
        undecided = [job for job in self.jobs() if job.decision is None]
        if len(undecided) < PENDING_MAX:
            return
        over = [job.hash for job in undecided if job.manifest.expired(now - EXPIRED_KEPT)]
        if not over:
            raise JobsFull
        connection.execute(JOBS.delete().where(JOBS.c.job.in_(over)))

    def _newest(self) -> dict[str, Decision]:
        counted = [one for one in self.decisions.all() if one.kind != "permission-denied"]
        return {one.subject: one for one in counted}

    def _decide(self, kind: Kind, subject: str, officer: Actor, reason: str) -> Decision:
        now = self._clock()
        return self.decisions.add(kind, subject, who=officer.shown, reason=reason, now=now)

    def _check(self, officer: Actor, permission: Permission) -> None:
        self.decisions.check(officer, permission, self.site, self._clock())


def _read_job(row: Any, decision: Decision | None) -> Job:
    """Return a job that was kept; the decision is on its hash, so it must still be of that hash."""
    try:
        manifest = JobManifest.model_validate_json(row.manifest)
        terms = StudyTerms.model_validate_json(row.terms)
    except ValueError as error:
        raise JobDamaged(row.job) from error
    if (manifest.hash, manifest.study, manifest.terms) != (row.job, row.study, digest(terms)):
        raise JobDamaged(row.job)
    return Job(manifest, terms, row.offered_at, decision)
