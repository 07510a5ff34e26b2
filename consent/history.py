"""The registry's history: the tree of leaves, its log of changes, and its signed epochs.

The tree lives in memory and the log in the database; an instance reads what others have added
before it answers, so several processes may hold the same registry. What is read is believed
only if it leads to the root and the head of the newest epoch and the registry's key signed both.

Somebody who holds the key could sign another history. Others notice by comparing epochs and logs
(``consent.rebuilding``); nobody notices an old copy put back before it is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.epochs import FIRST_HEAD, EpochLine, SignedEpoch, SignedHead, head_after
from consent.lanes import Lane, lane_of
from consent.log import TREE_DEPTH, LogEntry
from consent.receipts import NotSignedByRegistry
from consent.store import CHANGES, EPOCHS, GRANTS, LANES
from protocol.errors import StorageError
from zk.merkle import MerkleTree

BEFORE_TIME: Final = "1970-01-01T00:00:00+00:00"
"""The time of epoch 0, the empty tree, before anything was published."""


class RegistryDamaged(StorageError):
    """The registry's database is not what it signed."""

    code = "registry-damaged"

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why
        super().__init__(
            f"the consent registry in {name} was altered or cut short: {why}; restore it from "
            "its last backup and compare its log with a published one"
        )


@dataclass
class History:
    """The tree as of one epoch."""

    name: str
    """Of the database, for messages."""
    registry: str
    public_key: bytes
    tree: MerkleTree
    sequence: int
    """Of the last change in the tree."""
    epoch: SignedEpoch
    head: bytes
    """Of the log up to this epoch."""
    is_ahead: bool = False
    """Something was appended that may not be committed."""

    @classmethod
    def before(cls, name: str, registry: str, public_key: bytes) -> History:
        """Return what is before everything: the empty tree, and no epoch yet."""
        tree = MerkleTree(TREE_DEPTH)
        epoch = SignedEpoch(registry, b"", number=-1, root=tree.root, at=BEFORE_TIME)
        return cls(name, registry, public_key, tree, 0, epoch, FIRST_HEAD)

    @classmethod
    def load(
        cls, connection: sa.Connection, name: str, registry: str, public_key: bytes
    ) -> History:
        """Read everything, hold it against what was signed, and the log against the grants.

        Raises:
            RegistryDamaged: They disagree.
        """
        history = cls.before(name, registry, public_key)
        history.catch_up(connection)
        if _ends_in(read_log(connection)) != _ends(connection):
            raise RegistryDamaged(name, "its grants are not those of its log")
        return history

    def catch_up(self, connection: sa.Connection) -> None:
        """Take in what others have added since.

        Raises:
            RegistryDamaged: It does not lead to what was signed.
        """
        newest = connection.execute(
            sa.select(EPOCHS).order_by(EPOCHS.c.number.desc()).limit(1)
        ).first()
        if newest is None:
            raise RegistryDamaged(self.name, "it has no epoch")
        epoch, signed_head = _epoch(newest, self.registry), _head(newest, self.registry)
        if epoch == self.epoch:
            return
        if epoch.number <= self.epoch.number:
            raise RegistryDamaged(self.name, f"it has gone back to epoch {epoch.number}")
        try:
            epoch.check(self.public_key)
            signed_head.check(self.public_key)
        except NotSignedByRegistry as error:
            raise RegistryDamaged(self.name, f"epoch {epoch.number} is not signed") from error
        head, sequence, leaves = self.head, self.sequence, dict[int, int]()
        for line in read_lines(connection, self.registry, after=self.epoch.number):
            head = head_after(head, line.epoch, line.lanes, line.changes)
            for change in line.changes:
                sequence += 1
                if change.sequence != sequence:
                    raise RegistryDamaged(self.name, "changes are missing")
                leaves[change.index] = change.leaf
        self.tree.set_many(leaves)
        if self.tree.root != epoch.root:
            raise RegistryDamaged(self.name, f"its leaves are not those of epoch {epoch.number}")
        if head.hex() != signed_head.head:
            raise RegistryDamaged(self.name, f"its log is not that of epoch {epoch.number}")
        self.sequence, self.epoch, self.head = sequence, epoch, head

    def append(
        self,
        connection: sa.Connection,
        changes: Sequence[LogEntry],
        at: str,
        signing_key: Ed25519PrivateKey,
    ) -> None:
        """Change leaves and sign the next epoch.

        The tree changes before the transaction is committed: if that fails, throw this object
        away and load it anew.
        """
        self.is_ahead = True
        number = self.epoch.number + 1
        self.tree.set_many({change.index: change.leaf for change in changes})
        lanes = _lanes(connection, LANES.c.epoch == number).get(number, [])
        line = EpochLine.sealed(
            SignedEpoch(self.registry, b"", number=number, root=self.tree.root, at=at),
            lanes,
            changes,
            before=self.head,
            signing_key=signing_key,
        )
        self.epoch, self.head = line.epoch, bytes.fromhex(line.head.head)
        self.sequence += len(changes)
        connection.execute(
            sa.insert(EPOCHS).values(
                number=number,
                root=line.epoch.root,
                at=at,
                signature=line.epoch.signature,
                head=self.head,
                head_signature=line.head.signature,
            )
        )
        if changes:
            rows = [
                {
                    "sequence": change.sequence,
                    "place": change.index,
                    "leaf": change.leaf,
                    "epoch": number,
                }
                for change in changes
            ]
            connection.execute(sa.insert(CHANGES), rows)


