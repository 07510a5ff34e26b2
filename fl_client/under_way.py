"""Which rounds this hospital is in the middle of, and until when it waits for each.

A round is under way from the beginning of its training here to the opening of its sum. A server
that dies, or whose round closes without this site, never says so; a round of its would be under way
for ever. So each is waited for until its server itself will have given it up:

* after the plan came, for as long as the server said that it waits for uploads (``TrainRequest.
  wait_seconds``), an hour where it does not say, and then for one step;
* after any later frame about the round, for one step, which is ten minutes.

What holds, each line a test in tests/fl_client/test_under_way.py:

1. A round that is being trained is under way, however long it takes.
2. A round is no longer under way once its sum is opened, another round of its study has begun, or
   its server's time is over.
3. A restart of the process makes no round under way again, and ends none early.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from fl_client.tables import METADATA, UNDER_WAY
from protocol.jobs import instant, moment_of
from storage.database import open_database, reading, writing

UPLOADS: Final = timedelta(hours=1)
"""As long as a server waits for uploads, where it does not say."""
UPLOADS_MAX: Final = timedelta(days=7)
STEP: Final = timedelta(minutes=10)
"""As long as a server waits for each step of opening a sum, by default."""

Key = tuple[str, int]


class UnderWay:
    """The rounds under way at one hospital; safe for threads.

    Args:
        path: The site's database.
        answered: Gives the rounds with an update of this site's whose sum is not opened.
        clock: Gives times with a time zone.
    """

    def __init__(
        self, path: Path, *, answered: Callable[[], list[Key]], clock: Callable[[], datetime]
    ) -> None:
        self._engine = open_database(path, METADATA, private=True)
        self._answered = answered
        self._clock = clock
        self._training: set[Key] = set()
        self._heard: dict[Key, datetime] = {}

    def rounds(self) -> list[Key]:
        """Return the studies and rounds that are under way now."""
        now = self._clock()
        training = list(self._training)
        waited = [key for key in self._answered() if key not in training]
        until = self._until() if waited else {}
        return [*training, *(key for key in waited if self._ends(key, until) > now)]

    @contextlib.contextmanager
    def training(self, study: str, number: int, wait_seconds: Any) -> Iterator[None]:
        """Count a round as under way while it is trained, and then until its server's time is over.

        Args:
            study: Of which study.
            number: Which round.
            wait_seconds: As the server said, who may say anything.
        """
        key = (study, number)
        until = self._clock() + _uploads(wait_seconds) + STEP
        self._training.add(key)
        try:
            self._keep(study, number, until)
            yield
        finally:
            self._training.discard(key)

    def heard(self, study: str, number: int) -> None:
        """Note that the server goes on with a round."""
        key = (study, number)
        self._heard = {one: at for one, at in self._heard.items() if one[0] != study}
        self._heard[key] = self._clock()

    def _ends(self, key: Key, until: dict[Key, datetime]) -> datetime:
        ends = [until[key]] if key in until else []
        if key in self._heard:
            ends.append(self._heard[key] + STEP)
        return max(ends, default=datetime.min.replace(tzinfo=self._clock().tzinfo))

    def _keep(self, study: str, number: int, until: datetime) -> None:
        with writing(self._engine) as connection:
            connection.execute(UNDER_WAY.delete().where(UNDER_WAY.c.study == study))
            row = {"study": study, "round": number, "until": instant(until)}
            connection.execute(UNDER_WAY.insert().values(**row))

    def _until(self) -> dict[Key, datetime]:
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(UNDER_WAY)).all()
        return {(row.study, row.round): moment_of(row.until) for row in rows}


def _uploads(said: Any) -> timedelta:
    """Return how long the server waits for uploads, from what it said."""
    if not isinstance(said, int) or isinstance(said, bool) or said <= 0:
        return UPLOADS
    return min(timedelta(seconds=min(said, UPLOADS_MAX.total_seconds())), UPLOADS_MAX)
