"""Do a part of the work in other processes, where a library would hold up every other thread.

SEAL's bindings keep Python's interpreter lock while they encrypt and decrypt, so threads only wait
for one another. ``spread`` gives each job but the first to a process of its own, does the first
here, and returns the results in order. Where there is no other process, it does every job here::

    this process      job 0 ───────────┐
    worker 1          job 1 ─────────┐ │  ──▶ [result 0, result 1]
                      └─ a socket ───┘

    >>> parts(100, each_at_least=40, workers=2)
    [slice(0, 50, None), slice(50, 100, None)]
    >>> spread(sum, [[1, 2], [3, 4]])
    [3, 7]

A worker is started the first time work is large enough and kept, as starting one takes longer than
what it saves once. Work does not wait for one that is still starting. Workers are separate programs
and not forks, so they copy no memory, no lock and no random stream, and they run nothing of the
program's main module. They end when this process does, however it does.

Jobs hold keys and unencrypted slots. They go through an unnamed socket to a process of the same
owner on the same machine and are never written to a disk; who may read that process's memory may
read this one's. Both ends are our own code, so what arrives is unpickled.

What holds, each a test in tests/privacy/test_workers.py:

1. The results are those of doing every job here, whichever workers die, fail or never answer.
2. A job that raises, raises here.
3. A forked process never talks to its parent's workers.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Final, TypeVar

from protocol.errors import ConfigurationError

VARIABLE: Final = "BITHIVE_WORKERS"
"""The environment variable that says how many processes to use, this one included; 0 or 1: one."""
WORKERS_MAX: Final = 16
AUTOMATIC_MAX: Final = 4
"""Processes used without being asked: feeding more of them takes longer than what they do."""
WAIT_SECONDS: Final = 60.0
"""How much longer than this process for its own job a worker may take for one as large."""
_FAILED: Final = b""
"""The answer when a job raised or its worker is gone; no pickle is empty."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkersUnusable(ConfigurationError):
    """The number of processes asked for is none."""

    code = "workers-unusable"

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"{VARIABLE} is {found!r}; set it to a number of processes from 0 to {WORKERS_MAX}, "
            "or remove it to let BitHive choose"
        )


