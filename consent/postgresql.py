"""Open consent's database on a PostgreSQL server, where many programs share one registry.

    engine = open_postgresql("postgresql+psycopg://registry@/registry?host=/run/postgresql")
    registry = Registry(engine, registry_id="registry", signing_key=key)
    group = EnrolmentGroup(engine, site_keys)
    book = ClaimBook(engine, registry="registry")

The three may share a database, or have one each: no table of one refers to another's. Writers come
one after another by a lock that each takes first (``consent.store.lock``). What holds for SQLite
holds here, by the same tests (tests/consent/test_postgresql.py). How a server is opened is
``storage.postgresql``'s matter.
"""

from __future__ import annotations

from storage.postgresql import PostgresqlUnusable, open_postgresql

__all__ = ["PostgresqlUnusable", "open_postgresql"]
