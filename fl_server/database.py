"""The server's database on SQLite or PostgreSQL: its version, one writer at a time, and the fence.

A server that took over a run has the higher fence (``fl_server.lease``). Every transaction that
writes first takes the writers' lock, then sees whether its own fence is still the highest: a
server that slept through its lease writes nothing any more.

What holds, each a test in tests/fl_server/test_lease.py or test_store.py:

1. A database of another version is refused when it is opened, and nothing in it is changed.
2. Of two servers of one run only the one that came last writes.
3. Whatever a transaction was told of (``tell``) is kept with it or, if it fails, with the next.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from fl_server.parts import Parts
from fl_server.tables import LEASE, METADATA, SCHEMA
from protocol.errors import FederationError, StorageError
from storage.database import name_of, open_database, reading, writing

VERSION: Final = 2
"""Of the tables; 1 had no version, kept an upload in one row and knew no phases."""
GATHER_SECONDS: Final = 0.05
"""What is told within this time is one transaction: a disk's slowest commit takes as long."""
LOCK_NUMBER: Final = 0x726F756E6473
"""Of PostgreSQL's advisory lock while tables are made: "rounds"."""
_FENCE: Final = sa.select(LEASE.c.fence).where(LEASE.c.run == sa.bindparam("run_"))


class ServerDatabaseVersion(StorageError):
    """The server's database was written by a version that keeps it otherwise."""

    code = "server-database-version"

    def __init__(self, name: str, found: int) -> None:
        self.found = found
        super().__init__(
            f"the server's database {name} has version {found} and this program reads {VERSION}; "
            "finish the run with the version that began it, or begin anew in another folder"
        )


class LeaseLost(FederationError):
    """Another server took this run over, so this one must not write any more."""

    code = "lease-lost"

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(
            f"another server has taken over run {run}; this one stops, and everything it had "
            "stored before is kept"
        )


class ServerDatabase:
    """Connections to the server's database; ``fence`` is set by the lease, and None without one."""

    def __init__(self, source: Path | str | sa.Engine) -> None:
        self.engine = source if isinstance(source, sa.Engine) else _opened(source)
        self.shared = isinstance(source, sa.Engine) or source != ":memory:"
        in_file = not isinstance(source, sa.Engine) and self.shared
        self.parts = Parts(Path(f"{source}.parts") if in_file else None)
        self.fence: tuple[str, int] | None = None
        self._told: list[Callable[[sa.Connection], None]] = []
        self._told_since = 0.0
        self._prepare()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection for reading one consistent state."""
        with reading(self.engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection that alone may write; commit at the end, or nothing at all.

        Raises:
            LeaseLost: Another server holds the run now; nothing is written.
            StorageError: The disk or the database refused; nothing is written.
        """
        with writing(self.engine) as connection:
            lock(connection)
            self._check_fence(connection)
            told = len(self._told)
            with self.parts.transaction(connection):
                for keep in self._told[:told]:
                    keep(connection)
                yield connection
            dropped = self.parts.dropped(connection)
        del self._told[:told]
        self.parts.committed(dropped)

    def tell(self, keep: Callable[[sa.Connection], None]) -> None:
        """Have ``keep`` write beside the next transaction: what is worth no transaction alone."""
        if not self._told:
            self._told_since = time.monotonic()
        self._told.append(keep)

    def gather(self) -> None:
        """Write what was told if it has waited ``GATHER_SECONDS`` for company."""
        if self._told and time.monotonic() - self._told_since >= GATHER_SECONDS:
            self.flush()

    def sweep(self) -> int:
        """Remove the files that a killed server left; return how many."""
        with self.writing() as connection:
            return self.parts.sweep(connection)

    def flush(self) -> None:
        """Write what was told, where there is any."""
        if self._told:
            with self.writing():
                pass

    def _check_fence(self, connection: sa.Connection) -> None:
        if self.fence is None:
            return
        run, fence = self.fence
        if connection.execute(_FENCE, {"run_": run}).scalar_one_or_none() != fence:
            raise LeaseLost(run)

    def _prepare(self) -> None:
        with writing(self.engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NUMBER})")
            tables = set(sa.inspect(connection).get_table_names())
            if SCHEMA.name in tables:
                found = connection.execute(sa.select(SCHEMA.c.version)).scalar_one()
            else:
                found = 1 if "rounds" in tables else VERSION
            if found != VERSION:
                raise ServerDatabaseVersion(name_of(self.engine), found)
            METADATA.create_all(connection)
            insert_once(connection, SCHEMA, version=VERSION)


def lock(connection: sa.Connection) -> None:
    """Let one writer at a time decide; called first in a transaction that writes.

    SQLite holds its write lock from the beginning. In PostgreSQL the lock of a table, unlike a
    query, is waited for before the transaction's one state is fixed.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {LEASE.name} IN EXCLUSIVE MODE")


def insert_once(connection: sa.Connection, table: sa.Table, **values: Any) -> bool:
    """Insert a row where its key is free; return whether it was."""
    return bool(connection.execute(_once(connection.dialect.name, table), values).rowcount)


@functools.cache
def _once(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    made = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return made(table).on_conflict_do_nothing()


def _opened(source: Path | str) -> sa.Engine:
    return open_database(source, sa.MetaData())  # its version is looked at before tables are made
