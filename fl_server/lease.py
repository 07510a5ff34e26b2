"""One server at a time for a run: a lease with a heartbeat, and a fence that grows.

Who takes the lease raises its fence; every transaction of a server compares (``database.py``), so
a server that slept through its lease, or was cut off, writes nothing once another has the run. No
wall clock is compared with another: a contender watches the holder's count of heartbeats for
``seconds`` of its own monotonic clock. Where the holder was a process of this very machine that has
ended, it need not wait.

What holds, each a test in tests/fl_server/test_lease.py:

1. While a holder's heart beats every other server is refused (``run-busy``).
2. After ``kill -9`` on the same machine the run is taken over at once, elsewhere after ``seconds``.
3. Of two that take over at the same time one gets it.

References:
    Gray and Cheriton, Leases, SOSP 1989. The fence as in Chubby: Burrows, OSDI 2006, section 2.4
    ("sequencer").
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import sqlalchemy as sa

from fl_server.database import LeaseLost, ServerDatabase, lock
from fl_server.tables import LEASE
from protocol.errors import FederationError, StorageError
from storage.database import writing

LEASE_SECONDS: Final = 15.0
"""How long a holder whose heart does not beat keeps the run; a disk's longest stall is shorter."""
BEATS: Final = 5
"""Heartbeats in that time."""
_POLLS: Final = 20


class RunBusy(FederationError):
    """Another server works on this run."""

    code = "run-busy"

    def __init__(self, run: str, holder: str) -> None:
        self.run = run
        self.holder = holder
        super().__init__(
            f"run {run} is held by another server ({holder}); wait for it to end, or stop it"
        )


@dataclass(frozen=True)
class _Held:
    fence: int
    holder: str
    beat: int


@dataclass
class Lease:
    """A server's hold on the run of its database."""

    database: ServerDatabase
    run: str
    seconds: float = LEASE_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @contextmanager
    def held(self) -> Iterator[int]:
        """Hold the run for the block; yield the fence.

        Raises:
            RunBusy: Another server holds it.
            LeaseLost: Another server took it while this one was taking it.
            StorageError: The disk refused.
        """
        fence = self._take()
        self.database.fence = (self.run, fence)
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(fence, stop), daemon=True)
        if self.database.shared:  # nobody else can open a database in memory
            beating.start()
        try:
            yield fence
        finally:
            stop.set()
            if beating.ident is not None:
                beating.join()
            self.database.fence = None
            # Not given back, the lease lapses.
            with contextlib.suppress(StorageError, LeaseLost):
                self._write(fence, holder="")

    def standing(self) -> Literal["free", "held", "ended"]:
        """Say how the run is held: ``ended`` by a process of this machine that is gone."""
        found = self._read()
        if found is None or not found.holder:
            return "free"
        return "ended" if _has_ended(found.holder) else "held"

    def _take(self) -> int:
        me = _name_of_this_process()
        found = self._read()
        if found is not None and found.holder and not _has_ended(found.holder):
            found = self._watched(found)
        with writing(self.database.engine) as connection:
            lock(connection)
            now = self._row(connection)
            if now is None:
                connection.execute(LEASE.insert().values(run=self.run, fence=1, holder=me, beat=0))
                return 1
            if found is None or (now.fence, now.beat) != (found.fence, found.beat):
                raise RunBusy(self.run, now.holder)
            fence = now.fence + 1
            values = LEASE.update().where(LEASE.c.run == self.run)
            connection.execute(values.values(fence=fence, holder=me, beat=0))
        return fence

    def _watched(self, found: _Held) -> _Held:
        """Return what was found if its heart does not beat in the time it may take."""
        until = self.clock() + self.seconds
        while self.clock() < until:
            self.sleep(self.seconds / _POLLS)
            now = self._read()
            if now is None or now != found:
                if now is not None and not now.holder:
                    return now  # given back meanwhile
                raise RunBusy(self.run, found.holder)
        return found

    def _beat(self, fence: int, stop: threading.Event) -> None:
        while not stop.wait(self.seconds / BEATS):
            try:
                self._write(fence, holder=None)
            except LeaseLost:
                return  # the next transaction of the engine says so
            except StorageError:
                continue  # a full disk may have room again before the lease lapses

    def _write(self, fence: int, *, holder: str | None) -> None:
        with writing(self.database.engine) as connection:
            lock(connection)
            now = self._row(connection)
            if now is None or now.fence != fence:
                raise LeaseLost(self.run)
            named = now.holder if holder is None else holder
            values = LEASE.update().where(LEASE.c.run == self.run)
            connection.execute(values.values(beat=now.beat + 1, holder=named))

    def _read(self) -> _Held | None:
        with self.database.reading() as connection:
            return self._row(connection)

    def _row(self, connection: sa.Connection) -> _Held | None:
        row = connection.execute(sa.select(LEASE).where(LEASE.c.run == self.run)).first()
        return None if row is None else _Held(row.fence, row.holder, row.beat)


def _name_of_this_process() -> str:
    """Return machine boot, process namespace, pid, its start, and a word of its own."""
    pid = os.getpid()
    return " ".join([_machine(), str(pid), _start_of(pid) or "0", secrets.token_hex(4)])


def _has_ended(holder: str) -> bool:
    """Say whether a holder was a process of this machine that is gone."""
    parts = holder.split(" ")
    if len(parts) != 5 or " ".join(parts[:2]) != _machine() or not parts[2].isdigit():
        return False
    return _start_of(int(parts[2])) != parts[3]


def _machine() -> str:
    """Return this boot of this machine, and the namespace that process numbers are of."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no such files: nobody here can be found to have ended
        return f"{secrets.token_hex(16)} none"


def _start_of(pid: int) -> str | None:
    """Return when a process began, in ticks since boot; None where there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else fields[19]
