"""Keep a table of processes running: start them in order, see them ready, start them again.

::

    waiting ──▶ starting ──▶ ready ──┬──▶ done      (exit 0 of a unit that ends)
                   ▲  │              │
                   │  └──────────────┴──▶ backing-off ──▶ starting
                   │                           └─ too often ─▶ failed ─ every five minutes ─┐
                   └──────────────────────────────────────────────────────────────────────┘

One supervisor works in a folder at a time (an advisory lock). What it knows is in
``FOLDER/state.json``, written whole at each change, for ``bithive status``. SIGTERM stops all in
reverse order; SIGHUP starts what waits or failed now instead of later.

What holds, each line a test in tests/portal/deployment/test_supervisor.py:

1. A process that ends is started again, later each time, and never given up.
2. A unit is first started when those it waits for are ready.
3. No process outlives the supervisor: it asks the kernel to end them when it dies itself.
4. Whatever a process left behind, in its group or in a session of its own, is ended before it is
   started again and when all is stopped: an orphan holds no port and runs no study.

References:
    prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from portal.deployment.backoff import Backoff
from portal.deployment.hold import STATE, hold
from portal.deployment.rotation import last_error, rotate
from portal.deployment.units import FileThere, Unit, in_order
from protocol.errors import StorageError
from storage.files import PRIVATE, private_folder, write_whole

TICK_SECONDS: Final = 0.1
STOP_SECONDS: Final = 15.0
ROTATE_SECONDS: Final = 30.0
PR_SET_PDEATHSIG: Final = 1
MARK: Final = "BITHIVE_UNIT"
"""In the environment of a unit's processes, by which those it left behind are found."""


@dataclass
class Row:
    """What is known of one unit; a row of the table in ``state.json``."""

    name: str
    address: str
    state: str = "waiting"
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    since: str = ""
    error: str = ""


@dataclass
class _Watched:
    unit: Unit
    row: Row
    process: subprocess.Popen[bytes] | None = None
    ends: int = 0
    started: float = 0.0
    due: float = 0.0
    stamps: dict[Path, float] = field(default_factory=dict)


