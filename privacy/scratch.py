"""Exchange bytes with a library that only reads and writes files, without touching a disk.

SEAL's Python binding saves keys and ciphertexts to a path. On Linux the path given to it names
an anonymous file in memory that no other user can open and that ends with its descriptor
(memfd_create(2)); elsewhere it is a private file in a private folder, removed afterwards.

    >>> with scratch_file() as file:
    ...     file.write(b"key")
    ...     file.read()
    b'key'
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import storage_error


@dataclass(frozen=True)
class ScratchFile:
    """A file that holds one object at a time; whoever opens ``path`` for writing empties it."""

    path: str

    def write(self, content: bytes) -> None:
        """Replace the content."""
        try:
            Path(self.path).write_bytes(content)
        except OSError as error:
            raise storage_error(error, "a key or ciphertext in memory") from error

    def patch(self, position: int, content: bytes) -> None:
        """Replace as many bytes as ``content`` has, from ``position`` on."""
        try:
            with Path(self.path).open("r+b", buffering=0) as file:
                file.seek(position)
                file.write(content)
        except OSError as error:
            raise storage_error(error, "a key or ciphertext in memory") from error

    def read(self) -> bytes:
        """Return the content."""
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise storage_error(error, "a key or ciphertext in memory") from error

    def size(self) -> int:
        """Return how many bytes the content has."""
        return Path(self.path).stat().st_size


@contextmanager
def scratch_file() -> Iterator[ScratchFile]:
    """Lend a file readable by this process's user alone; it is gone afterwards.

    Raises:
        StorageError: The operating system refused.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with _in_memory() as file:
            yield file
    else:
        with _in_folder() as file:
            yield file


@contextmanager
def _in_memory() -> Iterator[ScratchFile]:
    descriptor = os.memfd_create("bithive", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        yield ScratchFile(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def _in_folder() -> Iterator[ScratchFile]:
    # mkdtemp makes the folder with mode 0700.
    with tempfile.TemporaryDirectory(prefix="bithive-") as folder:
        path = Path(folder, "scratch")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield ScratchFile(str(path))
