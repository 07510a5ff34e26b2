"""Open consent's database on a PostgreSQL server, where many programs share one registry.

    engine = open_postgresql("postgresql+psycopg://registry@/registry?host=/run/postgresql")
    registry = Registry(engine, registry_id="registry", signing_key=key)
    group = EnrolmentGroup(engine, site_keys)
    book = ClaimBook(engine, registry="registry")

The three may share a database, or have one each: no table of one refers to another's.
What a transaction reads is one state. Writers come one after another by a lock that each takes
first (``consent.store.lock``), and a commit is on the disk when it returns, unless the server
was told ``synchronous_commit=off``, which is refused. What holds for SQLite holds here, by the same
tests (tests/consent/test_postgresql.py).

psycopg is loaded when an engine is opened: it is needed for PostgreSQL alone.

References:
    PostgreSQL documentation, "Transaction Isolation", "Explicit Locking" and "WAL Configuration".
"""

from __future__ import annotations

import sqlalchemy as sa

from protocol.errors import ConfigurationError
from storage.database import reading


class PostgresqlUnusable(ConfigurationError):
    """A server, its settings or its driver cannot hold a registry."""

    code = "postgresql-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"PostgreSQL cannot be used for the registry: {why}")


def open_postgresql(url: str) -> sa.Engine:
    """Return an engine for ``Registry``, ``EnrolmentGroup`` and ``ClaimBook``.

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
