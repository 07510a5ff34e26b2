"""The leaves of the newest root of claims: what each nullifier was promised on the chain, for ever.

A root replaces the one before it, so it must promise everything that root did: a nullifier left
out, or one that got less, would take from a patient what she was told is hers, and sums alone do
not show it. The leaves are therefore kept beside the journal, in the transaction that books their
root, and each is compared before another root is booked.

    >>> check({7: 100}, {7: 100, 8: 50})
    >>> check({7: 100, 8: 50}, {7: 150})
    Traceback (most recent call last):
    ledger.chain.claims.LeafFell: the new root would promise a nullifier 0 base units, the last ...

What holds (tests/ledger/chain/test_claims.py):

1. No nullifier's promise ever falls from one root to the next.
2. Leaves that are not those of the newest root in the journal are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    Table,
    bindparam,
    delete,
    insert,
    select,
)

from ledger.chain.calls import encoded
from ledger.chain.outbox import METADATA
from ledger.contracts.tree import Tree, claim_leaf
from ledger.store import Amount
from protocol.errors import LedgerError

NULLIFIER_BYTES: Final = 32
POINT_BYTES: Final = 32
PROOF_BYTES: Final = 8 * POINT_BYTES
LEAVES: Final = Table(
    "chain_leaves",
    METADATA,
    Column("nullifier", LargeBinary(NULLIFIER_BYTES), primary_key=True),  # big-endian
    Column("cumulative", Amount, nullable=False),
    Column("root", Integer, nullable=False),  # the number of the root that wrote it
)


class ClaimsUnbalanced(LedgerError):
    """The leaves of a root do not sum to what was set aside for claims."""

    code = "chain-claims-unbalanced"

    def __init__(self, leaves: int, held: int) -> None:
        self.leaves = leaves
        self.held = held
        super().__init__(
            f"the leaves sum to {leaves} base units, {held} were set aside for claims; set aside "
            "what the leaves add, no more and no less"
        )


class LeafFell(LedgerError):
    """A root would promise a nullifier less than the root before it did, or nothing."""

    code = "chain-leaf-fell"

    def __init__(self, nullifier: int, before: int, now: int) -> None:
        self.nullifier = nullifier
        self.before = before
        self.now = now
        super().__init__(
            f"the new root would promise a nullifier {now} base units, the last one promised "
            f"{before}; nothing was booked: restore the newest backup of the claims, and publish "
            "again"
        )


class LeavesDiffer(LedgerError):
    """The kept leaves are not those of the newest root in the journal."""

    code = "chain-leaves-differ"

    def __init__(self, root: int) -> None:
        self.root = root
        super().__init__(
            f"the leaves kept beside the books do not lead to root {root} of the journal; restore "
            "the newest backup of the books, and publish again"
        )


def kept(connection: Connection) -> dict[int, int]:
    """Return the newest root's leaves: base units by nullifier."""
    rows = connection.execute(select(LEAVES.c.nullifier, LEAVES.c.cumulative))
    return {int.from_bytes(row.nullifier, "big"): row.cumulative for row in rows}


def keep(connection: Connection, leaves: Mapping[int, int], root: int) -> None:
    """Keep the leaves of root number ``root``, in the transaction that books it."""
    before = kept(connection)
    changed = {one: amount for one, amount in leaves.items() if before.get(one) != amount}
    rows = [
        {"nullifier": one.to_bytes(NULLIFIER_BYTES, "big"), "cumulative": amount, "root": root}
        for one, amount in sorted(changed.items())
    ]
    if rows:
        old = LEAVES.c.nullifier == bindparam("nullifier")
        connection.execute(delete(LEAVES).where(old), rows)
        connection.execute(insert(LEAVES), rows)


def check(before: Mapping[int, int], after: Mapping[int, int]) -> None:
    """Compare a root's leaves with those of the root before it.

    Args:
        before: Base units by nullifier; empty where there was no root.
        after: Of the root to come.

    Raises:
        LeafFell: One is missing, smaller, or of nothing.
    """
    for nullifier, promised in before.items():
        if after.get(nullifier, 0) < promised:
            raise LeafFell(nullifier, promised, after.get(nullifier, 0))
    for nullifier, promised in after.items():
        if promised <= 0:
            raise LeafFell(nullifier, 0, promised)


def tree_over(leaves: Mapping[int, int]) -> Tree:
    """Return the tree over leaves, in the order of their nullifiers; there must be one."""
    return Tree([claim_leaf(one, leaves[one]) for one in sorted(leaves)])


def path_of(leaves: Mapping[int, int], nullifier: int) -> list[bytes]:
    """Return the way from a nullifier's leaf to the root; the nullifier must be among them."""
    return tree_over(leaves).path(sorted(leaves).index(nullifier))


def claim_call(
    nullifier: int,
    cumulative: int,
    recipient: bytes,
    path: Sequence[bytes],
    *,
    group: int,
    scope: int,
    points: bytes,
) -> bytes:
    """Return the bytes of ``Distributor.claim``, which anybody may send.

    Args:
        nullifier: Of the Semaphore proof.
        cumulative: What the leaf promises, in base units.
        recipient: 20 bytes; the address that the proof names.
        path: Of ``path_of``.
        group: Root of the group that the proof is about.
        scope: Of the proof, before it is hashed into the field.
        points: The Groth16 proof, 256 bytes.
    """
    assert len(points) == PROOF_BYTES
    words = [
        int.from_bytes(points[at : at + POINT_BYTES], "big")
        for at in range(0, PROOF_BYTES, POINT_BYTES)
    ]
    claim = (nullifier, cumulative, recipient, group, scope, words)
    return encoded("Distributor", "claim", claim, list(path))
