"""The tree's full subtrees as they are stored: written once each, read a few for a proof.

A proof is made of roots over ranges of records (``storage.merkle`` says which). Each is folded from
full subtrees, and each of those from at most 128 hashes of one tile. A proof reads at most two
tiles of a level: the one above its record, and the last. In a log of 16 million records
these are six.

What holds, each line a test in tests/audit/test_tiles.py:

1. A root over any range a proof needs equals the root over its leaves.
2. Full tiles are never written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from audit.checkpoints import AuditDamaged
from audit.store import TILES
from storage.merkle import HASH_BYTES, Frontier, fold, full_subtrees, root

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
_READ: Final = sa.select(TILES.c.hashes).where(
    TILES.c.level == sa.bindparam("at_level"), TILES.c.number == sa.bindparam("at_number")
)
_WRITE: Final = sa.text(
    f"INSERT INTO {TILES.name} (level, number, hashes) VALUES (:level, :number, :hashes) "  # noqa: S608 - our own name
    "ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"
)


def grow_tiles(connection: sa.Connection, before: Frontier, leaves: Sequence[bytes]) -> Frontier:
    """Write what more leaf hashes add to the tiles, and return the frontier with them.

    Raises:
        AuditDamaged: The last tile of a level has another length than the log's size says.
    """
    after, layers = before.extend(leaves)
    rows = []
    for level, nodes in enumerate(layers[::TILE_HEIGHT]):
        start = before.size >> (level * TILE_HEIGHT)
        number, kept = divmod(start, TILE_WIDTH)
        held = _tile(connection, level, number, kept) if kept and nodes else b""
        hashes = held + b"".join(nodes)
        rows += [
            {"level": level, "number": number + step, "hashes": hashes[at : at + _TILE_BYTES]}
            for step, at in enumerate(range(0, len(hashes), _TILE_BYTES))
        ]
    if rows:
        connection.execute(_WRITE, rows)
    return after


class Tiles:
    """The tiles as one transaction reads them.

    Args:
        connection: Of ``storage.database.reading``.
        size: Of the log at a head; nothing beyond it is asked for.
    """

    def __init__(self, connection: sa.Connection, size: int) -> None:
        self._connection = connection
        self._size = size
        self._read: dict[tuple[int, int], bytes] = {}

    def roots(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the root over each range of records.

        Raises:
            AuditDamaged: A tile is missing, or too short.
        """
        return [
            fold([self._subtree(height, number) for height, number in full_subtrees(*one)])
            for one in ranges
        ]

    def _subtree(self, height: int, number: int) -> bytes:
        level, above = divmod(height, TILE_HEIGHT)
        first = number << above
        tile, place = divmod(first, TILE_WIDTH)
        hashes = self._hashes(level, tile)
        end = place + (1 << above)
        return root([hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(place, end)])

    def _hashes(self, level: int, number: int) -> bytes:
        found = self._read.get((level, number))
        if found is None:
            full = self._size >> (level * TILE_HEIGHT)
            width = min(full - number * TILE_WIDTH, TILE_WIDTH)
            found = _tile(self._connection, level, number, width)
            self._read[level, number] = found
        return found


def _tile(connection: sa.Connection, level: int, number: int, width: int) -> bytes:
    """Return the first ``width`` hashes of a tile, which may have grown since."""
    asked = {"at_level": level, "at_number": number}
    found: bytes | None = connection.execute(_READ, asked).scalar()
    if found is None or len(found) < width * HASH_BYTES:
        raise AuditDamaged(f"tile {number} of level {level} is missing hashes")
    return found[: width * HASH_BYTES]
