"""A Merkle tree of fixed depth over Poseidon, of which only the touched part is kept.

Every leaf that was never set is 0, so an empty subtree of each height has one known hash and the
tree of a million leaves costs memory for those set. Level 0 are the leaves; ``node(level, index)``
covers the leaves from ``index * 2**level`` on. Position is part of the meaning: the bits of a
leaf's index say at each level whether its node is the left or the right input.

    >>> tree = MerkleTree(depth=20)
    >>> tree.set(5, 77)
    >>> verify_path(tree.root, 5, 77, tree.path(5), depth=20)

What holds (tests/zk/test_merkle.py):

1. The root equals that of a tree built from all leaves, whatever the order of changes.
2. Setting a leaf back to 0 restores the former root.
3. A path leads to the root from its own leaf at its own index, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from protocol.errors import ProofError
from zk.poseidon import FIELD, NotInField, poseidon

DEPTH_MAX: Final = 32


class PathInvalid(ProofError):
    """A path does not lead from its leaf to the root it should."""

    code = "path-invalid"

    def __init__(self, index: int, why: str) -> None:
        self.index = index
        self.why = why
        super().__init__(
            f"the path of leaf {index} is not valid: {why}; fetch it anew under the current root"
        )


class MerkleTree:
    """A tree of ``2**depth`` leaves, all 0 at first."""

    def __init__(self, depth: int) -> None:
        assert 0 <= depth <= DEPTH_MAX
        self.depth = depth
        self._levels: list[dict[int, int]] = [{} for _ in range(depth + 1)]

    @property
    def root(self) -> int:
        """The node that commits to every leaf and its place."""
        return self.node(self.depth, 0)

    def leaf(self, index: int) -> int:
        """Return the leaf at ``index``; 0 if it was never set."""
        return self.node(0, index)

    def node(self, level: int, index: int) -> int:
        """Return the node at ``index`` of ``level``; level 0 are the leaves."""
        assert 0 <= level <= self.depth
        assert 0 <= index < 1 << (self.depth - level)
        return self._levels[level].get(index, _empty(level))

    def leaves(self) -> dict[int, int]:
        """Return all leaves that are not 0, by index in ascending order."""
        return dict(sorted(self._levels[0].items()))

    def set(self, index: int, leaf: int) -> None:
        """Replace one leaf: ``depth`` hashes.

        Raises:
            NotInField: The leaf is not a field element.
        """
        self.set_many({index: leaf})

    def set_many(self, leaves: Mapping[int, int]) -> None:
        """Replace leaves by index, hashing each node above them once.

        Raises:
            NotInField: A leaf is not a field element; nothing was replaced.
        """
        for position, (index, leaf) in enumerate(leaves.items()):
            assert 0 <= index < 1 << self.depth
            if type(leaf) is not int or not 0 <= leaf < FIELD:
                raise NotInField(position)
        for index, leaf in leaves.items():
            self._put(0, index, leaf)
        touched = set(leaves)
        for level in range(self.depth):
            touched = {index >> 1 for index in touched}
            for index in touched:
                left, right = self.node(level, 2 * index), self.node(level, 2 * index + 1)
                self._put(level + 1, index, poseidon(left, right))

    def path(self, index: int, *, level: int = 0) -> list[int]:
        """Return the siblings from the node at ``index`` of ``level`` up to the root."""
        assert 0 <= index < 1 << (self.depth - level)
        return [
            self.node(above, (index >> (above - level)) ^ 1) for above in range(level, self.depth)
        ]

    def _put(self, level: int, index: int, node: int) -> None:
        # What equals the empty subtree is forgotten: withdrawn leaves cost nothing.
        if node == _empty(level):
            self._levels[level].pop(index, None)
        else:
            self._levels[level][index] = node


def root_of(leaves: Sequence[int]) -> int:
    """Return the root over exactly these leaves, a power of two of them.

    Raises:
        NotInField: A leaf is not a field element.
    """
    depth = len(leaves).bit_length() - 1
    assert len(leaves) == 1 << max(depth, 0)
    tree = MerkleTree(depth)
    tree.set_many(dict(enumerate(leaves)))
    return tree.root


def climb(node: int, index: int, siblings: Sequence[int]) -> int:
    """Return the root that ``node`` at ``index`` leads to through ``siblings``, lowest first.

    The level is not hashed: a caller that did not choose the number of siblings must check it.

    Raises:
        PathInvalid: The index is not one of a level with so many siblings above it.
        NotInField: A number is not a field element.
    """
    if not 0 <= index < 1 << len(siblings):
        raise PathInvalid(index, f"there is no such place {len(siblings)} levels below a root")
    for level, sibling in enumerate(siblings):
        right = index >> level & 1
        node = poseidon(sibling, node) if right else poseidon(node, sibling)
    return node


def verify_path(
    root: int, index: int, leaf: int, path: Sequence[int], *, depth: int | None = None
) -> None:
    """Return if ``leaf`` stands at ``index`` under ``root``.

    Args:
        root: From a source that is trusted.
        index: Of the leaf.
        leaf: The claimed leaf.
        path: Siblings, lowest first; hostile.
        depth: The tree's, where the caller knows it. Without it, an inner node passes for the leaf
            of a smaller tree.

    Raises:
        PathInvalid: It does not.
        NotInField: A number is not a field element.
    """
    if depth is not None and len(path) != depth:
        raise PathInvalid(index, f"it has {len(path)} siblings and the tree is {depth} deep")
    if climb(leaf, index, path) != root:
        raise PathInvalid(index, "it leads to another root")


@cache
def _empty(level: int) -> int:
    """Return the root of ``2**level`` zero leaves."""
    if level == 0:
        return 0
    below = _empty(level - 1)
    return poseidon(below, below)
