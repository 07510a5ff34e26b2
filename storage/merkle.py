"""Merkle trees as Certificate Transparency grows them: a log's history in 32 bytes.

The root of a list binds every entry and their order. An inclusion proof shows that one entry is in
it, a consistency proof that an older root is a prefix of a newer one; both take a hash per level.
Leaves and inner nodes are hashed under different prefixes, so neither can pass for the other.

A ``Frontier`` is all that must be kept to append: the roots of the full subtrees that the size's
binary digits name, largest first.

    >>> leaves = [leaf_hash(entry) for entry in (b"a", b"b", b"c")]
    >>> check_inclusion(root(leaves), 3, 1, leaves[1], inclusion_proof(leaves, 1))
    >>> check_consistency(2, root(leaves[:2]), 3, root(leaves), consistency_proof(leaves, 2))

What holds, each line a property test in tests/storage/test_merkle.py:

1. The root, grown entry by entry, equals the recursive definition.
2. Every proof of a true claim is accepted; a proof for another entry, place or tree is refused.

References:
    RFC 6962, section 2.1 (hashes, paths, proofs); RFC 9162, sections 2.1.3.2 and 2.1.4.2 (how the
    proofs are checked).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import LedgerError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


class HistoryDisagrees(LedgerError):
    """A proof does not connect what it claims to connect."""

    code = "history-disagrees"

    def __init__(self, claim: str) -> None:
        self.claim = claim
        super().__init__(f"the proof does not show that {claim}; ask the log's keeper for another")


def leaf_hash(entry: bytes) -> bytes:
    """Return the 32-byte hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """The roots of the full subtrees of a tree of ``size`` leaves, largest first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier with one more leaf hash."""
        peaks, node, size = list(self.peaks), leaf, self.size
        while size & 1:  # a full subtree of this height is waiting for its sibling
            node = node_hash(peaks.pop(), node)
            size >>= 1
        return Frontier(self.size + 1, (*peaks, node))

    def root(self) -> bytes:
        """Return the root of the tree."""
        if not self.peaks:
            return EMPTY_ROOT
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = node_hash(peak, node)
        return node

    def to_bytes(self) -> bytes:
        """Return the peaks, joined; the size is known from where they are kept."""
        return b"".join(self.peaks)

    @staticmethod
    def from_bytes(size: int, peaks: bytes) -> Frontier:
        """Read what ``to_bytes`` wrote for a tree of ``size`` leaves."""
        steps = range(0, len(peaks), HASH_BYTES)
        return Frontier(size, tuple(peaks[step : step + HASH_BYTES] for step in steps))


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, in order."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the siblings from leaf ``index`` up to the root over ``leaves``.

    References:
        RFC 6962, section 2.1.1: PATH(m, D[n]).
    """
    assert 0 <= index < len(leaves)
    if len(leaves) == 1:
        return []
    split = _left_size(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), root(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), root(leaves[:split])]


def check_inclusion(
    tree_root: bytes, size: int, index: int, leaf: bytes, proof: Sequence[bytes]
) -> None:
    """Check that leaf hash ``leaf`` is at ``index`` of the tree of ``size`` under ``tree_root``.

    Raises:
        HistoryDisagrees: The proof does not show it.

    References:
        RFC 9162, section 2.1.3.2.
    """
    claim = f"entry {index} is in the log of {size} entries"
    if not 0 <= index < size:
        raise HistoryDisagrees(claim)
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise HistoryDisagrees(claim)
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while place and not place & 1:  # a rightmost node rises until it is a right child
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or node != tree_root:
        raise HistoryDisagrees(claim)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return what connects the root over the first ``old_size`` leaves with the root over all.

    References:
        RFC 6962, section 2.1.2: PROOF(m, D[n]).
    """
    assert 0 <= old_size <= len(leaves)
    if old_size in {0, len(leaves)}:
        return []
    return _subproof(leaves, old_size, known=True)


def check_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``old_size`` under ``old_root`` begins the one under ``new_root``.

    Raises:
        HistoryDisagrees: The proof does not show it.

    References:
        RFC 9162, section 2.1.4.2.
    """
    claim = f"the log of {new_size} entries begins with the log of {old_size} entries"
    if old_size in {0, new_size}:
        same = old_root == (new_root if old_size else EMPTY_ROOT)
        if proof or not same:
            raise HistoryDisagrees(claim)
        return
    # Where the old tree is one full subtree, its root starts the proof and is not sent.
    nodes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not 0 < old_size < new_size or not nodes:
        raise HistoryDisagrees(claim)
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old, new = nodes[0], nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise HistoryDisagrees(claim)
        if place & 1 or place == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, node)
        place, last = place >> 1, last >> 1
    if last != 0 or (old, new) != (old_root, new_root):
        raise HistoryDisagrees(claim)


def _left_size(size: int) -> int:
    """Return the largest power of two below ``size``, where RFC 6962 splits a tree."""
    return 1 << ((size - 1).bit_length() - 1)


def _subproof(leaves: Sequence[bytes], old_size: int, *, known: bool) -> list[bytes]:
    # SUBPROOF(m, D[n], b): ``known`` says that the checker has the old root of this subtree.
    if old_size == len(leaves):
        return [] if known else [root(leaves)]
    split = _left_size(len(leaves))
    if old_size <= split:
        return [*_subproof(leaves[:split], old_size, known=known), root(leaves[split:])]
    right = _subproof(leaves[split:], old_size - split, known=False)
    return [*right, root(leaves[:split])]
