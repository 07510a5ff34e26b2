"""The registry's history: the tree of leaves, its log of changes, and its signed epochs.

The tree lives in memory and the log in the database; an instance reads what others have added
before it answers, so several processes may hold the same registry. What is read is believed
only if it leads to the root of the newest epoch and the registry's key signed that epoch.

Somebody who holds the key could sign another history. Others notice by comparing epochs and logs
(``consent.log.rebuild``); nobody notices an old copy put back before it is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.log import TREE_DEPTH, LogEntry
from consent.receipts import NotSignedByRegistry, Signed
from consent.store import CHANGES, EPOCHS, GRANTS
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


@dataclass(frozen=True)
class SignedEpoch(Signed):
    """One state of the registry: the root that proofs may refer to."""

    label = "epoch"
    number: int
    root: int
    at: str
    """ISO 8601, UTC."""


def verify_epoch(epoch: SignedEpoch, public_key: bytes) -> None:
    """Return if the registry whose key this is (32 raw bytes) signed the epoch.

    Raises:
        NotSignedByRegistry: It did not.
    """
    epoch.check(public_key)


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

    @classmethod
    def before(cls, name: str, registry: str, public_key: bytes) -> History:
        """Return what is before everything: the empty tree, and no epoch yet."""
        tree = MerkleTree(TREE_DEPTH)
        epoch = SignedEpoch(registry, b"", number=-1, root=tree.root, at=BEFORE_TIME)
        return cls(name, registry, public_key, tree, 0, epoch)

    @classmethod
    def load(
        cls, connection: sa.Connection, name: str, registry: str, public_key: bytes
    ) -> History:
        """Read everything, hold it against the signed root, and the log against the grants.

        Raises:
            RegistryDamaged: They disagree.
        """
        history = cls.before(name, registry, public_key)
        history.catch_up(connection)
        if _grants_of(read_log(connection)) != _grants(connection):
            raise RegistryDamaged(name, "its grants are not those of its log")
        return history

    def catch_up(self, connection: sa.Connection) -> None:
        """Take in what others have added since.

        Raises:
            RegistryDamaged: It does not lead to the signed root.
        """
        newest = self._newest(connection)
        if newest == self.epoch:
            return
        if newest.number <= self.epoch.number:
            raise RegistryDamaged(self.name, f"it has gone back to epoch {newest.number}")
        try:
            newest.check(self.public_key)
        except NotSignedByRegistry as error:
            raise RegistryDamaged(self.name, f"epoch {newest.number} is not signed") from error
        new = sa.select(CHANGES).where(CHANGES.c.sequence > self.sequence)
        rows = connection.execute(new.order_by(CHANGES.c.sequence)).all()
        if rows and rows[-1].sequence != self.sequence + len(rows):
            raise RegistryDamaged(self.name, "changes are missing")
        self.tree.set_many({row.place: row.leaf for row in rows})
        if self.tree.root != newest.root:
            raise RegistryDamaged(self.name, f"its leaves are not those of epoch {newest.number}")
        self.sequence += len(rows)
        self.epoch = newest

    def append(
        self,
        connection: sa.Connection,
        leaves: Mapping[int, int],
        at: str,
        signing_key: Ed25519PrivateKey,
    ) -> None:
        """Change leaves and sign the next epoch.

        The tree changes before the transaction is committed: if that fails, throw this object
        away and load it anew.
        """
        self.tree.set_many(leaves)
        number = self.epoch.number + 1
        epoch = SignedEpoch(self.registry, b"", number=number, root=self.tree.root, at=at)
        self.epoch = epoch.signed_by(signing_key)
        connection.execute(
            sa.insert(EPOCHS).values(
                number=number, root=epoch.root, at=at, signature=self.epoch.signature
            )
        )
        if leaves:
            connection.execute(
                sa.insert(CHANGES),
                [
                    {"sequence": sequence, "place": index, "leaf": leaf, "epoch": number}
                    for sequence, (index, leaf) in enumerate(leaves.items(), self.sequence + 1)
                ],
            )
        self.sequence += len(leaves)

    def _newest(self, connection: sa.Connection) -> SignedEpoch:
        row = connection.execute(
            sa.select(EPOCHS).order_by(EPOCHS.c.number.desc()).limit(1)
        ).first()
        if row is None:
            raise RegistryDamaged(self.name, "it has no epoch")
        return SignedEpoch(
            self.registry, row.signature, number=row.number, root=row.root, at=row.at
        )


def read_log(connection: sa.Connection) -> list[LogEntry]:
    """Return every change of a leaf since the beginning, for anybody to rebuild the tree from."""
    rows = connection.execute(
        sa.select(CHANGES, EPOCHS.c.at).join(EPOCHS).order_by(CHANGES.c.sequence)
    )
    return [
        LogEntry(sequence=row.sequence, index=row.place, leaf=row.leaf, epoch=row.epoch, at=row.at)
        for row in rows
    ]


def _grants(connection: sa.Connection) -> dict[int, tuple[int, int | None]]:
    """Return by index the leaf of each grant and the epoch of its withdrawal."""
    rows = connection.execute(sa.select(GRANTS))
    return {row.place: (row.leaf, row.withdrawn_epoch) for row in rows}


def _grants_of(log: Sequence[LogEntry]) -> dict[int, tuple[int, int | None]]:
    """Return what ``_grants`` should be after this log."""
    grants: dict[int, tuple[int, int | None]] = {}
    for entry in log:
        leaf, _ = grants.get(entry.index, (0, None))
        grants[entry.index] = (entry.leaf, None) if entry.leaf else (leaf, entry.epoch)
    return grants
