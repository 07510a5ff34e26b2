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
    >>> import hashlib
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
6. A person who proves her grants has one live leaf in a study at most (tests/consent/
   test_registry_proven.py).

Of a hospital-made grant the patient must trust the hospital that it kept the right hash of her code
there; of a proven one her own proof names the hash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.enrolment import EnrolmentGroup
from consent.epochs import SignedEpoch as SignedEpoch  # noqa: PLC0414 - what epoch() returns
from consent.epochs import verify_epoch as verify_epoch  # noqa: PLC0414 - checks what it returns
from consent.grants_by_proof import check_grant_proof, check_withdrawal_proof
from consent.history import BEFORE_TIME, History
from consent.lanes import CHUNK_SIZE, Lane, LanePolicy, allot, read_lanes
from consent.publication import Checked, ProvenGrant, publish
from consent.reader import FORMAT, RegistryMissing, RegistryReader
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.store import CHANGES, EPOCHS, GRANTS, LANES, REGISTRY, lock, open_tables
from consent.withdrawal import (
    GrantOfAnotherSite,
    GrantReplaced,
    NotProven,
    SiteWithdrawal,
    check_code,
    end,
    find_grant,
    newest_of,
)
from protocol.errors import ConsentError
from protocol.ids import GrantId, SiteId, StudyId
from storage.database import name_of, reading, writing
from zk import groth16
from zk.semaphore import SemaphoreProof, Verifier

HASH_BYTES: Final = 32
PUBLISH_MAX: Final = 65_536
"""Grants in one call."""


