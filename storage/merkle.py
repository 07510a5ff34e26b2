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
        return self.extend([leaf])[0]

    def extend(self, leaves: Sequence[bytes]) -> tuple[Frontier, list[list[bytes]]]:
        """Return the frontier with more leaf hashes, and the full subtrees that they completed.

        Returns:
            The frontier; and by height the roots of the new full subtrees of ``2**height`` leaves,
            in order, of which the first has the number ``size >> height``.
        """
        waiting, peaks, layers = list(self.peaks), [], []
        nodes = list(leaves)
        while nodes or waiting:
            layers.append(nodes)
            # A full subtree of this height may be waiting for its sibling.
            row = [waiting.pop(), *nodes] if self.size >> (len(layers) - 1) & 1 else nodes
            if len(row) & 1:
                peaks.append(row[-1])
            pairs = iter(row)
            nodes = [node_hash(left, right) for left, right in zip(pairs, pairs, strict=False)]
        return Frontier(self.size + len(leaves), tuple(reversed(peaks))), layers

    def root(self) -> bytes:
        """Return the root of the tree."""
        return fold(self.peaks)

    def to_bytes(self) -> bytes:
        """Return the peaks, joined; the size is known from where they are kept."""
        return b"".join(self.peaks)

    @staticmethod
    def from_bytes(size: int, peaks: bytes) -> Frontier:
        """Read what ``to_bytes`` wrote for a tree of ``size`` leaves."""
        steps = range(0, len(peaks), HASH_BYTES)
        return Frontier(size, tuple(peaks[step : step + HASH_BYTES] for step in steps))


def fold(peaks: Sequence[bytes]) -> bytes:
    """Return the root over full subtrees that lie side by side, largest first."""
    if not peaks:
        return EMPTY_ROOT
    node = peaks[-1]
    for peak in reversed(peaks[:-1]):
        node = node_hash(peak, node)
    return node


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes, in order."""
    return Frontier().extend(leaves)[0].root()


def full_subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """Return the full subtrees that make up the leaves from ``start`` until before ``end``.

    Args:
        start: A multiple of the largest power of two that ``end - start`` holds, as the bounds of
            ``inclusion_ranges`` and ``consistency_ranges`` are.
        end: One past the last leaf.

    Returns:
        Height and number of each, largest first: number ``n`` of height ``h`` begins at ``n << h``.
    """
    found = []
    while start < end:
        height = (end - start).bit_length() - 1
        assert start & ((1 << height) - 1) == 0
        found.append((height, start >> height))
        start += 1 << height
    return found


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return whose roots prove that leaf ``index`` is in a tree of ``size``, from the leaf up.

    Returns:
        First leaf, and one past the last, of each.

    References:
        RFC 6962, section 2.1.1: PATH(m, D[n]).
    """
    assert 0 <= index < size
    start, end, ranges = 0, size, []
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the siblings from leaf ``index`` up to the root over ``leaves``."""
    return [root(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


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


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """Return whose roots connect a tree of ``old_size`` with the one of ``size`` that it became.

    Returns:
        First leaf, and one past the last, of each.

    References:
        RFC 6962, section 2.1.2: PROOF(m, D[n]).
    """
    assert 0 <= old_size <= size
    if old_size == 0:
        return []
    start, end, ranges = 0, size, []
    while old_size != end:
        middle = start + _left_size(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start > 0:  # else it is the old tree itself, whose root the checker has
        ranges.append((start, end))
    return ranges[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return what connects the root over the first ``old_size`` leaves with the root over all."""
    return [root(leaves[start:end]) for start, end in consistency_ranges(old_size, len(leaves))]


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
