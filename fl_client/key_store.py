"""The group keys that a site holds, or its shares of them, and what it made for keys to come.

A key serves until the next epoch's is there and one epoch longer, because a round may be under way
with it. What a site makes for a collective key is kept before any of it leaves, so that a killed
agent says the same again; it is forgotten with the key it was for.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from fl_client.tables import GROUP_KEY, KEY_PARTS
from storage.database import reading, writing


@dataclass(frozen=True)
class HeldKey:
    """What a site holds of a group key: its id, epoch, and a frame that says what and how."""

    key_id: str
    epoch: int
    record: bytes


class StoredKeys:
    """The group keys in an agent's database; every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def held(self, study: str, key_id: str | None = None) -> HeldKey | None:
        """Return what is held of a group key, the newest where none is named, or None."""
        query = sa.select(GROUP_KEY).where(GROUP_KEY.c.study == study)
        if key_id is not None:
            query = query.where(GROUP_KEY.c.key_id == key_id)
        with reading(self._engine) as connection:
            row = connection.execute(query.order_by(GROUP_KEY.c.epoch.desc())).first()
        return None if row is None else HeldKey(row.key_id, row.epoch, bytes(row.record))

    def keep(self, study: str, key: HeldKey) -> None:
        """Keep a group key; of those of earlier epochs only the last is still kept."""
        with writing(self._engine) as connection:
            connection.execute(
                sa.insert(GROUP_KEY)
                .prefix_with("OR REPLACE")
                .values(study=study, key_id=key.key_id, epoch=key.epoch, record=key.record)
            )
            connection.execute(
                GROUP_KEY.delete().where(
                    GROUP_KEY.c.study == study, GROUP_KEY.c.epoch < key.epoch - 1
                )
            )
            connection.execute(
                KEY_PARTS.delete().where(KEY_PARTS.c.study == study, KEY_PARTS.c.epoch < key.epoch)
            )

    def part(self, study: str, epoch: int, cohort: str) -> bytes | None:
        """Return this site's part of a collective key for these sites, or None."""
        query = sa.select(KEY_PARTS.c.part).where(
            KEY_PARTS.c.study == study, KEY_PARTS.c.epoch == epoch, KEY_PARTS.c.cohort == cohort
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def forget_parts(self, study: str, epoch: int) -> None:
        """Forget what this site made for collective keys up to an epoch, shares and all."""
        with writing(self._engine) as connection:
            connection.execute(
                KEY_PARTS.delete().where(KEY_PARTS.c.study == study, KEY_PARTS.c.epoch <= epoch)
            )

    def keep_part(self, study: str, epoch: int, cohort: str, part: bytes) -> None:
        """Keep this site's part of a collective key before any of it leaves."""
        with writing(self._engine) as connection:
            connection.execute(
                KEY_PARTS.insert().values(study=study, epoch=epoch, cohort=cohort, part=part)
            )

    def study_of(self, key_id: str) -> str | None:
        """Return the study whose group key this is, or None where it is not held."""
        query = sa.select(GROUP_KEY.c.study).where(GROUP_KEY.c.key_id == key_id)
        with reading(self._engine) as connection:
            return connection.execute(query.limit(1)).scalar_one_or_none()
