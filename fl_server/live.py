"""What a run is doing, for readers: an append-only list of events in the server's database.

The engine writes while others read, on SQLite and PostgreSQL alike; a reader keeps the position of
the last event it saw and asks for those after it. ::

    store = ServerStore(folder / "server.db")
    seen = 0
    while True:
        for event in store.events.since(seen):
            seen = event.position
            print(event.at, event.round, event.phase, event.kind, event.site, event.code)
        print(summary(store).eta_seconds)  # of fl_server.standing
        time.sleep(1)

Events say what the server sees anyway: phases, sites, bytes, seconds, codes of refusal and metrics
of a whole round. They have no field for words, so that no fact about a patient can be in one.

What holds, each a test in tests/fl_server/test_live.py:

1. Positions count from 1 without gaps in the order of commits: who reads up to one has them all.
2. An event is never changed. One that belongs to a stored answer is stored with it.
3. Durations are the server's monotonic clock's, whatever its wall clock says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, get_args

import sqlalchemy as sa

from fl_server.database import ServerDatabase
from fl_server.tables import EVENTS
from protocol.ids import SiteId

Kind = Literal["run", "phase", "joined", "answered", "refused", "late", "closed", "metrics"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
_INSERT: Final = EVENTS.insert()
_LAST: Final = sa.select(sa.func.max(EVENTS.c.position))
EVENTS_MAX: Final = 10_000
"""How many events one call of ``since`` returns at most; ask again from the last one's position."""


@dataclass(frozen=True)
class RunEvent:
    """One thing that happened in a run.

    Attributes:
        position: From 1, in order; 0 before it is stored.
        at: UTC, as the server's wall clock had it; for people.
        kind: ``run`` a server began or ended (``code``: started, finished, or an error's code);
            ``phase`` one was entered (``numbers``: ``deadline_seconds``, ``quorum``, ``asked``);
            ``joined`` a site said who it is; ``answered`` a site's answer was accepted; ``refused``
            an answer was refused, or there was none (``code``); ``late`` it came after its phase
            (``code``); ``closed`` a round was closed (``seconds``: what it took; ``code``:
            ``with-update`` or ``without-update``); ``metrics`` (``numbers``) of a round's model.
        round: Its number, 0 before the first.
        phase: ``roster``, ``uploads``, ``unmasking``, ``opening``, ``closing``, ``scoring``; empty
            where it is of none.
        site: Whose, or None.
        code: A refusal's code, or one word as above.
        seconds: Since its phase began, or as above.
        bytes: Of the answer.
        numbers: Names and numbers.
    """

    kind: Kind
    round: int = 0
    phase: str = ""
    site: SiteId | None = None
    code: str = ""
    seconds: float | None = None
    bytes: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    at: str = ""
    position: int = 0


class RunEvents:
    """The events of a run; ``ServerStore.events`` is the one of its database."""

    def __init__(
        self, database: ServerDatabase, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._now = now
        self._batch = _Batch()

    def append(self, event: RunEvent) -> None:
        """Keep an event now, in a transaction of its own; anybody may, the engine running or not.

        Raises:
            StorageError: The disk refused.
        """
        self.tell(event)
        self._database.flush()

    def tell(self, event: RunEvent) -> None:
        """Keep an event with the next thing that is stored, or with ``flush``."""
        at = self._now().isoformat(timespec="milliseconds")
        if self._batch.is_written or not self._batch.events:
            self._batch = _Batch()
            self._database.tell(self._batch.write)
        self._batch.events.append((event, at))

    def flush(self) -> None:
        """Keep the events that wait."""
        self._database.flush()

    def since(self, position: int = 0, *, limit: int = EVENTS_MAX) -> list[RunEvent]:
        """Return the events after ``position`` in order, ``limit`` at most."""
        query = sa.select(EVENTS).where(EVENTS.c.position > position)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(EVENTS.c.position).limit(limit)).all()
        return [_event(row) for row in rows]

    def last(self) -> int:
        """Return the position of the last event, 0 for none."""
        with self._database.reading() as connection:
            return connection.execute(_LAST).scalar_one() or 0


@dataclass
class _Batch:
    """Events that are written by one transaction; by another where that one failed."""

    events: list[tuple[RunEvent, str]] = field(default_factory=list)
    is_written: bool = False

    def write(self, connection: sa.Connection) -> None:
        self.is_written = True
        last = connection.execute(_LAST).scalar_one() or 0
        rows = [
            {
                "position": position,
                "at": at,
                "kind": event.kind,
                "round": event.round,
                "phase": event.phase,
                "site": event.site,
                "code": event.code,
                "seconds": event.seconds,
                "bytes": event.bytes,
                "numbers": json.dumps(dict(event.numbers), sort_keys=True, allow_nan=False),
            }
            for position, (event, at) in enumerate(self.events, last + 1)
        ]
        connection.execute(_INSERT, rows)


def _event(row: sa.Row[tuple[object, ...]]) -> RunEvent:
    return RunEvent(
        kind=row.kind,
        round=row.round,
        phase=row.phase,
        site=None if row.site is None else SiteId(row.site),
        code=row.code,
        seconds=row.seconds,
        bytes=row.bytes,
        numbers=json.loads(row.numbers),
        at=row.at,
        position=row.position,
    )