class RegistryReadOnly(ConsentError):
    """A change was asked of a registry that was opened without its signing key."""

    code = "registry-read-only"

    def __init__(self) -> None:
        super().__init__(
            "this registry was opened for reading; changes need the registry's signing key"
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
        *,
        policy: LanePolicy = LanePolicy.HOSPITAL,
    ) -> Lane:
        """Return the lane of this triple, opening it where there is none.

        Args:
            study: Whose purpose the grants are for.
            site: Whose patients they are.
            dataset: Of which data set.
            capacity: Grants it must take at least, over all time; rounded up to whole chunks.
            chunk_size: Leaves in a chunk; one size in a registry.
            policy: Whose word a grant in it rests on; ``PROVEN`` in production.

        Raises:
            LaneDiffers: It is open with a smaller capacity or another policy, or chunks here have
                another size.
            RegistryFull: The tree has no room.
            NumberTaken: Another name has the same number in consent terms.
        """
        with self._changing() as (connection, history, _):
            return allot(
                connection,
                study,
                site,
                dataset,
                capacity=capacity,
                chunk_size=chunk_size,
                policy=policy,
                epoch=history.epoch.number + 1,
            )

    def publish(self, lane: Lane, leaf: int, revoke_hash: bytes, *, now: datetime) -> GrantReceipt:
        """Publish one grant on a hospital's word; see ``publish_many``."""
        return self.publish_many(lane, [(leaf, revoke_hash)], now=now)[0]

    def publish_many(
        self, lane: Lane, grants: Sequence[tuple[int, bytes]], now: datetime
    ) -> list[GrantReceipt]:
        """Publish grants on a hospital's word, all of them or none, in one epoch.

        They take the next free places of the lane.

        Args:
            lane: From ``open_lane``.
            grants: Leaf and hash of the withdrawal code, 32 bytes, of each.
            now: With a time zone.

        Raises:
            LaneUnknown: The lane is not this registry's.
            LaneProvenOnly: It takes no grants on a hospital's word.
            LaneFull: It has too few free places.
            LeafUnusable: A leaf is 0, no field element, or was published before, ever.
            StorageError: The disk refused; nothing was published.
        """
        assert len(grants) <= PUBLISH_MAX
        assert all(len(revoke_hash) == HASH_BYTES for _, revoke_hash in grants)
        if not grants:
            return []
        checked = [Checked(lane, leaf, revoke_hash) for leaf, revoke_hash in grants]
        with self._changing() as (connection, history, key):
            return publish(connection, history, key, checked, _utc(now))

    def publish_proven(
        self,
        lane: Lane,
        grant: ProvenGrant,
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> GrantReceipt:
        """Publish a grant that an enrolled person proved; see ``publish_proven_many``."""
        grants = [(lane, grant)]
        return self.publish_proven_many(grants, group=group, now=now, verifier=verifier)[0]

    def publish_proven_many(
        self,
        grants: Sequence[tuple[Lane, ProvenGrant]],
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> list[GrantReceipt]:
        """Publish proven grants, all of them or none, in one epoch.

        A person's live grant in the same study, in whatever lane, ends in the same epoch; the
        receipt's ``replaces`` names it.

        Args:
            grants: Each with its lane; of a person one at most.
            group: The enrolment group.
            now: With a time zone.
            verifier: The reference (1.1 s a proof), or ``zk.fast.verify`` (2 ms).

        Raises:
            PayoutIdUnusable, ScopeWrong, MessageWrong, ProofInvalid: See ``check_grant_proof``.
            EnrolmentRootUnknown, EnrolmentRootStale: Likewise, now or when it was to be written.
            LaneUnknown: A lane is not this registry's.
            LaneFull: It has too few free places.
            LeafUnusable: A leaf is 0, no field element, or was published before, ever.
            StorageError: The disk refused; nothing was published.
        """
        assert len(grants) <= PUBLISH_MAX
        if not grants:
            return []
        checked = [
            self.check_grant(*one, group=group, now=now, verifier=verifier) for one in grants
        ]
        with self._changing() as (connection, history, key):
            # Who has left the group while proofs were verified grants no more.
            for root in {grant.proof.root for _, grant in grants}:
                group.check_root(root, now=now)
            return publish(connection, history, key, checked, _utc(now))

    def check_grant(
        self,
        lane: Lane,
        grant: ProvenGrant,
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> Checked:
        """Verify all of a proven grant but the state of the registry; see ``publish_proven``."""
        assert len(grant.revoke_hash) == HASH_BYTES
        nullifier = check_grant_proof(
            grant.proof,
            lane.study,
            grant.leaf,
            lane,
            grant.payout_id,
            grant.revoke_hash,
            registry=self.id,
            group=group,
            now=now,
            verifier=verifier,
        )
        return Checked(
            lane,
            grant.leaf,
            grant.revoke_hash,
            nullifier=nullifier,
            payout_id=grant.payout_id,
            proof=grant.proof.to_json(),
        )

    def publish_checked(self, grants: Sequence[Checked], *, now: datetime) -> list[GrantReceipt]:
        """Publish grants that ``check_grant`` returned, in this order, in one epoch.

        Raises:
            LaneUnknown, LaneProvenOnly, LaneFull, LeafUnusable, StorageError: See
                ``publish_proven_many``.
        """
        if not grants:
            return []
        with self._changing() as (connection, history, key):
            return publish(connection, history, key, grants, _utc(now))

    def withdraw(self, grant: GrantId, code: bytes, *, now: datetime) -> WithdrawalReceipt:
        """End a grant for good; a second time returns the receipt of the first.

        Nothing but the code is asked, and neither expiry nor a running round delays it. A code of a
        grant that was replaced ends what took its place, and the receipt names that.

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
            row = find_grant(connection, grant)
            check_code(row, code)
            return end(connection, history, key, newest_of(connection, row), _utc(now))

    def withdraw_proven(
        self,
        grant: GrantId,
        proof: SemaphoreProof,
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> WithdrawalReceipt:
        """End a grant for good by a proof of the person who gave it; again, likewise.

        Args:
            grant: As on the receipt.
            proof: From anybody; says ``consent.grants_by_proof.withdrawal_message``.
            group: The enrolment group.
            now: With a time zone.
            verifier: The reference, or ``zk.fast.verify``.

        Raises:
            GrantUnknown: There is no such grant.
            NotProven: A hospital made it.
            GrantOfAnother, ScopeWrong, MessageWrong, EnrolmentRootUnknown, ProofInvalid: See
                ``check_withdrawal_proof``.
            GrantReplaced: Another grant has taken its place.
            StorageError: The disk refused; the grant is as it was.
        """
        with reading(self._engine) as connection:
            row = find_grant(connection, grant)
        if row.nullifier is None:
            raise NotProven(grant)
        check_withdrawal_proof(
            proof,
            next(lane.study for lane in self.lanes() if lane.first_chunk == row.lane),
            row.leaf,
            row.nullifier,
            registry=self.id,
            group=group,
            verifier=verifier,
        )
        with self._changing() as (connection, history, key):
            row = find_grant(connection, grant)
            if row.replaced_by is not None:
                raise GrantReplaced(grant, GrantId(newest_of(connection, row).grant))
            return end(connection, history, key, row, _utc(now))

    def withdraw_checked(self, grant: GrantId, *, now: datetime) -> WithdrawalReceipt:
        """End a grant, or what took its place, whose giver the caller has made sure of.

        ``consent.batching`` has checked her code or proof for a grant that waited.

        Raises:
            GrantUnknown: There is no such grant.
            StorageError: The disk refused; the grant is as it was.
        """
        with self._changing() as (connection, history, key):
            row = newest_of(connection, find_grant(connection, grant))
            return end(connection, history, key, row, _utc(now))

    def withdraw_for_site(
        self, statement: SiteWithdrawal, site_key: bytes, *, now: datetime
    ) -> WithdrawalReceipt:
        """End a grant for good because its hospital says so; again, likewise.

        Args:
            statement: Signed by the hospital.
            site_key: The hospital's Ed25519 key, 32 raw bytes.
            now: With a time zone.

        Raises:
            NotSignedByHospital: It did not sign that.
            GrantUnknown: There is no such grant.
            GrantOfAnotherSite: It is in another hospital's lane.
            StorageError: The disk refused; the grant is as it was.
        """
        statement.check(site_key)
        with self._changing() as (connection, history, key):
            row = find_grant(connection, statement.grant)
            sites = {lane.first_chunk: lane.site for lane in read_lanes(connection)}
            if sites[row.lane] != statement.site:
                raise GrantOfAnotherSite(statement.grant, statement.site)
            return end(connection, history, key, row, _utc(now))

    # Receipts again

    def receipt(self, grant: GrantId) -> GrantReceipt:
        """Return the receipt that publishing a grant returned, to the byte.

        Raises:
            GrantUnknown: There is no such grant.
        """
        with reading(self._engine) as connection:
            place = find_grant(connection, grant).place
            return self._receipts(connection, GRANTS.c.place == place)[0]

    def receipts(self, lane: Lane, epoch: int) -> list[GrantReceipt]:
        """Return the receipts of all grants that an epoch published in a lane, by their places.

        Raises:
            EpochUnknown: There is no such epoch.
        """
        self._check_epoch(epoch)
        wanted = (GRANTS.c.lane == lane.first_chunk) & (CHANGES.c.epoch == epoch)
        with reading(self._engine) as connection:
            return self._receipts(connection, wanted)

    def _receipts(
        self, connection: sa.Connection, wanted: sa.ColumnElement[bool]
    ) -> list[GrantReceipt]:
        if self._signing_key is None:
            raise RegistryReadOnly
        before = GRANTS.alias()
        found = (
            sa.select(GRANTS, CHANGES.c.epoch, EPOCHS.c.at, LANES.c.policy)
            .add_columns(before.c.grant.label("replaces"))
            .join(CHANGES, (CHANGES.c.place == GRANTS.c.place) & (CHANGES.c.leaf == GRANTS.c.leaf))
            .join(EPOCHS, EPOCHS.c.number == CHANGES.c.epoch)
            .join(LANES, LANES.c.first_chunk == GRANTS.c.lane)
            .outerjoin(before, before.c.replaced_by == GRANTS.c.place)
            .where(wanted)
            .order_by(GRANTS.c.place)
        )
        return [
            GrantReceipt(
                self.id,
                b"",
                grant=GrantId(row.grant),
                index=row.place,
                leaf=row.leaf,
                epoch=row.epoch,
                at=row.at,
                policy=row.policy,
                proven=row.proof is not None,
                replaces=None if row.replaces is None else GrantId(row.replaces),
            ).signed_by(self._signing_key)
            for row in connection.execute(found)
        ]

    # Below

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[sa.Connection, History, Ed25519PrivateKey]]:
        """Give a connection with the write lock, the newest history and the signing key.

        Should the commit fail, a tree that was changed is ahead of the disk and is read anew.
        """
        if self._signing_key is None:
            raise RegistryReadOnly
        with self._lock:
            assert not self._held, "a snapshot holds this instance"
            history = None
            try:
                with writing(self._engine) as connection:
                    lock(connection)
                    history = self._caught_up(connection)
                    yield connection, history, self._signing_key
            except BaseException:
                if history is not None and history.is_ahead:
                    self._history = None
                raise
            history.is_ahead = False


def _found(engine: sa.Engine, registry_id: str, key: Ed25519PrivateKey) -> None:
    """Sign the empty tree as epoch 0, where no registry is."""
    public_key = key.public_key().public_bytes_raw()
    with writing(engine) as connection:
        lock(connection)
        if connection.execute(sa.select(REGISTRY)).first() is None:
            connection.execute(
                sa.insert(REGISTRY).values(format=FORMAT, id=registry_id, public_key=public_key)
            )
            empty = History.before(name_of(engine), registry_id, public_key)
            empty.append(connection, [], BEFORE_TIME, key)


def _utc(now: datetime) -> str:
    assert now.tzinfo is not None
    return now.astimezone(UTC).isoformat()
