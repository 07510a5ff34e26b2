"""See a study through to its last round: keep a Flower run going, settle what closes.

A Flower run ends when its SuperLink dies, and is then failed for ever. The study is not: rounds,
receipts and phases are in the server's own database, and a new Flower run on the same folder goes
on where the last one was. So this process looks at the SuperLink every second or so and starts a
run whenever the study has rounds left and no run is going.

A study is started by a person (``bithive study start``), which leaves a file in the server's
folder; until then nothing runs, whatever else is up. ``bithive study stop`` takes the file away:
the Flower run is ended within seconds, and none follows until the study is started again. Its
rounds are kept, and one that was under way goes on then.

What holds, each line a test in tests/federation/test_up.py:

1. At most one Flower run of the study goes at a time.
2. A run that ended early is followed by another, later each time.
3. Every closed round is settled once, in order.
4. Nobody starts or stops the study without the right to, and a stopped study has no run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from fl_server.lease import Lease
from fl_server.offering import check_offering
from identity.roles import Actor, Permission
from marketplace.settlement import Settlement
from portal.deployment.backoff import Backoff
from portal.deployment.loopback import SuperLinkSilent, control, start_run
from portal.deployment.plan import Plan
from portal.home import Home, Settings
from portal.market import BUDGET, SERVER, Market
from portal.study_rights import check_may, note
from protocol.errors import ConfigurationError, storage_error
from protocol.messages import RoundClosed
from protocol.terms import StudyTerms
from protocol.units import BASE_UNITS_PER_BTT
from storage.files import write_whole

if TYPE_CHECKING:
    from fl_server.store import ServerStore

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


class StudyNotStarted(ConfigurationError):
    """The study does not run, so that there is nothing to stop."""

    code = "study-not-started"

    def __init__(self, home: Path) -> None:
        super().__init__(f"the study of {home} is not started; start it with `bithive study start`")


def start_study(plan: Plan, actor: Actor) -> None:
    """Say that the study may run.

    Raises:
        PermissionMissing: The actor may not submit a study.
        ServerFolderIncomplete: There is no study yet.
        OfferedCodeChanged: Its code was changed since it was founded.
        StudyRunning: It was said before.
    """
    check_may(plan.home, actor, Permission.SUBMIT_STUDY)
    _open_store(plan)
    check_offering(plan.server)
    file = started_file(plan)
    if file.is_file():
        raise StudyRunning(plan.home)
    note(plan.home, "study-started", actor)
    write_whole(file, b"started\n")


def stop_study(plan: Plan, actor: Actor) -> None:
    """Say that the study may run no more; who sees it through ends its Flower run.

    Raises:
        PermissionMissing: The actor may not stop it.
        StudyNotStarted: It does not run.
    """
    check_may(plan.home, actor, Permission.STOP_RUN)
    try:
        started_file(plan).unlink()
    except FileNotFoundError:
        raise StudyNotStarted(plan.home) from None
    except OSError as error:
        raise storage_error(error, STARTED) from error
    note(plan.home, "study-stopped", actor)


def started_file(plan: Plan) -> Path:
    """Return the file that says that a person started the study."""
    return plan.server / STARTED


@dataclass(frozen=True)
class Kept:
    """What a study is seen through with: the server's rounds and the market, no hospital's folder.

    ``after`` is told of each settled round: a demonstration, which has test records and patients
    of its own, judges the model and lets them withdraw.
    """

    terms: StudyTerms
    store: ServerStore
    market: Market
    after: Callable[[RoundClosed, Settlement], None]


def keep_study(plan: Plan, stop: threading.Event) -> None:
    """Wait for the study's start and see it through, until it is done or ``stop``."""
    ended = False
    while not started_file(plan).is_file():
        ended = ended or _end_runs(plan)
        if stop.wait(LOOK_SECONDS):
            return
    kept = open_kept(plan)
    log.info(
        "study %s: %d of %d rounds closed",
        kept.terms.study,
        kept.store.rounds_closed(),
        kept.terms.rounds,
    )
    runs = _Runs(plan, Lease(kept.store.database, kept.store.run()).standing)
    settled = 0
    while settled < kept.terms.rounds and not stop.is_set():
        settled = settle_closed(kept, settled)
        if kept.store.rounds_closed() < kept.terms.rounds:
            runs.look(wanted=started_file(plan).is_file())
        stop.wait(LOOK_SECONDS)
    if settled == kept.terms.rounds:
        kept.market.finish()
        log.info("study %s: done", kept.terms.study)


