"""End at once when nobody reads what is written: ``bithive watch --json | head -1``.

Who writes to a pipe learns that its reader is gone with the next write, and a watcher may have
nothing to write for minutes. So a thread waits for the pipe's other end to be closed, and wakes the
main thread from whatever it waits for.

What holds (tests/portal/test_live_server.py):

1. A watcher whose reader leaves ends within a second, without words, with exit code 0.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

LOOK_MILLISECONDS: Final = 1000


class _Left(Exception):
    """The reader left."""


@contextlib.contextmanager
def until_reader_leaves() -> Iterator[None]:
    """Do what follows until it ends or the reader of standard output leaves, whichever is first.

    Only in the main thread, and only where standard output is a pipe, is anything watched.

    Raises:
        SystemExit: With 0: the reader left.
    """
    try:
        with _watched():
            yield
    except (BrokenPipeError, _Left):
        # What is still buffered goes nowhere: Python flushes at its end, and would fail there.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    pipe = _pipe()
    if pipe is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()
    before = signal.signal(signal.SIGPIPE, _leave)
    watcher = threading.Thread(
        target=_wait, args=(pipe, over, threading.get_ident()), daemon=True, name="reader"
    )
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)
        over.set()


def _pipe() -> int | None:
    """Return standard output's descriptor where it is a pipe or a socket."""
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _wait(descriptor: int, over: threading.Event, reader: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are always told
    while not over.is_set():
        if poll.poll(LOOK_MILLISECONDS):
            if not over.is_set():
                signal.pthread_kill(reader, signal.SIGPIPE)
            return


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise _Left
