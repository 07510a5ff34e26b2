"""Whether this hospital takes part right now: its officer may stop it at any time.

::

    running ──pause──▶ paused ──resume──▶ running
       ├────drain──▶ draining ──(no round under way)──▶ paused
       └────leave──▶ leaving  ──(no round under way)──▶ left ──resume──▶ running

*paused* answers every frame with a refusal. *draining* and *leaving* still answer what a round
under way needs to be opened, and nothing else. When a round is under way: ``fl_client.under_way``.

What holds, each line a test in tests/fl_client/test_duty.py:

1. Nobody but an officer of this site stops it or lets it go on; who tried is on record.
2. What stops the site takes hold even where it cannot be recorded; what lets it go on does not.
3. No order to drain or leave takes longer than an hour, and none waits for a round that its server
   has given up.
4. The state outlives the process, so that a restart resumes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, cast

import sqlalchemy as sa

from fl_client.decisions import DUTY as SUBJECT
from fl_client.decisions import Decisions, Kind
from fl_client.tables import DUTY, METADATA
from identity.roles import Actor, Permission
from protocol.errors import FederationError
from protocol.ids import SiteId
from protocol.jobs import instant, moment_of
from storage.database import open_database, reading, writing

DutyState = Literal["running", "draining", "paused", "leaving", "left"]
Order = Literal["pause", "resume", "drain", "leave"]
DRAIN_MAX: Final = timedelta(hours=1)
"""However long a server says that its rounds take."""
FINISHING: Final = frozenset({"train", "endorse", "unmask", "share", "open"})
"""The frames that a round under way still needs."""
AFTER: Final[dict[Order, DutyState]] = {
    "pause": "paused",
    "resume": "running",
    "drain": "draining",
    "leave": "leaving",
}
RECORDED: Final[dict[Order, Kind]] = {
    "pause": "paused",
    "resume": "resumed",
    "drain": "draining",
    "leave": "leaving",
}
ENDS: Final[dict[DutyState, DutyState]] = {"draining": "paused", "leaving": "left"}

Rounds = Collection[tuple[str, int]]
"""Studies and rounds that are under way."""


class AgentPaused(FederationError):
    """The hospital takes part in nothing for now."""

    code = "agent-paused"

    def __init__(self, state: DutyState) -> None:
        self.state = state
        super().__init__(
            f"this hospital is {state} and begins nothing; ask again later, or go on without it"
        )


class SiteLeft(FederationError):
    """The hospital has left."""

    code = "site-left"

    def __init__(self) -> None:
        super().__init__("this hospital has left the federation; go on without it")


@dataclass(frozen=True)
class Standing:
    """The state, and since when."""

    state: DutyState
    since: str


class Duty:
    """The state of one hospital's agent, in its database.

    Args:
        path: The site's database.
        site: Which hospital this is.
        record: Where orders and refusals are recorded.
        clock: Gives times with a time zone.
        under_way: Gives the rounds that this site is in the middle of.
    """

    def __init__(
        self,
        path: Path,
        site: SiteId,
        record: Decisions,
        *,
        clock: Callable[[], datetime],
        under_way: Callable[[], Rounds],
    ) -> None:
        self._engine = open_database(path, METADATA, private=True)
        self._site = site
        self._record = record
        self._clock = clock
        self._under_way = under_way

    def standing(self) -> Standing:
        """Return the state now; what was waiting for a round that has ended, ends."""
        now = self._clock()
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(DUTY)).first()
        if row is None:
            return Standing("running", "")
        state = cast("DutyState", row.state)
        if state in ENDS and (not self._under_way() or now - moment_of(row.at) >= DRAIN_MAX):
            return self._set(ENDS[state])
        return Standing(state, row.at)

    def order(self, order: Order, actor: Actor, *, reason: str = "") -> Standing:
        """Obey an officer; return the state after it.

        Raises:
            PermissionMissing: She may not: only an officer of this hospital may. Whoever left
                comes back by the right to leave.
            DecisionIncomplete: She has no name, or her reason is too long.
        """
        self._check(order, actor)
        if order == "resume":
            self._note(order, actor, reason)
            self._set(AFTER[order])
        else:
            self._set(AFTER[order])
            self._note(order, actor, reason)
        return self.standing()

    def check(self, kind: str, study: str, number: int | None) -> None:
        """Return if a frame of this kind may be answered now.

        Raises:
            AgentPaused: The hospital is paused, or the frame begins something while it drains.
            SiteLeft: It has left.
        """
        state = self.standing().state
        if state == "running":
            return
        if state == "left":
            raise SiteLeft
        if state in ENDS and kind in FINISHING and (study, number) in self._under_way():
            return
        raise AgentPaused(state)

    def _check(self, order: Order, actor: Actor) -> None:
        comes_back = order == "resume" and self.standing().state in {"leaving", "left"}
        leaves = order == "leave" or comes_back
        permission = Permission.LEAVE_FEDERATION if leaves else Permission.PAUSE_SITE
        self._record.check(actor, permission, self._site, self._clock())

    def _note(self, order: Order, actor: Actor, reason: str) -> None:
        now = self._clock()
        self._record.add(RECORDED[order], SUBJECT, who=actor.shown, reason=reason, now=now)

    def _set(self, state: DutyState) -> Standing:
        at = instant(self._clock())
        with writing(self._engine) as connection:
            connection.execute(DUTY.delete())
            connection.execute(DUTY.insert().values(one=1, state=state, at=at))
        return Standing(state, at)