def settle_closed(kept: Kept, settled: int) -> int:
    """Settle every closed round after number ``settled``; return the last that is."""
    while settled < kept.store.rounds_closed():
        stored = kept.store.round(settled + 1)
        assert stored is not None
        assert stored.closed is not None
        kept.after(stored.closed, kept.market.settle(stored.closed, actor=SERVER))
        kept.store.settled(settled + 1)
        settled += 1
        log.info("round %d of %d is closed and settled", settled, kept.terms.rounds)
    return settled


def open_kept(plan: Plan) -> Kept:
    """Open what the study is seen through with.

    A home with ``settings.json`` is a demonstration's; any other is a server of its own.

    Raises:
        ServerFolderIncomplete: The study was not founded.
    """
    from portal.jobs import price_of  # noqa: PLC0415  # likewise

    home = Home(plan.home)
    settings = home.settings()
    if settings is not None:
        return _demonstration(home, Settings(**settings))
    store = _open_store(plan)
    terms = store.terms()
    assert terms is not None
    price = price_of(home)
    market = Market(
        home.market, terms, lambda: datetime.now(UTC), budget=BUDGET if price is None else price
    )
    return Kept(terms, store, market, after=_say_settled)


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

    def look(self, *, wanted: bool = True) -> None:
        """Start a run where none is going and the last one's end is long enough ago.

        Where the study was stopped no run is wanted, and those that go are ended.
        """
        now = self._clock()
        if now < self._due:
            return
        try:
            with control(self._plan.flower, self._plan.superlink_port) as superlink:
                going = [one for one in superlink.runs() if not one.is_over]
                gone = self._engine_is_gone()
                if going and not gone:
                    self._last_seen = now
                for extra in going if gone or not wanted else going[1:]:
                    superlink.stop(extra.id)
            self._due = now + RUNS_LOOK_SECONDS
            if not wanted:
                self._rest()
            elif gone or not going:
                self._start(now)
        except SuperLinkSilent as error:
            log.warning("%s: %s", error.code, error)
            self._due = now + RUNS.first_seconds

    def _engine_is_gone(self) -> bool:
        standing = self._standing()
        self._seen_held = self._seen_held or standing == "held"
        return self._seen_held and standing == "ended"

    def _rest(self) -> None:
        """Forget the runs that were: after a stop the next one is no try again, and waits not."""
        self._seen_held, self._ends, self._began = False, 0, None

    def _start(self, now: float) -> None:
        self._seen_held = False
        # Counted before it goes: whatever ends it, the next one is later.
        if self._began is not None:
            self._ends = RUNS.ends_after(self._ends, self._last_seen - self._began)
        self._began = self._last_seen = now
        if self._ends:
            self._due = now + max(RUNS_LOOK_SECONDS, RUNS.wait(self._ends))
        home = self._plan.server.resolve()
        start_run(self._plan.flower, self._plan.superlink_port, {"home": str(home)})
        log.info("started a Flower run")


def _end_runs(plan: Plan) -> bool:
    """End the runs of a study that was stopped while nobody looked; say whether that was done."""
    try:
        with control(plan.flower, plan.superlink_port) as superlink:
            for one in superlink.runs():
                if not one.is_over:
                    superlink.stop(one.id)
    except SuperLinkSilent:
        return False
    return True


def _open_store(plan: Plan) -> ServerStore:
    from fl_server.app import open_store  # noqa: PLC0415  # it brings all that trains

    return open_store(plan.server)


def _say_settled(closed: RoundClosed, settlement: Settlement) -> None:
    """Say what a server knows of a round without any records."""
    log.info(
        "round %d: %d updates, %d refused, paid %s BTT",
        closed.round,
        len(closed.receipts),
        len(closed.refused),
        f"{settlement.paid / BASE_UNITS_PER_BTT:,.2f}",
    )


def _demonstration(home: Home, settings: Settings) -> Kept:
    from portal.demo import after_settling, prepare  # noqa: PLC0415  # it brings all that trains
    from portal.display import Display  # noqa: PLC0415

    display = Display(Console(stderr=True), quiet=True)
    run = prepare(home, settings, display, hospitals=False)
    return Kept(
        run.terms,
        run.store,
        run.market,
        after=lambda closed, settlement: after_settling(run, closed, settlement),
    )
