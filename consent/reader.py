"""Reading a registry: lanes, leaves, roots and paths, as of its newest signed epoch.

All of it is public. A reader needs no key and believes the database only as far as it leads to
what the registry signed. Readers and writers may share the database, from any number of processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from consent.epochs import EpochLine, SignedEpoch
from consent.history import History, read_lines, read_log
from consent.lanes import Lane, LaneUnknown, read_lanes
from consent.log import TREE_DEPTH, LogEntry
from consent.publication import next_place
from consent.store import CHANGES, EPOCHS, GRANTS, LANES, REGISTRY
from consent.withdrawal import find_grant
from protocol.errors import ConsentError
from protocol.ids import GrantId, SiteId, StudyId
from storage.database import name_of, reading

FORMAT: Final = 2
"""Of the database; another one is refused."""
PAGE_EPOCHS_MAX: Final = 1_000
"""Epochs in a page of the log."""
PAGE_CHANGES_MAX: Final = 10_000
"""Changes of leaves in a page of the log, unless its only epoch has more."""


class RegistryMissing(ConsentError):
    """There is no registry at the place it should be read from."""

    code = "registry-missing"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} holds no consent registry; create it or name the right file")


class AnotherRegistry(ConsentError):
    """The database belongs to a registry of another name, key or format."""

    code = "another-registry"

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        super().__init__(
            f"the consent registry in {name} has another {what} than it should; "
            "name the right file or the right key"
        )


class EpochUnknown(ConsentError):
    """The registry has signed no epoch of this number."""

    code = "epoch-unknown"

    def __init__(self, number: int, newest: int) -> None:
        self.number = number
        self.newest = newest
        super().__init__(f"there is no epoch {number}; ask for one from 0 to {newest}")


@dataclass(frozen=True)
class GrantStatus:
    """What became of one grant."""

    grant: GrantId
    lane: Lane
    index: int
    leaf: int
    nullifier: int | None
    """Of a proven grant."""
    granted_epoch: int
    granted_at: str
    """ISO 8601, UTC, like ``ended_at``."""
    ended_epoch: int | None
    ended_at: str | None
    replaced_by: GrantId | None
    """The same person's next grant, if that ended this one."""

    @property
    def is_live(self) -> bool:
        """Whether its leaf is in the tree."""
        return self.ended_epoch is None


