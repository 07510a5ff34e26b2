"""Large blobs as rows of a mebibyte, so that none need be whole in memory to be kept or read.

An upload of ResNet-18 has 21 MB. SQLite and PostgreSQL both copy a row's blob into memory; parts
are bound and read one at a time. A blob is named by round, kind and site (or another name).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

import sqlalchemy as sa

from fl_server.tables import PARTS

PART_BYTES: Final = 2**20


def cut(blob: bytes | memoryview) -> Iterator[bytes]:
    """Yield a blob in pieces of at most ``PART_BYTES``."""
    view = memoryview(blob)
    for start in range(0, len(view), PART_BYTES):
        yield bytes(view[start : start + PART_BYTES])


def keep(
    connection: sa.Connection, number: int, kind: str, site: str, pieces: Iterable[bytes]
) -> int:
    """Write a blob's pieces in the place of what was there; return how many bytes they were."""
    drop(connection, number, kind, site)
    size = 0
    for part, blob in enumerate(pieces):
        assert len(blob) <= PART_BYTES
        connection.execute(
            PARTS.insert().values(round=number, kind=kind, site=site, part=part, blob=blob)
        )
        size += len(blob)
    return size


def drop(connection: sa.Connection, number: int, kind: str, site: str) -> None:
    """Remove a blob, where there is one."""
    connection.execute(
        PARTS.delete().where(PARTS.c.round == number, PARTS.c.kind == kind, PARTS.c.site == site)
    )


def drop_kind(connection: sa.Connection, number: int, kind: str) -> None:
    """Remove a round's blobs of a kind."""
    connection.execute(PARTS.delete().where(PARTS.c.round == number, PARTS.c.kind == kind))


def drop_before(connection: sa.Connection, number: int, kind: str) -> None:
    """Remove the blobs of a kind of the rounds before ``number``."""
    connection.execute(PARTS.delete().where(PARTS.c.round < number, PARTS.c.kind == kind))


def pieces(connection: sa.Connection, number: int, kind: str, site: str) -> Iterator[bytes]:
    """Yield a blob's pieces in order, each read when it is asked for."""
    of_blob = (PARTS.c.round == number) & (PARTS.c.kind == kind) & (PARTS.c.site == site)
    part = 0
    while True:
        query = sa.select(PARTS.c.blob).where(of_blob & (PARTS.c.part == part))
        blob = connection.execute(query).scalar_one_or_none()
        if blob is None:
            return
        yield bytes(blob)
        part += 1


def whole(connection: sa.Connection, number: int, kind: str, site: str) -> bytes:
    """Return a blob, empty where it is gone; a piece more than it is in memory meanwhile."""
    found = io.BytesIO()
    for piece in pieces(connection, number, kind, site):
        found.write(piece)
    return found.getvalue()
