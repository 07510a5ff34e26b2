"""Who supervises a deployment's folder, and what the supervisor last said of its processes.

The lock is the kernel's (flock), so a killed supervisor holds nothing; its number stays written
and is then known to be stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from protocol.errors import StorageError, storage_error
from storage.files import PRIVATE

HOLD_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 0.1
STATE: Final = "state.json"


class AlreadySupervised(StorageError):
    """Another supervisor works in the folder."""

    code = "already-supervised"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"a supervisor already works in {folder}; see it with `bithive status`, end it with "
            "`bithive down`"
        )


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a deployment's folder for this supervisor.

    Raises:
        AlreadySupervised: Another one holds it.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise storage_error(error, str(folder)) from error
    try:
        _lock(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + HOLD_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # ``holder`` holds it for an instant when it looks.
            if time.monotonic() > deadline:
                raise AlreadySupervised(folder) from error
            time.sleep(AGAIN_SECONDS)
        else:
            return


def holder(folder: Path) -> tuple[int | None, bool]:
    """Return the process written in the lock and whether it still holds it.

    A number without a hold is stale: that supervisor was killed.
    """
    path = folder / "lock"
    if not path.is_file():
        return None, False
    with path.open("r+") as file:
        words = file.read().strip()
        pid = int(words) if words.isdigit() else None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return pid, True
        return pid, False


def read_state(folder: Path) -> dict[str, Any]:
    """Return the last table that was written, or an empty one."""
    path = folder / STATE
    if not path.is_file():
        return {"supervisor": None, "units": []}
    return dict(json.loads(path.read_text()))
