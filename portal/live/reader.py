"""End at once when nobody reads what is written: ``bithive watch --json | head -1``.

Who writes to a pipe learns that its reader is gone with the next write, and a watcher may have
nothing to write for minutes. So a thread waits for the pipe's other end to be closed, and wakes the
main thread from whatever it waits for: again and again, for Python drops what is raised while it
tidies up an object.

What holds (tests/portal/test_live_server.py):

1. A watcher whose reader leaves ends at once, without words, with exit code 0.
2. It ends too, and as silently, where the first word of it was lost.
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
AGAIN_SECONDS: Final = 0.5


class _Left(BaseException):
    """The reader left; no error of what is being done, so nothing that handles errors takes it."""


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

    def leave(_number: int, _frame: FrameType | None) -> None:
        if not over.is_set():
            raise _Left

    def lost(what: sys.UnraisableHookArgs) -> None:
        if what.exc_type is not _Left:
            hook(what)

    before, hook = signal.signal(signal.SIGPIPE, leave), sys.unraisablehook
    sys.unraisablehook = lost
    watcher = threading.Thread(
        target=_wait, args=(pipe, over, threading.get_ident()), daemon=True, name="reader"
    )
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGPIPE, before)
        sys.unraisablehook = hook


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
    while not over.is_set() and not poll.poll(LOOK_MILLISECONDS):
        pass
    while not over.is_set():
        signal.pthread_kill(reader, signal.SIGPIPE)
        over.wait(AGAIN_SECONDS)
