"""Grants that this hospital itself has ended: left out from that moment, whatever a registry says.

A patient who withdraws at her hospital need not wait until the registry has published it. Her leaf
is written down here first, and whoever is written down takes part in no round that begins after,
nor in one whose records are still to be read. Leaves stay: one that was ended never lives again.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from fl_client.tables import METADATA

ENDED = sa.Table(
    "ended_leaves",
    METADATA,
    sa.Column("leaf", sa.Text, primary_key=True),  # in decimal digits
)


def keep_ended(connection: sa.Connection, leaves: Iterable[int]) -> None:
    """Write leaves down as ended; those that are, stay."""
    rows = [{"leaf": str(leaf)} for leaf in leaves]
    if rows:
        connection.execute(sa.insert(ENDED).prefix_with("OR IGNORE"), rows)


def ended_leaves(connection: sa.Connection) -> frozenset[int]:
    """Return every leaf that was ended here."""
    return frozenset(map(int, connection.execute(sa.select(ENDED.c.leaf)).scalars()))
