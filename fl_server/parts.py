"""Large blobs beside the tables: files by a SQLite database, rows of a mebibyte in PostgreSQL.

An upload of ResNet-18 has 21 MB. A row's blob is copied whole by either database, and SQLite writes
it twice, in pages; a file is written once, in pieces, at a thirteenth of the processor time. In
PostgreSQL, which servers on several machines may share, blobs stay in the database, in rows that
are bound and read one at a time. Small ones are rows in either.

A blob is named by round, kind and site (or another name). Its file has a name of its own, is whole
and on the disk before the row that names it is committed, and is removed after the row's end is: a
row never names a file that is not all there. Removing takes a disk milliseconds, so a thread does
it while the round goes on. A file that no row names is what a killed server left; the next one
sweeps it away.

What holds, each a test in tests/fl_server/test_parts.py:

1. What is read is what was kept, in files and rows alike.
2. A transaction that fails leaves neither row nor file, and what it was to replace stays.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from fl_server.tables import PARTS
from protocol.errors import storage_error

PART_BYTES: Final = 2**20
INLINE_BYTES: Final = 2**16
"""Blobs up to this size are rows everywhere: a commit writes them, and no file is opened."""
_INSERT: Final = PARTS.insert()
_SELECT: Final = sa.select(PARTS.c.blob, PARTS.c.file).where(
    PARTS.c.round == sa.bindparam("number"),
    PARTS.c.kind == sa.bindparam("kind_"),
    PARTS.c.site == sa.bindparam("site_"),
    PARTS.c.part == sa.bindparam("part_"),
)
_OF_KIND: Final = (
    (PARTS.c.kind == sa.bindparam("kind_"))
    & (PARTS.c.round >= sa.bindparam("first"))
    & (PARTS.c.round <= sa.bindparam("last"))
)
_OF_SITE: Final = _OF_KIND & (PARTS.c.site == sa.bindparam("site_"))
_FILES_OF_KIND: Final = sa.select(PARTS.c.file).where(_OF_KIND & PARTS.c.file.is_not(None))
_FILES_OF_SITE: Final = sa.select(PARTS.c.file).where(_OF_SITE & PARTS.c.file.is_not(None))
_DELETE_KIND: Final = PARTS.delete().where(_OF_KIND)
_DELETE_OF_SITE: Final = PARTS.delete().where(_OF_SITE)
_WRITTEN: Final = "bithive written"
_DROPPED: Final = "bithive dropped"


Piece: TypeAlias = bytes | memoryview


def cut(blob: Piece) -> Iterator[memoryview]:
    """Yield a blob in pieces of at most ``PART_BYTES``, none of them copied."""
    view = memoryview(blob)
    for start in range(0, len(view), PART_BYTES):
        yield view[start : start + PART_BYTES]


def in_form(vector: NDArray[Any], form: str) -> Iterator[bytes]:
    """Yield the bytes of numbers in another form, as ``"<f4"``, in pieces of ``PART_BYTES``."""
    step = PART_BYTES // np.dtype(form).itemsize
    for start in range(0, vector.size, step):
        yield vector[start : start + step].astype(form, copy=False).tobytes()


def narrow(integers: NDArray[np.signedinteger[Any]]) -> Iterator[bytes]:
    """Yield integers in pieces, little-endian, of 2, 4 or 8 bytes each as their largest needs."""
    largest = max(int(integers.max()), -int(integers.min()))
    width = next(width for width in (2, 4, 8) if largest < 2 ** (8 * width - 1))
    return in_form(integers, f"<i{width}")


class Parts:
    """The blobs of a database; ``folder`` is where files lie, None to keep all in rows."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._remover = ThreadPoolExecutor(1, "parts")  # starts no thread before it is needed

    @contextlib.contextmanager
    def transaction(self, connection: sa.Connection) -> Iterator[None]:
        """Remove a transaction's files if it fails inside, and note those that end with it."""
        connection.info[_WRITTEN], connection.info[_DROPPED] = [], []
        try:
            yield
            if connection.info[_WRITTEN]:
                _sync_folder(self._folder)
        except BaseException:
            self._remove(connection.info[_WRITTEN])
            raise

    def committed(self, dropped: list[str]) -> None:
        """Have the files removed whose rows are gone."""
        if dropped:
            self._remover.submit(self._remove, dropped)

    def settle(self) -> None:
        """Wait until every file is removed whose row is gone."""
        self._remover.submit(int).result()

    def dropped(self, connection: sa.Connection) -> list[str]:
        """Return the files that this transaction's rows do not name any more."""
        return list(connection.info[_DROPPED])

    def keep(
        self, connection: sa.Connection, number: int, kind: str, site: str, pieces: Iterable[Piece]
    ) -> None:
        """Write a new blob's pieces; an empty one leaves no row.

        Raises:
            StorageError: The disk took no more, or there is a blob of this name.
        """
        writer = self.writer(connection, number, kind, site)
        for piece in pieces:
            writer.write(piece)
        writer.close()

    def writer(self, connection: sa.Connection, number: int, kind: str, site: str) -> Writer:
        """Return what a new blob is written with; it is there once that is closed."""
        return Writer(self._folder, connection, {"round": number, "kind": kind, "site": site})

    def drop(self, connection: sa.Connection, number: int, kind: str, site: str) -> None:
        """Remove a blob, where there is one."""
        named = {"kind_": kind, "site_": site, "first": number, "last": number}
        self._note(connection, _FILES_OF_SITE, named)
        connection.execute(_DELETE_OF_SITE, named)

    def drop_kind(self, connection: sa.Connection, first: int, last: int, kind: str) -> None:
        """Remove the blobs of a kind of the rounds from ``first`` to ``last``."""
        named = {"kind_": kind, "first": first, "last": last}
        self._note(connection, _FILES_OF_KIND, named)
        connection.execute(_DELETE_KIND, named)

    def pieces(
        self, connection: sa.Connection, number: int, kind: str, site: str
    ) -> Iterator[bytes]:
        """Yield a blob's pieces in order, each read when it is asked for.

        Raises:
            StorageError: Its file cannot be read.
        """
        named = {"number": number, "kind_": kind, "site_": site}
        part = 0
        while (row := connection.execute(_SELECT, named | {"part_": part}).first()) is not None:
            if row.file is not None:
                yield from self._read(row.file)
                return
            yield bytes(row.blob)
            part += 1

    def whole(self, connection: sa.Connection, number: int, kind: str, site: str) -> bytes:
        """Return a blob, empty where it is gone; a piece more than it is in memory meanwhile."""
        named = {"number": number, "kind_": kind, "site_": site, "part_": 0}
        row = connection.execute(_SELECT, named).first()
        if row is not None and row.file is not None:
            assert self._folder is not None
            with _named_errors(), (self._folder / row.file).open("rb", 0) as file:
                return file.read()
        found = io.BytesIO()
        for piece in self.pieces(connection, number, kind, site):
            found.write(piece)
        return found.getvalue()

    def sweep(self, connection: sa.Connection) -> int:
        """Remove files that no row names; return how many. Nobody else may be writing."""
        if self._folder is None or not self._folder.is_dir():
            return 0
        self.settle()
        query = sa.select(PARTS.c.file).where(PARTS.c.file.is_not(None))
        named = set(connection.execute(query).scalars())
        left = [path.name for path in self._folder.iterdir() if path.name not in named]
        self._remove(left)
        return len(left)

    def _note(
        self, connection: sa.Connection, query: sa.Select[Any], named: dict[str, Any]
    ) -> None:
        """Note the files of the rows that are removed next."""
        connection.info[_DROPPED].extend(connection.execute(query, named).scalars())

    def _read(self, name: str) -> Iterator[bytes]:
        assert self._folder is not None
        with _named_errors(), (self._folder / name).open("rb", 0) as file:
            while piece := file.read(PART_BYTES):
                yield piece

    def _remove(self, names: list[str]) -> None:
        for name in names:
            assert self._folder is not None
            with contextlib.suppress(OSError):  # the next sweep finds it
                (self._folder / name).unlink()