class RegistryReader:
    """What anybody may ask of a registry."""

    def __init__(
        self, engine: sa.Engine, *, registry_id: str | None, public_key: bytes | None
    ) -> None:
        """Read the registry and hold it against what it signed.

        Args:
            engine: Over a database with the tables of ``consent.store``.
            registry_id: Its name, where the caller knows it.
            public_key: Its key, 32 raw bytes, where the caller knows it.

        Raises:
            RegistryMissing: The tables are empty.
            AnotherRegistry: It has another name, key or format.
            RegistryDamaged: It was altered or cut short.
        """
        self._engine = engine
        self._name = name_of(engine)
        self._lock = threading.RLock()
        self._held = 0
        self._history: History | None = None
        with reading(engine) as connection:
            row = connection.execute(sa.select(REGISTRY)).first()
        if row is None:
            raise RegistryMissing(self._name)
        for what, found, expected in (
            ("format", row.format, FORMAT),
            ("name", row.id, registry_id),
            ("key", row.public_key, public_key),
        ):
            if expected is not None and found != expected:
                raise AnotherRegistry(self._name, what)
        self.id: str = row.id
        self.public_key: bytes = row.public_key
        self.epoch()

    def close(self) -> None:
        """Close the database; what was changed is on the disk already."""
        self._engine.dispose()

    def epoch(self) -> SignedEpoch:
        """Return the newest signed state."""
        return self._current().epoch

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[SignedEpoch]:
        """Hold this instance at one epoch: all that is read inside belongs to it.

        Nothing can be changed through this instance meanwhile; others may go on.
        """
        with self._lock:
            epoch = self.epoch()
            self._held += 1
            try:
                yield epoch
            finally:
                self._held -= 1

    def lanes(self) -> list[Lane]:
        """Return all lanes in the order of their chunks."""
        with reading(self._engine) as connection:
            return read_lanes(connection)

    def lane_of_chunk(self, chunk: int) -> Lane:
        """Return the lane that a chunk belongs to.

        Raises:
            LaneUnknown: It belongs to none.
        """
        for lane in self.lanes():
            if chunk in lane.chunks:
                return lane
        raise LaneUnknown(f"chunk {chunk}")

    def leaves(self, lane: Lane) -> list[int]:
        """Return the leaves of a lane in order; 0 where nothing is, or nothing any more."""
        with self._lock:
            tree = self._current().tree
            return [tree.leaf(index) for index in lane.indices]

    def free_places(self, lane: Lane) -> int:
        """Return how many grants a lane can still take; a withdrawn grant's place is not free."""
        with reading(self._engine) as connection:
            return lane.indices.stop - next_place(connection, lane)

    def live_count(self, lane: Lane) -> int:
        """Return how many grants of a lane are live."""
        return sum(leaf != 0 for leaf in self.leaves(lane))

    def chunk_leaves(self, chunk: int) -> list[int]:
        """Return the leaves of a chunk in order.

        Raises:
            LaneUnknown: The chunk belongs to no lane.
        """
        lane = self.lane_of_chunk(chunk)
        start = (chunk - lane.first_chunk) * lane.chunk_size
        return self.leaves(lane)[start : start + lane.chunk_size]

    def chunk_root(self, chunk: int) -> int:
        """Return the node of the tree that covers a chunk, which a certificate proves about.

        Raises:
            LaneUnknown: The chunk belongs to no lane.
        """
        level = self.lane_of_chunk(chunk).chunk_level
        with self._lock:
            return self._current().tree.node(level, chunk)

    def chunk_path(self, chunk: int) -> list[int]:
        """Return the siblings from a chunk's node up to the root, lowest first.

        Raises:
            LaneUnknown: The chunk belongs to no lane.
        """
        level = self.lane_of_chunk(chunk).chunk_level
        with self._lock:
            return self._current().tree.path(chunk, level=level)

    def leaf_path(self, index: int) -> list[int]:
        """Return the siblings from a leaf up to the root, for whoever holds its receipt."""
        assert 0 <= index < 1 << TREE_DEPTH
        with self._lock:
            return self._current().tree.path(index)

    def log(self) -> list[LogEntry]:
        """Return every change of a leaf since the beginning; ``consent.log.rebuild`` replays it."""
        with reading(self._engine) as connection:
            return read_log(connection)

    def log_page(self, *, after: int = -1, epochs_max: int = PAGE_EPOCHS_MAX) -> list[EpochLine]:
        """Return the next lines of the public log; an empty page is its end.

        Args:
            after: Number of the last epoch that is known already; -1 for the beginning.
            epochs_max: Lines wanted, up to ``PAGE_EPOCHS_MAX``. There are fewer where the changes
                would pass ``PAGE_CHANGES_MAX``, but one at least.
        """
        assert 1 <= epochs_max <= PAGE_EPOCHS_MAX
        with reading(self._engine) as connection:
            through = after + epochs_max
            first = sa.select(sa.func.min(CHANGES.c.sequence)).where(CHANGES.c.epoch > after)
            start = connection.execute(first).scalar()
            if start is not None:
                beyond = sa.select(CHANGES.c.epoch).where(
                    CHANGES.c.sequence == start + PAGE_CHANGES_MAX
                )
                cut = connection.execute(beyond).scalar()
                if cut is not None:
                    through = min(through, max(cut - 1, after + 1))
            return list(read_lines(connection, self.id, after=after, through=through))

    def status(self, grant: GrantId) -> GrantStatus:
        """Return what became of a grant.

        Raises:
            GrantUnknown: There is no such grant.
        """
        with reading(self._engine) as connection:
            row = find_grant(connection, grant)
            lane = next(one for one in read_lanes(connection) if one.first_chunk == row.lane)
            times = connection.execute(
                sa.select(CHANGES.c.epoch, EPOCHS.c.at)
                .join(EPOCHS, CHANGES.c.epoch == EPOCHS.c.number)
                .where(CHANGES.c.place == row.place)
                .order_by(CHANGES.c.sequence)
            ).all()
            heir = connection.execute(
                sa.select(GRANTS.c.grant).where(GRANTS.c.place == row.replaced_by)
            ).scalar()
        return GrantStatus(
            grant=grant,
            lane=lane,
            index=row.place,
            leaf=row.leaf,
            nullifier=row.nullifier,
            granted_epoch=times[0].epoch,
            granted_at=times[0].at,
            ended_epoch=row.withdrawn_epoch,
            ended_at=None if row.withdrawn_epoch is None else times[-1].at,
            replaced_by=None if heir is None else GrantId(heir),
        )

    def live_grant(self, nullifier: int) -> GrantId | None:
        """Return the live grant that carries a nullifier; a person has one at most in a study."""
        live = (GRANTS.c.nullifier == nullifier) & GRANTS.c.withdrawn_epoch.is_(None)
        with reading(self._engine) as connection:
            found = connection.execute(sa.select(GRANTS.c.grant).where(live)).scalar()
        return None if found is None else GrantId(found)

    def epoch_at(self, number: int) -> SignedEpoch:
        """Return a signed state of the past.

        Raises:
            EpochUnknown: There is none of this number.
        """
        with reading(self._engine) as connection:
            line = next(read_lines(connection, self.id, after=number - 1, through=number), None)
        if line is None:
            raise EpochUnknown(number, self.epoch().number)
        return line.epoch

    def leaves_at(self, lane: Lane, epoch: int) -> list[int]:
        """Return the leaves of a lane in order as of an epoch; 0 where nothing was.

        Raises:
            EpochUnknown: There is no such epoch.
        """
        self._check_epoch(epoch)
        leaves = [0] * lane.capacity
        changed = sa.select(CHANGES.c.place, CHANGES.c.leaf).where(
            CHANGES.c.place >= lane.indices.start,
            CHANGES.c.place < lane.indices.stop,
            CHANGES.c.epoch <= epoch,
        )
        with reading(self._engine) as connection:
            for place, leaf in connection.execute(changed.order_by(CHANGES.c.sequence)):
                leaves[place - lane.indices.start] = leaf
        return leaves

    def payout_ids(self, study: StudyId, site: SiteId, *, epoch: int | None = None) -> list[int]:
        """Return the payout ids of a site's live grants in a study, in the order of their leaves.

        Grants that a hospital made have none. This is what ``ClaimBook.open_payout`` takes.

        Args:
            study: Which study.
            site: Which hospital, over all its lanes there.
            epoch: As of this one; None for the newest.

        Raises:
            EpochUnknown: There is no such epoch.
        """
        number = self.epoch().number if epoch is None else epoch
        self._check_epoch(number)
        wanted = (
            sa.select(GRANTS.c.payout_id)
            .join(LANES, GRANTS.c.lane == LANES.c.first_chunk)
            .join(CHANGES, (CHANGES.c.place == GRANTS.c.place) & (CHANGES.c.leaf == GRANTS.c.leaf))
            .where(
                LANES.c.study == study,
                LANES.c.site == site,
                GRANTS.c.payout_id.is_not(None),
                CHANGES.c.epoch <= number,
                GRANTS.c.withdrawn_epoch.is_(None) | (GRANTS.c.withdrawn_epoch > number),
            )
            .order_by(GRANTS.c.place)
        )
        with reading(self._engine) as connection:
            return list(connection.execute(wanted).scalars())

    def _check_epoch(self, number: int) -> None:
        newest = self.epoch().number
        if not 0 <= number <= newest:
            raise EpochUnknown(number, newest)

    def _current(self) -> History:
        with self._lock:
            if self._held and self._history is not None:
                return self._history
            with reading(self._engine) as connection:
                return self._caught_up(connection)

    def _caught_up(self, connection: sa.Connection) -> History:
        history, self._history = self._history, None  # a history that fails is not kept
        if history is None:
            history = History.load(connection, self._name, self.id, self.public_key)
        else:
            history.catch_up(connection)
        self._history = history
        return history
