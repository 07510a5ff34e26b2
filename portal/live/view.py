"""What a run looks like after its events so far: rounds, phase, sites, curves, time left.

``View`` is folded from events, one at a time, and never from anything else, so that everybody who
has read the same events sees the same. The page's script (``static/fold.js``) folds alike.

    >>> from datetime import UTC
    >>> noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    >>> def at(second, position, kind, round, **rest):
    ...     return LiveEvent(position, noon + timedelta(seconds=second), kind, round, **rest)
    >>> view = View()
    >>> for event in (at(0, 1, "run", 0, code="started", rounds=3),
    ...               at(0, 2, "phase", 1, phase="uploads"),
    ...               at(20, 3, "closed", 1, seconds=20.0),
    ...               at(20, 4, "phase", 2, phase="uploads")):
    ...     view = view.after(event)
    >>> view.closed, view.total, view.remaining(noon + timedelta(seconds=25))
    (1, 3, 35.0)

What holds (tests/portal/test_live_view.py):

1. An event that was folded before changes nothing: a reader that resumes may see one twice.
2. Folding a then b equals folding both.
3. The time left is never negative, and known as soon as one round was closed.
4. After the last round no hospital stands as refused: how it fared is in the rounds and the report.

The time left: a round takes as long as the median of the last ``RECENT`` closed ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from portal.live.events import MEASURES, LiveEvent
from protocol.ids import SiteId

RECENT: Final = 5
ASKING: Final = ("roster", "uploads", "unmasking", "opening")
"""Phases in which every site that is there has a question."""
ANSWERED: Final = {
    "roster": "called",
    "uploads": "accepted",
    "unmasking": "unmasked",
    "opening": "opened",
}
COUNTED: Final = (*ANSWERED.values(), "answered", "refused")
STARTED: Final = "started"
DONE: Final = "done"
FINISHED: Final = "finished"
"""The outcome after which nothing follows; a run that failed may be gone on with."""


@dataclass(frozen=True)
class SiteRow:
    """One hospital: its last event, and what it has sent in all."""

    state: str = "absent"
    round: int = 0
    phase: str | None = None
    code: str | None = None
    """Of its refusal in this round, where there was one."""
    seconds: float | None = None
    bytes: int = 0
    """Of all its answers in all rounds."""


@dataclass(frozen=True)
class RoundRow:
    """One round, under way or closed."""

    began: datetime
    closed: bool = False
    seconds: float | None = None
    updates: int = 0
    refused: int = 0
    bytes: int = 0
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A run after some events.

    ``outcome`` is ``finished`` or ``failed``, with the ``code`` of why; ``answers`` of ``asked``
    sites have answered in the present phase.
    """

    position: int = 0
    total: int = 0
    """Rounds of the study; 0 while no event said."""
    round: int = 0
    phase: str | None = None
    asked: int = 0
    answers: int = 0
    outcome: str | None = None
    code: str | None = None
    began: datetime | None = None
    last: datetime | None = None
    sites: dict[SiteId, SiteRow] = field(default_factory=dict)
    rounds: dict[int, RoundRow] = field(default_factory=dict)

    @property
    def closed(self) -> int:
        """How many rounds are closed."""
        return sum(one.closed for one in self.rounds.values())

    @property
    def bytes(self) -> int:
        """What all hospitals have sent."""
        return sum(one.bytes for one in self.sites.values())

    @property
    def measure(self) -> str | None:
        """The name of the measure to draw, None where none is known."""
        found = {name for one in self.rounds.values() for name in one.measures}
        return next((name for name in MEASURES if name in found), None)

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return a measure's (round, value), or the ``seconds`` of closed rounds, by round."""
        found = {number: self.rounds[number] for number in sorted(self.rounds)}
        if name == "seconds":
            return [(n, one.seconds) for n, one in found.items() if one.seconds is not None]
        return [(n, one.measures[name]) for n, one in found.items() if name in one.measures]

    def state(self, site: SiteId) -> str:
        """Return how a site stands: its last word, or that an answer of it is awaited.

        Once the run is finished nothing is wrong with anybody: who took part is ``done``.
        """
        row = self.sites[site]
        if self.outcome == FINISHED and row.state != "absent":
            return DONE
        here = (row.round, row.phase) == (self.round, self.phase)
        awaited = self.phase in ASKING and self.outcome is None and not here
        if awaited and row.state != "absent":
            return "training" if self.phase == "uploads" else "asked"
        return row.state

    def refusal(self, site: SiteId) -> str | None:
        """Return the code of a site's refusal in this round; None once the run is finished."""
        return None if self.outcome == FINISHED else self.sites[site].code

    def round_seconds(self) -> float | None:
        """Return how long a round takes, None before one was closed."""
        known = [seconds for _, seconds in self.curve("seconds")]
        return statistics.median(known[-RECENT:]) if known else None

    def remaining(self, now: datetime) -> float | None:
        """Return the seconds that are left at ``now``; None where that cannot be known."""
        each = self.round_seconds()
        if self.outcome == FINISHED:
            return 0.0
        if each is None or self.last is None or not self.total or self.outcome is not None:
            return None
        present = self.rounds.get(self.round)
        since = self.last if present is None or present.closed else present.began
        end = since + timedelta(seconds=each * (self.total - self.closed))
        return max((end - now).total_seconds(), 0.0)

    def body(self) -> dict[str, Any]:
        """Return the view as the page's script holds it: times in milliseconds since 1970."""
        return vars(self) | {
            "began": milliseconds(self.began),
            "last": milliseconds(self.last),
            "sites": {site: vars(self.sites[site]) for site in sorted(self.sites)},
            "rounds": {
                str(number): vars(row) | {"began": milliseconds(row.began)}
                for number, row in sorted(self.rounds.items())
            },
        }

    def all_after(self, events: Iterable[LiveEvent]) -> View:
        """Fold several events."""
        view = self
        for event in events:
            view = view.after(event)
        return view

    def after(self, event: LiveEvent) -> View:
        """Fold one event; one that was folded before changes nothing."""
        if event.position <= self.position:
            return self
        view = replace(self, position=event.position, began=self.began or event.at, last=event.at)
        if event.kind == "run":
            return _run_after(view, event)
        if event.round > 0:
            row = _round_after(view.rounds.get(event.round, RoundRow(event.at)), event)
            rounds = view.rounds | {event.round: row}
            view = replace(view, rounds=rounds, round=max(view.round, event.round))
        if event.kind == "phase":
            asked = int(event.numbers.get("asked", 0))
            return replace(view, phase=event.phase, asked=asked, answers=0)
        if event.kind == "closed":
            return replace(view, phase=None, asked=0, answers=0)
        return _told_by_site(view, event)