class Writer:
    """A blob that is being written: a piece more than what was not written yet is in memory."""

    def __init__(
        self, folder: Path | None, connection: sa.Connection, named: dict[str, Any]
    ) -> None:
        self._folder, self._connection, self._named = folder, connection, named
        self._waiting = bytearray()
        self._file: Any = None
        self._name = ""
        self._part = 0

    def write(self, piece: Piece) -> None:
        """Write what comes next; whole parts of it are not copied."""
        view = memoryview(piece)
        if self._waiting:
            lacking = PART_BYTES - len(self._waiting)
            self._waiting += view[:lacking]
            view = view[lacking:]
            if len(self._waiting) < PART_BYTES:
                return
            self._put(bytes(self._waiting))
            self._waiting.clear()
        while len(view) >= PART_BYTES:
            self._put(view[:PART_BYTES])
            view = view[PART_BYTES:]
        self._waiting += view

    def close(self) -> None:
        """Have it whole on the disk, and its row in the transaction."""
        if self._file is None and len(self._waiting) <= INLINE_BYTES:
            if self._waiting:
                self._row(bytes(self._waiting))
            return
        if self._waiting:
            self._put(bytes(self._waiting))
        if self._file is not None:
            with _named_errors():
                os.fsync(self._file.fileno())
                self._file.close()
            self._row(None)

    def _put(self, piece: Piece) -> None:
        if self._folder is None:
            self._row(bytes(piece))
            return
        with _named_errors():
            if self._file is None:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._name = secrets.token_hex(16)
                self._connection.info[_WRITTEN].append(self._name)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._file = os.fdopen(os.open(self._folder / self._name, flags, 0o600), "wb", 0)
            _write_all(self._file, piece)

    def _row(self, piece: bytes | None) -> None:
        row = {"part": self._part, "blob": piece, "file": None if piece else self._name}
        self._connection.execute(_INSERT, self._named | row)
        self._part += 1


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, "a blob of the server's database") from error


def _sync_folder(folder: Path | None) -> None:
    assert folder is not None
    with _named_errors():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(file: Any, piece: Piece) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]
