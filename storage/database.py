"""Open a database so that what is committed stays, and one writer at a time decides.

SQLite runs with a write-ahead log and ``synchronous=FULL``: a committed transaction survives
``kill -9`` and power loss. ``writing`` takes the write lock first (``BEGIN IMMEDIATE``), so a
read-modify-write inside it cannot be overtaken by another process.

What holds, each a test in tests/storage/test_database.py:

1. A transaction that raises leaves nothing behind.
2. Two processes that add one to the same number a hundred times each end at two hundred.
3. A full disk is ``DiskFull`` and loses nothing that was committed.
4. A private database is unreadable for other users from its first byte.
5. A process may open a database twice; what it commits stays, whatever other processes do.
6. After ``write_anew`` no file of the database has a byte of what was deleted before.

References:
    SQLite documentation, "Write-Ahead Logging", "PRAGMA synchronous" and "How To Corrupt An SQLite
    Database File", section 2.2 on locks that closing a file drops.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from protocol.errors import StorageError, StorageFailed, storage_error
from storage.files import PRIVATE

WAIT_SECONDS: Final = 60
"""How long a writer waits for another's transaction before it gives up."""


class DatabaseDamaged(StorageError):
    """The file is not a database, or not the one that was written."""

    code = "database-damaged"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(
            f"the database {name} is damaged ({reason}); restore it from its last backup"
        )


def open_database(path: Path | str, metadata: sa.MetaData, *, private: bool = False) -> sa.Engine:
    """Open the database at ``path``, making it and its tables where they do not exist.

    Args:
        path: A file; its folder is made. ``":memory:"`` for one that is not kept.
        metadata: The tables it must hold.
        private: The file is made readable by its owner only.

    Raises:
        DiskFull: There was no space to make it.
        DatabaseDamaged: The file is there and is not a database.
        StorageFailed: The operating system refused.
    """
    if path == ":memory:":
        engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    else:
        path = Path(path)
        _make(path, private=private)
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": WAIT_SECONDS})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    # Under the write lock: two processes may open a new database at once.
    with writing(engine) as connection:
        metadata.create_all(connection)
    return engine


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection for reading one consistent state.

    Raises:
        StorageError: The database cannot be read.
    """
    with _typed(engine), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection that holds the write lock; commit at the end, or nothing at all.

    Raises:
        DiskFull: The disk took no more; the transaction left nothing behind.
        StorageError: The database refused for another reason; likewise.
    """
    with (
        _typed(engine),
        engine.connect().execution_options(bithive_immediate=True) as connection,
        connection.begin(),
    ):
        yield connection


def write_anew(engine: sa.Engine, *, wait_seconds: float) -> None:
    """Leave no byte of deleted rows in the database's files.

    Pages that once held a row may keep it in corners that are free now, so the file is written
    anew, and the write-ahead log, which had all of them, is emptied.

    Args:
        engine: Of a file; in memory nothing is to be done.
        wait_seconds: How long to wait for others who use the file.

    Raises:
        StorageError: The disk refused, or another process is reading; try again.

    References:
        SQLite documentation, "VACUUM" and "PRAGMA secure_delete".
    """
    file = engine.url.database
    if file is None:
        return
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=wait_seconds)) as raw:
            raw.isolation_level = None
            raw.execute("PRAGMA secure_delete=ON")
            raw.execute("VACUUM")
            (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise storage_error(error, name_of(engine)) from error
    if busy:
        raise StorageFailed(name_of(engine), "another process is reading it; try again")


def name_of(engine: sa.Engine) -> str:
    """Return the file name of the database, for messages."""
    return Path(engine.url.database or "in memory").name


def _make(path: Path, *, private: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if private:
            # SQLite gives its write-ahead log the mode of the database itself. A file that is there
            # is not opened: closing it again would drop the locks that this process holds on it
            # through SQLite, and another process would then delete the log under our commits.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    except OSError as error:
        raise storage_error(error, path.name) from error


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, see _begin
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("bithive_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextlib.contextmanager
def _typed(engine: sa.Engine) -> Iterator[None]:
    name = name_of(engine)
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig)
        if any(words in reason for words in ("malformed", "not a database", "corrupt")):
            raise DatabaseDamaged(name, reason) from error
        raise storage_error(error.orig or error, name) from error
