"""See a study through to its last round: keep a Flower run going, settle what closes.

A Flower run ends when its SuperLink dies, and is then failed for ever. The study is not: rounds,
receipts and phases are in the server's own database, and a new Flower run on the same folder goes
on where the last one was. So this process looks at the SuperLink every second or so and starts a
run whenever the study has rounds left and no run is going.

A study is started by a person (``bithive study start``), which leaves a file in the server's
folder; until then nothing runs, whatever else is up.

What holds, each line a test in tests/federation/test_up.py:

1. At most one Flower run of the study goes at a time.
2. A run that ended early is followed by another, later each time.
3. Every closed round is settled once, in order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from fl_server.lease import Lease
from portal.deployment.backoff import Backoff
from portal.deployment.loopback import SuperLinkSilent, control, start_run
from portal.deployment.plan import Plan
from portal.home import Home, Settings
from protocol.errors import ConfigurationError
from storage.files import write_whole

if TYPE_CHECKING:
    from portal.demo import Run

log = logging.getLogger("bithive.study")
LOOK_SECONDS: Final = 1.0
RUNS_LOOK_SECONDS: Final = 3.0
STARTED: Final = "study-started"
RUNS: Final = Backoff(first_seconds=1.0, most_seconds=30.0, failed_seconds=60.0)


class StudyRunning(ConfigurationError):
    """The study was started before."""

    code = "study-running"

    def __init__(self, home: Path) -> None:
        super().__init__(
            f"the study of {home} was started already; see it with `bithive study status`"
        )


def start_study(plan: Plan) -> None:
    """Say that the study may run.

    Raises:
        StudyRunning: It was said before.
    """
    file = started_file(plan)
    if file.is_file():
        raise StudyRunning(plan.home)
    write_whole(file, b"started\n")


def started_file(plan: Plan) -> Path:
    """Return the file that says that a person started the study."""
    return plan.server / STARTED


def keep_study(plan: Plan, stop: threading.Event) -> None:
    """Wait for the study's start and see it through, until it is done or ``stop``."""
    while not started_file(plan).is_file():
        if stop.wait(LOOK_SECONDS):
            return
    run = _opened(plan)
    log.info(
        "study %s: %d of %d rounds closed",
        run.terms.study,
        run.store.rounds_closed(),
        run.terms.rounds,
    )
    runs = _Runs(plan, Lease(run.store.database, run.store.run()).standing)
    settled = 0
    while settled < run.terms.rounds and not stop.is_set():
        settled = settle_closed(run, settled)
        if run.store.rounds_closed() < run.terms.rounds:
            runs.look()
        stop.wait(LOOK_SECONDS)
    if settled == run.terms.rounds:
        run.market.finish()
        log.info("study %s: done", run.terms.study)


def settle_closed(run: Run, settled: int) -> int:
    """Settle every closed round after number ``settled``; return the last that is."""
    from portal.demo import after_close  # noqa: PLC0415  # it brings all that trains

    while settled < run.store.rounds_closed():
        stored = run.store.round(settled + 1)
        assert stored is not None
        assert stored.closed is not None
        after_close(run, stored.closed)
        run.store.settled(settled + 1)
        settled += 1
        log.info("round %d of %d is closed and settled", settled, run.terms.rounds)
    return settled


class _Runs:
    """The Flower runs of the study: none, or the one that goes.

    Flower takes a minute to see that a run's process is gone; the lease of the study's database
    says so at once, if it was seen held since the run began.
    """

    def __init__(
        self,
        plan: Plan,
        standing: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._standing = standing
        self._clock = clock
        self._seen_held = False
        self._ends = 0
        self._due = 0.0
        self._began: float | None = None
        self._last_seen = 0.0

    def look(self) -> None:
        """Start a run where none is going and the last one's end is long enough ago."""
        now = self._clock()
        if now < self._due:
            return
        try:
            with control(self._plan.flower, self._plan.superlink_port) as superlink:
                going = [one for one in superlink.runs() if not one.is_over]
                gone = self._engine_is_gone()
                if going and not gone:
                    self._last_seen = now
                for extra in going if gone else going[1:]:
                    superlink.stop(extra.id)
            self._due = now + RUNS_LOOK_SECONDS
            if gone or not going:
                self._start(now)
        except SuperLinkSilent as error:
            log.warning("%s: %s", error.code, error)
            self._due = now + RUNS.first_seconds

    def _engine_is_gone(self) -> bool:
        standing = self._standing()
        self._seen_held = self._seen_held or standing == "held"
        return self._seen_held and standing == "ended"

    def _start(self, now: float) -> None:
        self._seen_held = False
        # Counted before it goes: whatever ends it, the next one is later.
        if self._began is not None:
            self._ends = RUNS.ends_after(self._ends, self._last_seen - self._began)
        self._began = self._last_seen = now
        if self._ends:
            self._due = now + max(RUNS_LOOK_SECONDS, RUNS.wait(self._ends))
        home = self._plan.server.resolve()
        start_run(self._plan.flower, self._plan.folder / "logs" / "flwr.log", {"home": str(home)})
        log.info("started a Flower run")


def _opened(plan: Plan) -> Run:
    from portal.demo import prepare  # noqa: PLC0415  # it brings all that trains
    from portal.display import Display  # noqa: PLC0415

    home = Home(plan.home)
    kept = home.settings()
    assert kept is not None
    return prepare(home, Settings(**kept), Display(Console(stderr=True), quiet=True))
