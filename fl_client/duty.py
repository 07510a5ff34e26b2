"""Whether this hospital takes part right now: its operator may stop it at any time.

::

    running ──pause──▶ paused ──resume──▶ running
       ├────drain──▶ draining ──(no round under way)──▶ paused
       └────leave──▶ leaving  ──(no round under way)──▶ left ──resume──▶ running

*paused* answers every frame with a refusal. *draining* and *leaving* still answer what a round
under way needs to be opened, and nothing else: a round is under way from this hospital's update to
the opening of the sum. A round that its server abandons is waited for an hour.

The state outlives the process, so that a restart resumes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, cast

import sqlalchemy as sa

from fl_client.tables import DUTY, METADATA
from protocol.errors import FederationError
from protocol.jobs import instant, moment_of
from storage.database import open_database, reading, writing

DutyState = Literal["running", "draining", "paused", "leaving", "left"]
Order = Literal["pause", "resume", "drain", "leave"]
DRAIN_MAX: Final = timedelta(hours=1)
FINISHING: Final = frozenset({"train", "endorse", "unmask", "share", "open"})
"""The frames that a round under way still needs."""
AFTER: Final[dict[Order, DutyState]] = {
    "pause": "paused",
    "resume": "running",
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
    """The state of one hospital's agent, in its database."""

    def __init__(
        self, path: Path, *, clock: Callable[[], datetime], under_way: Callable[[], Rounds]
    ) -> None:
        self._engine = open_database(path, METADATA, private=True)
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

    def order(self, order: Order) -> Standing:
        """Obey the operator; return the state after it."""
        self._set(AFTER[order])
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

    def _set(self, state: DutyState) -> Standing:
        at = instant(self._clock())
        with writing(self._engine) as connection:
            connection.execute(DUTY.delete())
            connection.execute(DUTY.insert().values(one=1, state=state, at=at))
        return Standing(state, at)
