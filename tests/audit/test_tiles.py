"""Whatever the sizes of its batches, a log proves from its tiles what its leaves would prove."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit.checkpoints import AuditDamaged
from audit.store import METADATA, TILES
from audit.tiles import TILE_WIDTH, Tiles, grow_tiles
from storage.database import open_database, reading, writing
from storage.merkle import (
    Frontier,
    consistency_proof,
    consistency_ranges,
    inclusion_proof,
    inclusion_ranges,
    leaf_hash,
    root,
)

sizes = st.lists(st.integers(1, 700), min_size=1, max_size=6)
LEAVES = [leaf_hash(b"%d" % number) for number in range(70_000)]


def grown(batches):
    engine = open_database(":memory:", METADATA)
    frontier = Frontier()
    with writing(engine) as connection:
        for count in batches:
            leaves = LEAVES[frontier.size : frontier.size + count]
            frontier = grow_tiles(connection, frontier, leaves)
    return engine, frontier


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([1])
@example([255, 1, 1])
@example([256, 256])
@example([100, 700, 700])
@given(sizes)
def test_proofs_from_tiles_are_those_from_leaves(batches):
    engine, frontier = grown(batches)
    leaves = LEAVES[: frontier.size]
    assert frontier.root() == root(leaves)
    with reading(engine) as connection:
        for end in {frontier.size, max(1, frontier.size - 3), frontier.size // 2 + 1}:
            tiles = Tiles(connection, end)
            for at in {0, end - 1, end // 2, end // 3}:
                proof = tiles.roots(inclusion_ranges(at, end))
                assert proof == inclusion_proof(leaves[:end], at)
                proof = tiles.roots(consistency_ranges(at, end))
                assert proof == consistency_proof(leaves[:end], at)
    engine.dispose()


def test_a_log_of_three_levels_reads_a_tile_of_each():
    engine, frontier = grown([65_000, 5_000])
    with reading(engine) as connection:
        tiles = Tiles(connection, frontier.size)
        proof = tiles.roots(inclusion_ranges(12_345, frontier.size))
        assert proof == inclusion_proof(LEAVES, 12_345)
        assert len(tiles._read) <= 5
        levels = connection.execute(sa.select(sa.func.max(TILES.c.level))).scalar()
    assert levels == 2
    engine.dispose()


def test_full_tiles_are_never_written_again():
    engine, frontier = grown([TILE_WIDTH, 10])
    full = (TILES.c.level == 0) & (TILES.c.number == 0)
    with writing(engine) as connection:
        # Whoever writes it again would notice that it is gone.
        connection.execute(sa.delete(TILES).where(full))
        grow_tiles(connection, frontier, LEAVES[frontier.size : frontier.size + 600])
        assert connection.execute(sa.select(TILES).where(full)).one_or_none() is None
    engine.dispose()


def test_a_missing_tile_is_damage_and_no_answer():
    engine, frontier = grown([300])
    with writing(engine) as connection:
        connection.execute(sa.delete(TILES).where(TILES.c.number == 1))
        with pytest.raises(AuditDamaged, match="tile 1 of level 0"):
            Tiles(connection, frontier.size).roots([(299, 300)])
        with pytest.raises(AuditDamaged):
            grow_tiles(connection, frontier, LEAVES[:1])
    engine.dispose()
