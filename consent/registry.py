"""The registry: publishes commitments to grants, takes them out on withdrawal, signs every state.

It keeps a Poseidon Merkle tree of depth 20 in which a grant is a leaf and everything else is 0.
It knows neither patients nor terms: a leaf is a commitment that only a hospital can open. Every
change makes a new epoch: a number, the root, the time, and the registry's signature. Proofs
refer to an epoch's root, so a withdrawal takes effect with the next epoch a server reads.

    >>> key = Ed25519PrivateKey.generate()
    >>> registry = Registry(":memory:", registry_id="registry", signing_key=key)
    >>> lane = registry.open_lane(StudyId("study"), SiteId("north"), "scans", capacity=100)
    >>> lane.chunks, lane.capacity
    (range(0, 2), 128)
    >>> now = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    >>> receipt = registry.publish(lane, 7, hashlib.sha256(b"code").digest(), now=now)
    >>> registry.epoch().number, registry.live_count(lane)
    (1, 1)
    >>> registry.withdraw(receipt.grant, b"code", now=now).epoch
    2

What holds (tests/consent/test_registry_machine.py, test_registry.py):

1. The root is that of a tree built anew from the log, after any interleaving of writers.
2. A withdrawal with the right code succeeds, and its leaf, place and grant never live again.
3. Epochs are numbered without gaps, each is signed, and the last one's root is the tree's.
4. Opened again, the registry is the same; a file in which a leaf, a grant, the log or the newest
   epoch was altered is refused.
5. The file holds no patient's number and nothing from which one could be computed.

Not signed are lanes and the hashes of withdrawal codes: whoever can write to the database could put
another hash in place and so hinder a withdrawal. The patient's receipt shows that the grant was
hers; her own signature over the hash comes with grants made in a browser.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.history import BEFORE_TIME, History
from consent.history import SignedEpoch as SignedEpoch  # noqa: PLC0414 - what epoch() returns
from consent.history import verify_epoch as verify_epoch  # noqa: PLC0414 - checks what it returns
from consent.lanes import CHUNK_SIZE, Lane, LaneUnknown, allot, read_lanes
from consent.reader import FORMAT, RegistryMissing, RegistryReader
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.store import EPOCHS, GRANTS, REGISTRY, open_tables
from protocol.errors import ConsentError
from protocol.ids import GrantId, SiteId, StudyId
from storage.database import name_of, writing
from zk.poseidon import FIELD

HASH_BYTES: Final = 32
GRANT_DIGITS: Final = 20
"""Hexadecimal digits of a grant's id, 80 bits: among a million two collide with chance 2^-41."""
PUBLISH_MAX: Final = 65_536
"""Grants in one call."""


class RegistryReadOnly(ConsentError):
    """A change was asked of a registry that was opened without its signing key."""

    code = "registry-read-only"

    def __init__(self) -> None:
        super().__init__(
            "this registry was opened for reading; changes need the registry's signing key"
        )


class LaneFull(ConsentError):
    """A lane has fewer free places than grants were to be published."""

    code = "lane-full"

    def __init__(self, lane: Lane, asked: int, free: int) -> None:
        self.lane = lane
        self.free = free
        super().__init__(
            f"the lane of {lane.site} in {lane.study} has {free} free places and {asked} are "
            "needed; open a larger lane under another data set name"
        )


class LeafUnusable(ConsentError):
    """A leaf cannot be published."""

    code = "leaf-unusable"

    def __init__(self, position: int, why: str) -> None:
        self.position = position
        super().__init__(
            f"grant {position} of this call cannot be published: {why}; make a new opening"
        )


class GrantUnknown(ConsentError):
    """The registry has published no grant of this id."""

    code = "grant-unknown"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(f"there is no grant {grant}; copy the id from the receipt")


class WithdrawalCodeWrong(ConsentError):
    """A code does not belong to the grant it was shown for."""

    code = "withdrawal-code-wrong"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(
            f"this is not the withdrawal code of grant {grant}; copy it from the same paper"
        )


