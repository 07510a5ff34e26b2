"""Keep the logs of processes small without the processes taking part.

A process writes to its log in append mode. When the file has grown beyond a limit it is copied to
``NAME.log.1`` and cut to nothing; the process goes on writing at the new end. Lines written
between copy and cut are lost, which for a log of words is the smaller evil: the process could not
be told to open another file.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

BYTES_MAX: Final = 8 << 20
KEPT: Final = 4
TAIL_BYTES: Final = 16_384
ERROR_LINE: Final = re.compile(r"error|refused|failed|traceback|exception|critical", re.IGNORECASE)
WIDTH: Final = 200


def rotate(path: Path, *, bytes_max: int = BYTES_MAX, kept: int = KEPT) -> bool:
    """Move a log that is too large aside; return whether it was.

    Args:
        path: The log, which need not exist.
        bytes_max: It may grow to this size.
        kept: So many old ones are kept, ``.1`` being the newest.
    """
    if not path.is_file() or path.stat().st_size <= bytes_max:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.is_file():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


def last_error(path: Path) -> str:
    """Return the last line of a log that speaks of an error, or nothing."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    found = [line.strip() for line in lines if ERROR_LINE.search(line)]
    return found[-1][-WIDTH:] if found else ""
