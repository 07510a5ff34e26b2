"""The registry's log of leaves: every change of one, from which anybody rebuilds the tree.

    >>> entry = LogEntry(sequence=1, index=0, leaf=7, epoch=1, at="2026-11-21T09:30:00+00:00")
    >>> from zk.merkle import MerkleTree
    >>> rebuild([]) == MerkleTree(TREE_DEPTH).root != rebuild([entry])
    True

An index has a short life: empty, then one leaf, then empty for good. A nullifier has one live leaf
at most, at any entry. A log in which a withdrawn leaf lives again, a leaf is exchanged, or a person
counts twice is refused. Lanes and signatures are added by ``consent.epochs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ConsentError
from zk.merkle import MerkleTree
from zk.poseidon import FIELD

TREE_DEPTH: Final = 20
"""A million leaves. Part of what a root means: it never changes."""


class LogInconsistent(ConsentError):
    """A registry's log does what no registry may do."""

    code = "consent-log-inconsistent"

    def __init__(self, sequence: int, why: str) -> None:
        self.sequence = sequence
        self.why = why
        super().__init__(
            f"entry {sequence} of the consent log is not possible: {why}; "
            "compare the log with another copy and do not rely on its root"
        )


@dataclass(frozen=True)
class LogEntry:
    """One leaf was set (a grant) or became 0 (its withdrawal)."""

    sequence: int
    """From 1, without gaps."""
    index: int
    leaf: int
    epoch: int
    """Number of the first epoch whose root has this change."""
    at: str
    """ISO 8601, UTC."""
    revoke_hash: bytes = b""
    """Of a grant: the hash of its withdrawal code."""
    nullifier: int | None = None
    """Of a proven grant: who granted, in this study, without saying who; like the next two."""
    payout_id: int | None = None
    proof: str | None = None
    """Canonical JSON of the Semaphore proof."""


def rebuild(log: Iterable[LogEntry]) -> int:
    """Return the root that the log leads to.

    Args:
        log: From the first entry on; hostile.

    Raises:
        LogInconsistent: Entries are missing or out of order, an index lives twice, or a nullifier
            has two live leaves.
    """
    replay = Replay()
    for entry in log:
        replay.take(entry)
    tree = MerkleTree(TREE_DEPTH)
    tree.set_many(replay.leaves)
    return tree.root


@dataclass
class Replay:
    """What the entries so far have set; each next one is checked against it."""

    leaves: dict[int, int] = field(default_factory=dict)
    """By index; 0 where a leaf was taken out."""
    holders: dict[int, int] = field(default_factory=dict)
    """By nullifier the index of the leaf that it has set last."""
    sequence: int = 0
    epoch: int = 0

    def take(self, entry: LogEntry) -> None:
        """Take in the next entry.

        Raises:
            LogInconsistent: It is not possible after those before it.
        """
        expected = self.sequence + 1
        if entry.sequence != expected:
            raise LogInconsistent(entry.sequence, f"entry {expected} should stand in its place")
        if entry.epoch < self.epoch:
            raise LogInconsistent(expected, "its epoch is before that of the entry before it")
        if not 0 <= entry.index < 1 << TREE_DEPTH or not 0 <= entry.leaf < FIELD:
            raise LogInconsistent(expected, "it has no place in the tree")
        if entry.leaf != 0 and entry.index in self.leaves:
            raise LogInconsistent(expected, "its place was used before")
        if entry.leaf == 0 and not self.leaves.get(entry.index):
            raise LogInconsistent(expected, "it takes out a leaf that is not there")
        if entry.nullifier is not None:
            if self.leaves.get(self.holders.get(entry.nullifier, -1)):
                raise LogInconsistent(expected, "its nullifier has a live leaf already")
            self.holders[entry.nullifier] = entry.index
        self.leaves[entry.index] = entry.leaf
        self.sequence, self.epoch = expected, entry.epoch
