"""The engine's voice: every step goes to the progress it was given and to the run's events.

Steps carry words for the operator's terminal; events do not (``fl_server.live``), so of a step only
its kind, site, code and numbers become one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fl_server.live import Kind, RunEvent, RunEvents
from fl_server.phases import Phase
from protocol.ids import SiteId
from protocol.progress import Progress, Step

_ANSWERS: Final[Mapping[str, Kind]] = {
    "join": "joined",
    "call": "answered",
    "endorse": "answered",
    "unmask": "answered",
    "share": "answered",
    "open": "answered",
}
CODE_MAX: Final = 60


@dataclass
class Reporter:
    """Says what a run does; knows which phase it is in and since when."""

    events: RunEvents
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    round: int = field(default=0, init=False)
    phase: Phase = field(default="roster", init=False)
    _since: float = field(default=0.0, init=False)
    _round_since: float = field(default=0.0, init=False)

    def __call__(self, step: Step) -> None:
        """Pass a step on; keep of it what belongs into an event."""
        self.progress(step)
        kind = _ANSWERS.get(step.stage)
        if kind is not None and step.site is not None:
            self._tell(kind, step.site)
        elif step.stage == "decline" and step.site is not None:
            self._tell("refused", step.site, code=step.note.rpartition(": ")[2])

    def run(self, code: str) -> None:
        """Say that a server began or ended."""
        self.events.append(RunEvent("run", self.round, code=code[:CODE_MAX]))

    def enter(
        self, number: int, phase: Phase, *, deadline: float, quorum: int = 0, asked: int = 0
    ) -> None:
        """Say that a phase was entered, and until when it may last."""
        now = self.clock()
        if phase == "roster" or number != self.round:
            self._round_since = now
        self.round, self.phase, self._since = number, phase, now
        numbers = {"deadline_seconds": deadline, "quorum": float(quorum), "asked": float(asked)}
        self.events.tell(RunEvent("phase", number, phase, numbers=numbers))

    def uploaded(self, site: SiteId, size: int) -> None:
        """Say that an update was accepted."""
        self._tell("answered", site, size=size)

    def refused(self, site: SiteId, code: str) -> None:
        """Say that an answer was refused, or that there was none."""
        self._tell("refused", site, code=code)

    def late(self, number: int, site: SiteId, code: str, size: int) -> None:
        """Say that a reply came which does not count."""
        self.events.append(
            RunEvent("late", number, self.phase, site, code=code[:CODE_MAX], bytes=size)
        )

    def closed(self, number: int, *, receipts: int) -> None:
        """Say that a round was closed, and how long it took."""
        code = "with-update" if receipts else "without-update"
        seconds = self.clock() - self._round_since
        self.events.tell(RunEvent("closed", number, "closing", code=code, seconds=seconds))

    def _tell(self, kind: Kind, site: SiteId, *, code: str = "", size: int | None = None) -> None:
        seconds = self.clock() - self._since
        self.events.tell(
            RunEvent(
                kind,
                self.round,
                self.phase,
                site,
                code=code[:CODE_MAX],
                seconds=seconds,
                bytes=size,
            )
        )
