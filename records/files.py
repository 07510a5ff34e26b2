"""Read the bytes of one record file, with a limit and a named error for each way to fail.

A file is read once: the same bytes are hashed, checked and decoded, so nobody can swap the file
between the check and the use. Messages name the file, because a person has to find it; they stay
at the hospital, and only an error's ``code`` may be sent on.
"""

from __future__ import annotations

import logging
import stat
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from protocol.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES_MAX: Final = 256 * 2**20
"""Bytes in one record file. The largest uncompressed mammogram is below 64 MiB."""

_QUIET: Final = threading.Lock()
"""Warning filters belong to the whole process: two threads changing them would undo each other."""


class FileMissing(RecordError):
    """No file is there."""

    code = "file-missing"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path.name} is not in {path.parent}; put it back or correct its name")


class FileUnreadable(RecordError):
    """The operating system does not give us the file."""

    code = "file-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path.name} cannot be read: {reason}; allow it or name a plain file")


class FileTruncated(RecordError):
    """The file ends before its content does."""

    code = "file-truncated"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path.name} is cut short: {reason}; copy it again from its source")


class NotAnImage(RecordError):
    """The file is whole but holds no picture that we can use."""

    code = "not-an-image"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path.name} holds no image we can use: {reason}; leave it out or convert it"
        )


class TooLarge(RecordError):
    """The file, or the picture it promises, passes a limit."""

    code = "too-large"

    def __init__(self, path: Path, what: str, found: int, limit: int) -> None:
        self.path = path
        self.what = what
        self.found = found
        self.limit = limit
        super().__init__(
            f"{path.name} has {found} {what} where {limit} are allowed; leave it out or shrink it"
        )


def read_bytes(path: Path, *, limit: int = BYTES_MAX) -> bytes:
    """Return the whole content of the plain file at ``path``, at most ``limit`` bytes.

    Raises:
        FileMissing: Nothing has that name.
        FileUnreadable: It is a folder, a device or a pipe, or reading is not permitted.
        TooLarge: It is longer than ``limit``, or grew past it while being read.
    """
    try:
        # Before opening: opening a pipe nobody writes to would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileUnreadable(path, "it is not a plain file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissing(path) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "bad name"
        raise FileUnreadable(path, reason) from error
    if len(content) > limit:
        raise TooLarge(path, "bytes", max(len(content), path.stat().st_size), limit)
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """Let decoders warn nobody, and the DICOM library log nothing: it may quote header values.

    One thread at a time; decoding holds the interpreter for most of its millisecond anyway.
    """
    logger = logging.getLogger("pydicom")
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.disabled
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = before