class Registry(RegistryReader):
    """The registry over one database, which any number of instances and processes may share."""

    def __init__(
        self,
        database: str | Path | sa.Engine,
        *,
        registry_id: str | None,
        signing_key: Ed25519PrivateKey | None,
        public_key: bytes | None = None,
    ) -> None:
        """Open the registry, founding it with an empty tree where there is none.

        Args:
            database: A file, ``":memory:"``, or an engine of ``storage.database``.
            registry_id: Its name, which proofs and signatures bind.
            signing_key: Its key; None to read only.
            public_key: What the key should be, where there is no signing key.

        Raises:
            AnotherRegistry: The database belongs to a registry of another name, key or format.
            RegistryDamaged: It was altered or cut short.
            RegistryMissing: There is none, and without the key none can be founded.
            StorageError: The database cannot be used.
        """
        engine = open_tables(database)
        self._signing_key = signing_key
        if signing_key is not None:
            assert registry_id
            public_key = signing_key.public_key().public_bytes_raw()
            _found(engine, registry_id, signing_key)
        super().__init__(engine, registry_id=registry_id, public_key=public_key)

    @classmethod
    def reader(cls, database: str | Path, *, public_key: bytes | None = None) -> Self:
        """Open a registry that exists, for reading, without its signing key.

        Raises:
            RegistryMissing: There is none.
            AnotherRegistry: It has another key than ``public_key``.
            RegistryDamaged: It was altered or cut short.
        """
        if not Path(database).is_file():
            raise RegistryMissing(Path(database).name)
        return cls(database, registry_id=None, signing_key=None, public_key=public_key)

    # Changing

    def open_lane(
        self,
        study: StudyId,
        site: SiteId,
        dataset: str,
        capacity: int,
        chunk_size: int = CHUNK_SIZE,
    ) -> Lane:
        """Return the lane of this triple, opening it where there is none.

        Args:
            study: Whose purpose the grants are for.
            site: Whose patients they are.
            dataset: Of which data set.
            capacity: Grants it must take at least, over all time; rounded up to whole chunks.
            chunk_size: Leaves in a chunk; one size in a registry.

        Raises:
            LaneDiffers: It is open with a smaller capacity, or chunks here have another size.
            RegistryFull: The tree has no room.
            NumberTaken: Another name has the same number in consent terms.
        """
        with self._changing() as (connection, _, _):
            return allot(connection, study, site, dataset, capacity=capacity, chunk_size=chunk_size)

    def publish(self, lane: Lane, leaf: int, revoke_hash: bytes, *, now: datetime) -> GrantReceipt:
        """Publish one grant; see ``publish_many``."""
        return self.publish_many(lane, [(leaf, revoke_hash)], now=now)[0]

    def publish_many(
        self, lane: Lane, grants: Sequence[tuple[int, bytes]], now: datetime
    ) -> list[GrantReceipt]:
        """Publish grants in the next free places of a lane, all of them or none, in one epoch.

        Args:
            lane: From ``open_lane``.
            grants: Leaf and hash of the withdrawal code, 32 bytes, of each.
            now: With a time zone.

        Raises:
            LaneUnknown: The lane is not this registry's.
            LaneFull: It has too few free places.
            LeafUnusable: A leaf is 0, no field element, or was published before, ever.
            StorageError: The disk refused; nothing was published.
        """
        assert len(grants) <= PUBLISH_MAX
        assert all(len(revoke_hash) == HASH_BYTES for _, revoke_hash in grants)
        if not grants:
            return []
        with self._changing() as (connection, history, key):
            first = self._free_place(connection, lane, len(grants))
            self._check_leaves(connection, [leaf for leaf, _ in grants])
            at = _utc(now)
            receipts = [
                GrantReceipt(
                    self.id,
                    b"",
                    grant=self._grant_id(leaf),
                    index=index,
                    leaf=leaf,
                    epoch=history.epoch.number + 1,
                    at=at,
                ).signed_by(key)
                for index, (leaf, _) in enumerate(grants, first)
            ]
            connection.execute(
                sa.insert(GRANTS),
                [
                    {
                        "place": receipt.index,
                        "grant": receipt.grant,
                        "lane": lane.first_chunk,
                        "leaf": receipt.leaf,
                        "revoke_hash": revoke_hash,
                    }
                    for receipt, (_, revoke_hash) in zip(receipts, grants, strict=True)
                ],
            )
            self._history = None  # until it is committed
            leaves = {receipt.index: receipt.leaf for receipt in receipts}
            history.append(connection, leaves, at, key)
        return receipts

    def withdraw(self, grant: GrantId, code: bytes, *, now: datetime) -> WithdrawalReceipt:
        """End a grant for good; a second time returns the receipt of the first.

        Nothing but the code is asked, and neither expiry nor a running round delays it.

        Args:
            grant: As on the receipt.
            code: The secret that the patient keeps.
            now: With a time zone.

        Raises:
            GrantUnknown: There is no such grant.
            WithdrawalCodeWrong: The code is another grant's, or nobody's.
            StorageError: The disk refused; the grant is as it was.
        """
        with self._changing() as (connection, history, key):
            row = connection.execute(
                sa.select(GRANTS, EPOCHS.c.at).outerjoin(EPOCHS).where(GRANTS.c.grant == grant)
            ).first()
            if row is None:
                raise GrantUnknown(grant)
            if not hmac.compare_digest(hashlib.sha256(code).digest(), row.revoke_hash):
                raise WithdrawalCodeWrong(grant)
            epoch, at = row.withdrawn_epoch, row.at
            if epoch is None:
                at = _utc(now)
                epoch = history.epoch.number + 1
                self._history = None  # until it is committed
                history.append(connection, {row.place: 0}, at, key)
                connection.execute(
                    sa.update(GRANTS)
                    .where(GRANTS.c.place == row.place)
                    .values(withdrawn_epoch=epoch)
                )
        receipt = WithdrawalReceipt(self.id, b"", grant=grant, index=row.place, epoch=epoch, at=at)
        return receipt.signed_by(key)

    # Below

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[sa.Connection, History, Ed25519PrivateKey]]:
        """Give a connection with the write lock, the newest history and the signing key.

        Whoever appends to the history sets ``self._history`` to None before: should the commit
        fail, the tree in memory is ahead of the disk and is read anew.
        """
        if self._signing_key is None:
            raise RegistryReadOnly
        with self._lock:
            assert not self._held, "a snapshot holds this instance"
            with writing(self._engine) as connection:
                history = self._caught_up(connection)
                yield connection, history, self._signing_key
            self._history = history

    def _free_place(self, connection: sa.Connection, lane: Lane, asked: int) -> int:
        if lane not in read_lanes(connection):
            raise LaneUnknown(f"{lane.site} in {lane.study}")
        used = connection.execute(
            sa.select(sa.func.count()).where(GRANTS.c.lane == lane.first_chunk)
        ).scalar_one()
        if used + asked > lane.capacity:
            raise LaneFull(lane, asked, lane.capacity - used)
        return lane.indices.start + int(used)

    def _check_leaves(self, connection: sa.Connection, leaves: Sequence[int]) -> None:
        published = sa.select(GRANTS.c.grant).where(GRANTS.c.leaf == sa.bindparam("leaf"))
        seen: set[int] = set()
        for position, leaf in enumerate(leaves):
            if not 0 < leaf < FIELD:
                raise LeafUnusable(position, "it is not a commitment")
            if leaf in seen or connection.execute(published, {"leaf": leaf}).first() is not None:
                raise LeafUnusable(position, "its leaf was published before")
            seen.add(leaf)

    def _grant_id(self, leaf: int) -> GrantId:
        digest = hashlib.sha256(f"bithive grant\n{self.id}\n{leaf}".encode()).hexdigest()
        return GrantId(digest[:GRANT_DIGITS])


def _found(engine: sa.Engine, registry_id: str, key: Ed25519PrivateKey) -> None:
    """Sign the empty tree as epoch 0, where no registry is."""
    public_key = key.public_key().public_bytes_raw()
    with writing(engine) as connection:
        if connection.execute(sa.select(REGISTRY)).first() is None:
            connection.execute(
                sa.insert(REGISTRY).values(format=FORMAT, id=registry_id, public_key=public_key)
            )
            empty = History.before(name_of(engine), registry_id, public_key)
            empty.append(connection, {}, BEFORE_TIME, key)


def _utc(now: datetime) -> str:
    assert now.tzinfo is not None
    return now.astimezone(UTC).isoformat()