def milliseconds(at: datetime | None) -> int | None:
    """Return a time as JavaScript counts it."""
    return None if at is None else round(at.timestamp() * 1000)


def _round_after(row: RoundRow, event: LiveEvent) -> RoundRow:
    if event.kind == "closed":
        return replace(row, closed=True, seconds=event.seconds)
    if event.kind == "refused":
        return replace(row, refused=row.refused + 1)
    if event.kind == "metrics":
        found = {name: value for name, value in event.numbers.items() if name in MEASURES}
        return replace(row, measures=row.measures | found)
    updates = row.updates + (event.kind == "answered" and event.phase == "uploads")
    return replace(row, updates=updates, bytes=row.bytes + (event.bytes or 0))


def _site_after(row: SiteRow, event: LiveEvent) -> SiteRow:
    state = ANSWERED.get(event.phase or "", "answered") if event.kind == "answered" else event.kind
    fresh = event.round > row.round
    return SiteRow(
        state=state,
        round=event.round,
        phase=event.phase,
        code=event.code or (None if fresh else row.code),
        seconds=row.seconds if event.seconds is None else event.seconds,
        bytes=row.bytes + (event.bytes or 0),
    )


def _run_after(view: View, event: LiveEvent) -> View:
    if event.code != STARTED:
        finished = event.code == FINISHED
        outcome, code = (FINISHED, None) if finished else ("failed", event.code)
        return replace(view, outcome=outcome, code=code, phase=None, asked=0, answers=0)
    sites = {site: view.sites.get(site, SiteRow()) for site in event.sites}
    total = event.rounds or view.total
    return replace(view, total=total, sites=view.sites | sites, outcome=None, code=None)


def _told_by_site(view: View, event: LiveEvent) -> View:
    if event.site is None:
        return view
    before = view.sites.get(event.site, SiteRow())
    row = _site_after(before, event)
    here = (event.round, event.phase) == (view.round, view.phase)
    # A phase may ask twice, to endorse and to unmask; the site is one.
    known = (before.round, before.phase) == (event.round, event.phase) and before.state in COUNTED
    counted = event.kind in {"answered", "refused"} and here and not known
    return replace(view, sites=view.sites | {event.site: row}, answers=view.answers + counted)