def parts(count: int, *, each_at_least: int, workers: int | None = None) -> list[slice]:
    """Return ``count`` rows of work cut into equal parts, one for each process to use.

    Args:
        count: Rows, at least 1.
        each_at_least: Rows below which a part costs more to send than it saves.
        workers: How many processes to use, this one included, however small the parts; when not
            given, what ``BITHIVE_WORKERS`` says; when that is not set, as many as there are
            processors to run on and parts of ``each_at_least``.

    Raises:
        WorkersUnusable: The environment variable is not a number of processes.
    """
    assert count >= 1
    assert each_at_least >= 1
    wanted = workers if workers is not None else _from_environment()
    if wanted is None:
        wanted = min(_processors(), AUTOMATIC_MAX, count // each_at_least)
    number = max(1, min(wanted, count))
    edges = [count * i // number for i in range(number + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def spread(
    task: Callable[[Job], Result], jobs: Sequence[Job], *, wait: bool = False
) -> list[Result]:
    """Return ``[task(job) for job in jobs]``, done by as many processes as there are jobs.

    Args:
        task: A function of a module, found again by its name.
        jobs: About equally large; they and their results can be pickled.
        wait: Whether to wait for workers that are still starting rather than do without them.

    Raises:
        Exception: What ``task`` raises here, for the first job that it raises for.
    """
    if len(jobs) < 2:
        return [task(job) for job in jobs]
    crew = _crew(os.getpid())
    if not crew.lock.acquire(blocking=False):  # another thread's work has them
        return [task(job) for job in jobs]
    try:
        return crew.run(task, jobs, wait=wait)
    finally:
        crew.lock.release()


def usable_workers() -> int:
    """Return how many processes work may be spread over, this one included."""
    wanted = _from_environment()
    return wanted if wanted is not None else min(_processors(), AUTOMATIC_MAX)


class _Worker:
    """One other process, which does one job at a time."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        """Start it on importing what ``task`` needs; it says when it has."""
        ours, theirs = Pipe()
        command = [sys.executable or "", "-P", "-m", __name__, str(theirs.fileno())]
        path = os.pathsep.join(folder or "." for folder in sys.path)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._connection = ours
        self._starting = True
        self._connection.send(task)

    def ready(self, *, wait: bool) -> bool:
        """Say whether it can take a job.

        Raises:
            OSError, EOFError: It is gone.
        """
        if self._starting and self._connection.poll(WAIT_SECONDS if wait else 0):
            self._connection.recv_bytes()
            self._starting = False
        return not self._starting

    def send(self, task: Callable[[Any], Any], job: Any) -> None:
        self._connection.send_bytes(pickle.dumps((task, job), pickle.HIGHEST_PROTOCOL))

    def receive(self) -> bytes:
        """Return the pickled result, or nothing when the job raised.

        Raises:
            OSError, EOFError: It is gone, or has taken too long.
        """
        if not self._connection.poll(WAIT_SECONDS):
            raise TimeoutError
        return self._connection.recv_bytes()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class _Crew:
    """The workers of this process; whoever holds ``lock`` uses them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._workers: list[_Worker] = []
        self._process = os.getpid()
        atexit.register(self.close)

    def run(
        self, task: Callable[[Job], Result], jobs: Sequence[Job], *, wait: bool
    ) -> list[Result]:
        """Do the jobs; the last ones in workers, in order, and the first ones here."""
        try:
            sent = self._send(task, jobs[1:], wait=wait)
            here = len(jobs) - len(sent)
            results = [task(job) for job in jobs[:here]]
            answers = [self._receive(worker) for worker in sent]
        except BaseException:
            self.close()  # they may hold answers that nobody will fetch
            raise
        for job, answer in zip(jobs[here:], answers, strict=True):
            results.append(pickle.loads(answer) if answer else task(job))  # noqa: S301  # ours
        return results

    def close(self) -> None:
        """End the workers; in a fork of the process that started them, leave them alone."""
        if os.getpid() == self._process:
            while self._workers:
                self._workers.pop().close()

    def _send(
        self, task: Callable[[Job], Result], jobs: Sequence[Job], *, wait: bool
    ) -> list[_Worker]:
        """Send the last jobs, one to each worker that takes it, and return those workers."""
        taken: list[_Worker] = []
        for worker in self._staffed(task, len(jobs)):
            try:
                if worker.ready(wait=wait):
                    worker.send(task, jobs[-1 - len(taken)])
                    taken.append(worker)
            except (OSError, EOFError):
                self._drop(worker)
        return taken[::-1]

    def _staffed(self, task: Callable[[Job], Result], number: int) -> list[_Worker]:
        """Return up to ``number`` workers, starting those that are missing."""
        try:
            while len(self._workers) < number:
                self._workers.append(_Worker(task))
        except OSError:
            pass  # no process, socket or memory for another: do with those that are there
        return self._workers[:number]

    def _receive(self, worker: _Worker) -> bytes:
        try:
            return worker.receive()
        except (OSError, EOFError):
            self._drop(worker)
            return _FAILED

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.close()


@lru_cache(maxsize=1)
def _crew(_process: int) -> _Crew:
    """Return the workers of this process; a fork has another number and gets its own."""
    return _Crew()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux; a container may have fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_environment() -> int | None:
    text = os.environ.get(VARIABLE, "")
    if text == "":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > WORKERS_MAX:
        raise WorkersUnusable(text)
    return int(text)


def _serve(connection: Connection) -> None:
    """Do jobs until the other end is gone."""
    connection.recv()  # a task, for the sake of importing its module
    connection.send_bytes(b"ready")
    while True:
        task, job = connection.recv()
        try:
            answer = pickle.dumps(task(job), pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001  # the other end meets and reports it again
            answer = _FAILED
        connection.send_bytes(answer)


def _main() -> None:
    import signal  # noqa: PLC0415  # for the worker alone

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides when work ends
    try:
        with Connection(int(sys.argv[1])) as connection:
            _serve(connection)
    except (EOFError, OSError):
        pass  # the other end is gone


if __name__ == "__main__":
    _main()
