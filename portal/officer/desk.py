"""An officer's desk: each job in words she can decide on, her decisions, and whether the site runs.

It reads and writes one hospital's folder, beside a running agent, which learns of a decision from
the same folder with its next frame. To stop and to go on is said to the agent itself. Whoever asks
is an ``Actor``, whose right is checked here or by what is called, and a refusal recorded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from consent.purposes import PURPOSES, categories_in
from fl_client.decisions import Decision
from fl_client.duty import Order
from fl_client.job_code import JobCode
from fl_client.jobs import ROUNDING, Job, JobBook
from fl_client.link import AgentUnreachable
from fl_client.offers import asked_of
from fl_client.orders import ordered
from identity.roles import Actor, Permission
from portal.site_control import ask_agent_of
from protocol.errors import ConfigurationError, PrivacyError
from protocol.ids import SiteId
from protocol.units import btt_text

if TYPE_CHECKING:
    from fl_client.epsilon import Epsilon
    from protocol.terms import StudyTerms


class SiteFolderMissing(ConfigurationError):
    """The home holds no folder of this site."""

    code = "site-folder-missing"

    def __init__(self, site: str, home: Path) -> None:
        self.site = site
        super().__init__(
            f"{home} holds no site {site}; give the --home of the run, and the name of one of its "
            "sites"
        )


def site_folder(home: Path, site: SiteId) -> Path:
    """Return a site's folder in a run's home.

    Raises:
        SiteFolderMissing: There is none.
    """
    folder = home / "sites" / site
    if not folder.is_dir():
        raise SiteFolderMissing(site, home)
    return folder


@dataclass
class OfficerDesk:
    """One hospital's jobs; ``clock`` gives times with a time zone."""

    folder: Path
    site: SiteId
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    book: JobBook = field(init=False)

    def __post_init__(self) -> None:
        self.book = JobBook(self.folder / "site.db", self.site, clock=self.clock)

    @cached_property
    def epsilon(self) -> Epsilon:
        """What the steward's cap leaves; first asked for with the first job."""
        from fl_client.epsilon import Epsilon  # noqa: PLC0415  # accounting brings all that trains

        return Epsilon(
            self.folder / "budget.db",
            promised=lambda: [job.manifest for job in self.book.standing().values()],
        )

    def approve(self, job: str, officer: Actor, reason: str = "") -> Decision:
        """Approve a job; see ``JobBook.approve``."""
        return self.book.approve(job, officer, reason=reason, left=self.epsilon.left)

    def refuse(self, job: str, officer: Actor, reason: str) -> Decision:
        """Refuse or revoke a job; see ``JobBook.refuse``."""
        return self.book.refuse(job, officer, reason=reason)

    def jobs(self, actor: Actor) -> list[dict[str, Any]]:
        """Return every job in words, the undecided first and then the newest.

        Raises:
            PermissionMissing: She may not read them.
        """
        self._check(actor, Permission.READ_JOBS)
        order = {"pending": 0, "approved": 1, "refused": 2, "expired": 3}
        shown = [self.shown(job) for job in reversed(self.book.jobs())]
        return sorted(shown, key=lambda one: order[one["state"]])

    def job(self, job: str, actor: Actor) -> dict[str, Any]:
        """Return the job whose hash begins so, in words.

        Raises:
            PermissionMissing: She may not read it.
            JobUnknown: There is none.
        """
        self._check(actor, Permission.READ_JOBS)
        return self.shown(self.book.named(job))

    def code(self, job: str, actor: Actor) -> bytes:
        """Return the code that a job brings along, as it would run.

        Raises:
            PermissionMissing: She may not read it.
            JobUnknown: There is no such job.
            CodeMissing: It brings none, or it has not come.
        """
        self._check(actor, Permission.READ_JOBS)
        named = self.book.named(job).manifest.code
        return JobCode(self.folder / "site.db").read(named)

    def shown(self, job: Job) -> dict[str, Any]:
        """Return one job in words: what it asks, what is left, and what was decided."""
        manifest, terms = job.manifest, job.terms
        asked = asked_of(terms)
        left, left_text = self._left(job)
        return {
            "job": job.hash,
            "state": job.state(self.clock()),
            "study": manifest.study,
            "title": terms.title,
            "datasets": list(manifest.datasets),
            "data": [one.name for one in categories_in(terms.consent.required)],
            "purposes": [{"code": code, "name": _purpose(code)} for code in manifest.purposes],
            "asked": asked.as_json(),
            "asked_text": asked.text(),
            "left": left,
            "left_text": left_text,
            "over_budget": left is None or manifest.epsilon > left + ROUNDING,
            "rounds": manifest.rounds,
            "model": manifest.model,
            "parameters": terms.training.parameters,
            "algorithm": manifest.algorithm,
            "code": manifest.code,
            "code_text": _code(terms),
            "carries_code": manifest.carries_code,
            "code_allowed": self.book.code_allowed(),
            "price": str(manifest.price),
            "price_text": btt_text(manifest.price),
            "hospitals": [one.site for one in terms.sites],
            "opening": terms.opening,
            "researcher": manifest.researcher,
            "researcher_key": fingerprint(manifest.researcher_key),
            "server_key": fingerprint(terms.server_key),
            "server_known": self._known(job),
            "offered_at": job.offered_at,
            "expires": manifest.expires,
            "decision": None if job.decision is None else _decided(job.decision),
        }

    def decisions(self, actor: Actor) -> list[dict[str, Any]]:
        """Return the whole record, oldest first, after checking it against the log's signed head.

        Raises:
            PermissionMissing: She may not read it.
            DecisionsDamaged: It was changed.
        """
        self._check(actor, Permission.READ_JOBS)
        return [_decided(one) for one in self.book.decisions.all()]

    def checkpoint(self) -> str:
        """Return the log's newest head in one line, to be kept elsewhere."""
        head = self.book.decisions.log.head()
        return f"{head.size} {head.root.hex()}"

    def standing(self, actor: Actor) -> dict[str, Any]:
        """Return what the site's agent says of itself; its state is ``down`` where none runs.

        Raises:
            PermissionMissing: She may not see it.
        """
        try:
            return self.watched("status", actor)
        except AgentUnreachable:
            return {"state": "down", "since": "", "ready": False, "studies": []}

    def watched(self, kind: Literal["status", "metrics"], actor: Actor) -> dict[str, Any]:
        """Return what the site's running agent says of itself.

        Raises:
            PermissionMissing: She may not see it.
            AgentUnreachable: None is running.
        """
        self._check(actor, Permission.WATCH_RUN)
        return ask_agent_of(self.folder, kind)

    def order(self, order: Order, actor: Actor, reason: str = "") -> str:
        """Tell the agent to stop or to go on; return the state after it.

        Raises:
            PermissionMissing: She may not.
            AgentUnreachable: None is running.
            AgentRefused: It says no.
        """
        # The agent checks her right again: it is not this page alone that can reach it.
        leaves = order == "leave"
        self._check(actor, Permission.LEAVE_FEDERATION if leaves else Permission.PAUSE_SITE)
        return str(ask_agent_of(self.folder, order, ordered(actor, reason))["state"])

    def _check(self, actor: Actor, permission: Permission) -> None:
        self.book.decisions.check(actor, permission, self.site, self.clock())

    def _left(self, job: Job) -> tuple[float | None, str]:
        """Return what the cap leaves, and in words; nothing where no cap can be relied on."""
        try:
            left = self.epsilon.left(job.manifest)
        except PrivacyError as error:
            return None, f"nothing: {error}"
        return left, f"{math.floor(left * 100) / 100:.2f}"

    def _known(self, job: Job) -> bool:
        """Say whether an officer has approved another job of the same server before."""
        return any(
            other.terms.server_key == job.terms.server_key
            for other in self.book.jobs()
            if other.hash != job.hash and other.decision and other.decision.kind == "approved"
        )


def fingerprint(key: bytes) -> str:
    """Return what two people compare of a key: 24 digits of its SHA-256, in groups of four."""
    digits = hashlib.sha256(key).hexdigest()[:24]
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def _purpose(code: str) -> str:
    return next((one.name for one in PURPOSES if one.code == code), code)


def _code(terms: StudyTerms) -> str:
    features = terms.training.features
    if features is None:
        return "none: the hospital's own programs run, as the terms say"
    # Which function runs is the terms' to say: it could be one that is not in the bundle.
    return (
        f"brings Python along (SHA-256 {features.bundle[:16]}…) and runs {features.function} on "
        f"one patient's records at a time, {features.seconds} s each, in a sandbox without "
        "network; read it before you decide"
    )


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "number": decision.number,
        "kind": decision.kind,
        "subject": decision.subject,
        "who": decision.who,
        "reason": decision.reason,
        "at": decision.at,
    }
