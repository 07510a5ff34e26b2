"""Write a file whole or not at all, private where it holds a secret.

The bytes go to a temporary file in the same folder, reach the disk (``fsync``), and take the name
in one step (``os.replace``), so that a reader or a crash meets the old file or the new one. Then
the name reaches the disk too: what was said to be written is there after a loss of power.
``write_new`` takes the name by a link instead, which fails where there is a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from protocol.errors import storage_error

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def write_whole(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """Replace the file at ``path`` by ``content``.

    Args:
        path: Its folder is made where it does not exist.
        content: All of the file.
        mode: ``PRIVATE`` for keys and anything a patient could be known from.

    Raises:
        DiskFull: No space; the old file is untouched.
        StorageFailed: The operating system refused for another reason.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _keep_names(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(error, path.name) from error


def write_new(path: Path, content: bytes, *, mode: int = PUBLIC) -> bool:
    """Write a file that must not exist, and say whether it did not; nothing is ever replaced.

    Of two processes that write it at once, one is told False. A reader meets the whole file.

    Args:
        path: Its folder is made where it does not exist.
        content: All of the file.
        mode: As ``write_whole`` has it.

    Raises:
        DiskFull: No space; there is no file.
        StorageFailed: The operating system refused for another reason.
    """
    beside = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    write_whole(beside, content, mode=mode)
    try:
        path.hardlink_to(beside)  # fails where the name is taken; a rename would replace it
        _keep_names(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, path.name) from error
    finally:
        beside.unlink(missing_ok=True)
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Let ``target`` be the same file as ``source``, or a private copy where no link can be made.

    For large files that are never changed in place, such as proving keys.

    Raises:
        StorageError: The operating system refused; the old file is untouched.
    """
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another disk, another's file, or a file system without links
            shutil.copyfile(source, temporary)
            temporary.chmod(PRIVATE)
        temporary.replace(target)
        _keep_names(target.parent)
    except OSError as error:
        raise storage_error(error, target.name) from error
    finally:
        with contextlib.suppress(OSError):  # it stays also where both are one file already (rename)
            temporary.unlink()


def private_folder(path: Path) -> Path:
    """Make the folder at ``path``, closed to other users of the machine, and return it.

    Raises:
        StorageFailed: The operating system refused.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise storage_error(error, path.name) from error
    return path


def _keep_names(folder: Path) -> None:
    """Have the names in a folder reach the disk (fsync(2): those of new files do not by theirs)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # a file system that keeps them by itself, as some over nets
            raise
    finally:
        os.close(descriptor)
