"""How a run stands now: its round, phase, sites and the time that is left, drawn from its events.

Whoever looks at a run folds the events that the engine wrote (``fl_server.live``); nothing here is
stored.

What holds, a test in tests/fl_server/test_live.py:

1. The time that is left is the median of earlier rounds for each round that is left, less what this
   one took so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from fl_server.live import RunEvent, RunEvents
from fl_server.store import ServerStore
from protocol.ids import SiteId


@dataclass(frozen=True)
class SiteNow:
    """How one site stands: its last event.

    ``state`` is ``absent`` (nothing heard of it yet), ``joined``, ``asked`` (its answer to the
    present phase has not come), ``answered``, ``refused`` or ``late``; ``bytes`` and ``seconds``
    are those of its last answer, ``code`` that of its last refusal.
    """

    state: str = "absent"
    round: int = 0
    phase: str = ""
    code: str = ""
    seconds: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class RunSummary:
    """How a run stands.

    ``state`` is ``waiting`` (no server has begun), ``running``, ``finished``, or the code of the
    error a server ended with; a server that was killed leaves ``running``. ``metrics`` are by round
    and name. ``position`` is that of the last event it was made from.
    """

    run: str
    study: str
    rounds_done: int
    rounds_total: int
    round: int
    phase: str
    state: str
    sites: Mapping[SiteId, SiteNow]
    eta_seconds: float | None
    deadline_seconds: float | None = None
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    position: int = 0


def summary(store: ServerStore) -> RunSummary:
    """Return how the run in ``store`` stands now, from its events.

    Raises:
        StorageError: The database cannot be read.
    """
    terms = store.terms()
    drawn = _Drawing()
    for event in _all(store.events):
        drawn.add(event)
    done = store.rounds_closed()
    total = 0 if terms is None else terms.rounds
    names = () if terms is None else tuple(one.site for one in terms.sites)
    return RunSummary(
        run=store.run(),
        study="" if terms is None else terms.study,
        rounds_done=done,
        rounds_total=total,
        round=drawn.round,
        phase=drawn.phase,
        state="finished" if total and done == total else drawn.state,
        sites={site: drawn.site_now(site) for site in names},
        eta_seconds=drawn.eta(total - done),
        deadline_seconds=drawn.deadline,
        metrics=drawn.metrics,
        position=drawn.position,
    )


class _Drawing:
    """Folds events into how things stand."""

    def __init__(self) -> None:
        self.state, self.round, self.phase, self.position = "waiting", 0, "", 0
        self.deadline: float | None = None
        self.sites: dict[SiteId, SiteNow] = {}
        self.metrics: dict[int, dict[str, float]] = {}
        self._took: list[float] = []
        self._phases: dict[str, float] = {}  # how long each phase of this round has lasted

    def add(self, event: RunEvent) -> None:
        self.position = event.position
        if event.kind == "run":
            self.state = "running" if event.code == "started" else event.code
            self._phases = {}
        elif event.kind == "phase":
            if event.round != self.round:
                self._phases = {}
            self.round, self.phase = event.round, event.phase
            self.deadline = event.numbers.get("deadline_seconds")
        elif event.kind == "closed":
            self._took.append(event.seconds or 0.0)
            self._phases = {}
        elif event.kind == "metrics":
            self.metrics.setdefault(event.round, {}).update(event.numbers)
        elif event.site is not None:
            state = event.kind
            self.sites[event.site] = SiteNow(
                state, event.round, event.phase, event.code, event.seconds, event.bytes
            )
        if event.kind not in {"closed", "metrics"} and event.seconds and event.round == self.round:
            before = self._phases.get(event.phase, 0.0)
            self._phases[event.phase] = max(before, event.seconds)

    def site_now(self, site: SiteId) -> SiteNow:
        now = self.sites.get(site, SiteNow())
        here = (now.round, now.phase) == (self.round, self.phase)
        asking = self.phase in {"uploads", "unmasking", "opening"} and self.state == "running"
        if now.state == "absent" or here or not asking:
            return now
        return SiteNow("asked", self.round, self.phase, now.code, now.seconds, now.bytes)

    def eta(self, left: int) -> float | None:
        if left <= 0:
            return 0.0
        if not self._took:
            return None
        return max(0.0, left * median(self._took) - sum(self._phases.values()))


def _all(events: RunEvents) -> list[RunEvent]:
    found: list[RunEvent] = []
    while page := events.since(found[-1].position if found else 0):
        found += page
    return found