class Supervisor:
    """The table and its one loop.

    Args:
        folder: For logs, state and the lock; made where it is missing.
        units: What to run.
        root: The working folder of every process.
        backoff: When to start again.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        units: Iterable[Unit],
        *,
        root: Path,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = private_folder(folder)
        self._logs = private_folder(folder / "logs")
        self._root = root
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._table = {
            unit.name: _Watched(unit, Row(unit.name, unit.address)) for unit in in_order(units)
        }
        self._libc = ctypes.CDLL(None)
        self._stopping = False
        self._hurry = False
        self._written = ""
        self._rotated = clock()

    def run(self) -> None:
        """Keep the table running until ``stop``.

        Raises:
            AlreadySupervised: Another one works in the folder.
        """
        with hold(self._folder):
            for name in self._table:  # what a killed supervisor left
                end_marked(mark_of(self._folder, name))
            try:
                while not self._stopping:
                    self.step()
                    time.sleep(TICK_SECONDS)
            finally:
                self._stop_all()

    def stop(self, *_: object) -> None:
        """Let ``run`` stop all and return; safe in a signal handler."""
        self._stopping = True

    def hurry(self, *_: object) -> None:
        """Start now what waits to be started again; safe in a signal handler."""
        self._hurry = True

    def step(self) -> None:
        """Look at every unit once and do what is due."""
        now = self._clock()
        if self._hurry:
            self._hurry = False
            for one in self._table.values():
                one.ends = 0
                one.due = now
        for one in self._table.values():
            self._look(one, now)
        if now - self._rotated >= ROTATE_SECONDS:
            self._rotated = now
            for log in self._logs.glob("*.log"):
                rotate(log)
        self._write()

    def rows(self) -> list[Row]:
        """Return the table in start order."""
        return [one.row for one in self._table.values()]

    def _look(self, one: _Watched, now: float) -> None:
        if one.process is None:
            if one.row.state != "done" and now >= one.due and self._may_start(one.unit):
                self._start(one, now)
            return
        code = one.process.poll()
        if code is not None:
            self._ended(one, code, now)
        elif one.row.state == "starting":
            if one.unit.ready():
                self._enter(one, "ready")
            elif now - one.started > one.unit.start_seconds:
                _signal_group(one.process.pid, signal.SIGKILL)
        else:
            self._reload(one)

    def _may_start(self, unit: Unit) -> bool:
        known = [self._table[name].row.state for name in unit.after if name in self._table]
        return all(state in {"ready", "done"} for state in known)

    def _start(self, one: _Watched, now: float) -> None:
        if isinstance(one.unit.ready, FileThere):
            one.unit.ready.path.unlink(missing_ok=True)
        one.stamps = {path: _stamp(path) for path in one.unit.reload_on}
        one.started = now
        try:
            with _appended(self._log(one.unit)) as log:
                one.process = subprocess.Popen(  # noqa: S603  # our own commands
                    one.unit.command,
                    cwd=self._root,
                    env={
                        **os.environ,
                        **one.unit.environment,
                        MARK: mark_of(self._folder, one.unit.name),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self._end_with_us,  # noqa: PLW1509  # this process has one thread
                )
        except OSError as error:
            self._count_end(one, now, f"could not be started: {error}")
            return
        one.row.pid = one.process.pid
        one.row.exit_code = None
        self._enter(one, "starting")

    def _ended(self, one: _Watched, code: int, now: float) -> None:
        assert one.process is not None
        _signal_group(one.process.pid, signal.SIGKILL)  # what it left of its group
        end_marked(mark_of(self._folder, one.unit.name))
        one.process = None
        one.row.pid = None
        one.row.exit_code = code
        if one.unit.ends and code == 0:
            self._enter(one, "done")
            return
        self._count_end(one, now, last_error(self._log(one.unit)))

    def _count_end(self, one: _Watched, now: float, error: str) -> None:
        one.ends = self._backoff.ends_after(one.ends, now - one.started)
        one.due = now + self._backoff.wait(one.ends)
        one.row.restarts += 1
        one.row.error = error
        self._enter(one, "failed" if self._backoff.is_loop(one.ends) else "backing-off")

    def _reload(self, one: _Watched) -> None:
        for path, seen in one.stamps.items():
            stamp = _stamp(path)
            if stamp != seen and one.process is not None:
                one.stamps[path] = stamp
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(signal.SIGHUP)

    def _enter(self, one: _Watched, state: str) -> None:
        one.row.state = state
        one.row.since = datetime.now(UTC).isoformat(timespec="seconds")

    def _stop_all(self) -> None:
        for one in reversed(self._table.values()):
            process = one.process
            if process is None:
                self._enter(one, "stopped")
                continue
            _signal_group(process.pid, signal.SIGCONT)  # a stopped one could not hear us
            _signal_group(process.pid, signal.SIGTERM)
        deadline = self._clock() + STOP_SECONDS
        for one in self._table.values():
            if one.process is None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.1, deadline - self._clock()))
            _signal_group(one.process.pid, signal.SIGKILL)
            one.process.wait()
            end_marked(mark_of(self._folder, one.unit.name))
            one.row.exit_code = one.process.returncode
            one.process, one.row.pid = None, None
            self._enter(one, "stopped")
        self._write()

    def _write(self) -> None:
        rows = [asdict(one.row) for one in self._table.values()]
        text = json.dumps({"supervisor": os.getpid(), "units": rows}, indent=1)
        if text != self._written:
            # A full disk must not end the supervisor: the table is told again at the next change.
            with contextlib.suppress(StorageError):
                write_whole(self._folder / STATE, text.encode())
                self._written = text

    def _end_with_us(self) -> None:
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def _log(self, unit: Unit) -> Path:
        return self._logs / f"{unit.name}.log"


def mark_of(folder: Path, name: str) -> str:
    """Return what marks the processes of one unit."""
    return f"{folder.resolve()}/{name}"


def end_marked(mark: str) -> None:
    """End every process that inherited a unit's mark, whatever session it made for itself."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _stamp(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