def read_log(connection: sa.Connection) -> list[LogEntry]:
    """Return every change of a leaf since the beginning, for anybody to rebuild the tree from."""
    rows = connection.execute(_changes(after=-1, through=None))
    return [_entry(row) for row in rows]


def read_lines(
    connection: sa.Connection, registry: str, *, after: int, through: int | None = None
) -> Iterator[EpochLine]:
    """Yield the log's lines of the epochs behind one of this number, in order.

    Args:
        connection: To read from.
        registry: Its id.
        after: Number of an epoch; -1 for everything.
        through: Number of the last epoch wanted; None for all.
    """
    wanted = sa.select(EPOCHS).where(EPOCHS.c.number > after)
    which = LANES.c.epoch > after
    if through is not None:
        wanted, which = wanted.where(EPOCHS.c.number <= through), which & (LANES.c.epoch <= through)
    rows = connection.execute(wanted.order_by(EPOCHS.c.number)).all()
    lanes = _lanes(connection, which)
    changes = _by_epoch(connection.execute(_changes(after=after, through=through)))
    pending = next(changes, None)
    for row in rows:
        of_epoch: list[LogEntry] = []
        if pending is not None and pending[0] == row.number:
            of_epoch = pending[1]
            pending = next(changes, None)
        yield EpochLine(
            _epoch(row, registry),
            tuple(lanes.get(row.number, [])),
            tuple(of_epoch),
            _head(row, registry),
        )


def _by_epoch(rows: Iterable[sa.Row[Any]]) -> Iterator[tuple[int, list[LogEntry]]]:
    for number, of_epoch in groupby(rows, key=lambda row: row.epoch):
        yield number, [_entry(row) for row in of_epoch]


def _changes(*, after: int, through: int | None) -> sa.Select[Any]:
    wanted = (
        sa.select(
            CHANGES,
            EPOCHS.c.at,
            GRANTS.c.revoke_hash,
            GRANTS.c.nullifier,
            GRANTS.c.payout_id,
            GRANTS.c.proof,
        )
        .join(EPOCHS, CHANGES.c.epoch == EPOCHS.c.number)
        .join(GRANTS, CHANGES.c.place == GRANTS.c.place)
        .where(CHANGES.c.epoch > after)
    )
    if through is not None:
        wanted = wanted.where(CHANGES.c.epoch <= through)
    return wanted.order_by(CHANGES.c.sequence)


def _entry(row: sa.Row[Any]) -> LogEntry:
    if not row.leaf:
        return LogEntry(row.sequence, row.place, 0, row.epoch, row.at)
    return LogEntry(
        sequence=row.sequence,
        index=row.place,
        leaf=row.leaf,
        epoch=row.epoch,
        at=row.at,
        revoke_hash=row.revoke_hash,
        nullifier=row.nullifier,
        payout_id=row.payout_id,
        proof=row.proof,
    )


def _epoch(row: sa.Row[Any], registry: str) -> SignedEpoch:
    return SignedEpoch(registry, row.signature, number=row.number, root=row.root, at=row.at)


def _head(row: sa.Row[Any], registry: str) -> SignedHead:
    return SignedHead(registry, row.head_signature, number=row.number, head=row.head.hex())


def _lanes(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[int, list[Lane]]:
    """Return lanes by the epoch that signs them first."""
    lanes: dict[int, list[Lane]] = {}
    for row in connection.execute(sa.select(LANES).where(which).order_by(LANES.c.first_chunk)):
        lanes.setdefault(row.epoch, []).append(lane_of(row))
    return lanes


def _ends(connection: sa.Connection) -> dict[int, tuple[int, int | None, int | None]]:
    """Return by index each grant's leaf, the epoch of its end, and what took its place."""
    rows = connection.execute(sa.select(GRANTS))
    return {row.place: (row.leaf, row.withdrawn_epoch, row.replaced_by) for row in rows}


def _ends_in(log: Sequence[LogEntry]) -> dict[int, tuple[int, int | None, int | None]]:
    """Return what ``_ends`` should be after this log.

    A grant was replaced if its nullifier got another leaf in the epoch in which its own ended.
    """
    grants: dict[int, tuple[int, int | None, int | None]] = {}
    holders: dict[int, int] = {}
    for entry in log:
        if not entry.leaf:
            leaf, _, _ = grants.get(entry.index, (0, None, None))
            grants[entry.index] = leaf, entry.epoch, None
            continue
        grants[entry.index] = entry.leaf, None, None
        if entry.nullifier is not None:
            before = holders.get(entry.nullifier)
            if before is not None and grants[before][1] == entry.epoch:
                grants[before] = grants[before][0], entry.epoch, entry.index
            holders[entry.nullifier] = entry.index
    return grants
