"""Open a database on a PostgreSQL server, where many programs share what one file cannot.

    engine = open_postgresql("postgresql+psycopg://registry@/registry?host=/run/postgresql")

What a transaction reads is one state, and a commit is on the disk when it returns, unless the
server was told ``synchronous_commit=off``, which is refused. Who writes is a matter of each
package's store: one writer at a time, by a lock of a table that a transaction takes first.

psycopg is loaded when an engine is opened: it is needed for PostgreSQL alone.

References:
    PostgreSQL documentation, "Transaction Isolation", "Explicit Locking" and "WAL Configuration".
"""

from __future__ import annotations

import sqlalchemy as sa

from protocol.errors import ConfigurationError
from storage.database import reading


class PostgresqlUnusable(ConfigurationError):
    """A server, its settings or its driver cannot hold a registry or books."""

    code = "postgresql-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"PostgreSQL cannot be used: {why}")


def open_postgresql(url: str) -> sa.Engine:
    """Return an engine on a server that keeps what it acknowledges.

    Args:
        url: ``postgresql+psycopg://USER@HOST/DATABASE``; a password belongs into the server's own
            files (``.pgpass``), not here.

    Raises:
        PostgresqlUnusable: It is no such address, the driver is missing, or the server acknowledges
            what is not on its disk.
        StorageError: The server does not answer.
    """
    try:
        engine = sa.create_engine(url, isolation_level="REPEATABLE READ", pool_pre_ping=True)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise PostgresqlUnusable("its address is not postgresql+psycopg://...") from error
    except ModuleNotFoundError as error:
        raise PostgresqlUnusable("install its driver, psycopg") from error
    if engine.dialect.name != "postgresql":
        raise PostgresqlUnusable("its address is not postgresql+psycopg://...")
    with reading(engine) as connection:
        for setting in ("synchronous_commit", "fsync"):
            if connection.exec_driver_sql(f"SHOW {setting}").scalar() == "off":
                raise PostgresqlUnusable(f"its {setting} is off; switch it on")
    return engine
