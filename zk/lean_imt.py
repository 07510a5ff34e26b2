"""The Lean Incremental Merkle Tree over Poseidon: the group that a Semaphore proof is about.

It has no empty leaves and no fixed depth: a node without a right neighbour goes up unchanged, and
the tree is as deep as its leaves need. Members are appended; a removed one becomes 0 and her place
is never used again. For trees of fixed depth see ``zk.merkle``.

    >>> tree = LeanIMT([7, 8])
    >>> tree.insert(9)
    2
    >>> tree.root == poseidon(poseidon(7, 8), 9)
    True
    >>> climb_path(9, tree.path(2)) == tree.root
    True

What holds (tests/zk/test_lean_imt.py, tests/zk/test_semaphore.py):

1. The root is that of the recursive definition, whatever the order of changes.
2. A path leads from its own leaf to the root, and from no other leaf.
3. Roots and paths equal those of npm ``@zk-kit/lean-imt``, in committed vectors.

A tree without members, or whose one member was removed, has root 0. That is no group: the
Semaphore circuit can be satisfied for root 0 by anybody, so ``zk.semaphore`` refuses it.

References:
    Privacy and Scaling Explorations, LeanIMT paper, 2024 (definition and cost of each change).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zk.poseidon import FIELD, NotInField, poseidon


@dataclass(frozen=True)
class LeanPath:
    """The siblings of one leaf, lowest first."""

    index: int
    """Bit k says that sibling k is on the left. Not the leaf's place: levels at which a node goes
    up unchanged have no bit."""
    siblings: tuple[int, ...]


class LeanIMT:
    """A tree that grows by one leaf at a time, with every node in memory."""

    def __init__(self, leaves: Iterable[int] = ()) -> None:
        """Build the tree of these leaves, hashing each node once.

        Raises:
            NotInField: A leaf is not a field element.
        """
        self._levels: list[list[int]] = [[_checked(i, leaf) for i, leaf in enumerate(leaves)]]
        while len(self._levels[-1]) > 1:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def root(self) -> int:
        """The node that commits to every leaf and its place; 0 where there is no leaf."""
        return self._levels[-1][0] if self._levels[0] else 0

    @property
    def depth(self) -> int:
        """The number of levels above the leaves."""
        return len(self._levels) - 1

    @property
    def size(self) -> int:
        """The number of places, removed ones included."""
        return len(self._levels[0])

    def leaf(self, place: int) -> int:
        """Return the leaf at ``place``; 0 if it was removed."""
        assert 0 <= place < self.size
        return self._levels[0][place]

    def leaves(self) -> list[int]:
        """Return the leaves in order, 0 for a removed one."""
        return list(self._levels[0])

    def insert(self, leaf: int) -> int:
        """Append a leaf and return its place: at most ``depth`` hashes.

        Raises:
            NotInField: It is not a field element.
        """
        place = self.size
        self._levels[0].append(_checked(0, leaf))
        if self.size > 1 << self.depth:
            self._levels.append([])
        self._hash_above(place)
        return place

    def update(self, place: int, leaf: int) -> None:
        """Replace the leaf at ``place``.

        Raises:
            NotInField: It is not a field element.
        """
        assert 0 <= place < self.size
        self._levels[0][place] = _checked(0, leaf)
        self._hash_above(place)

    def remove(self, place: int) -> None:
        """Make the leaf at ``place`` 0, which no identity has."""
        self.update(place, 0)

    def path(self, place: int) -> LeanPath:
        """Return what leads from the leaf at ``place`` to the root."""
        assert 0 <= place < self.size
        siblings: list[int] = []
        index = 0
        for level in self._levels[:-1]:
            if place ^ 1 < len(level):
                index |= (place & 1) << len(siblings)
                siblings.append(level[place ^ 1])
            place >>= 1
        return LeanPath(index, tuple(siblings))

    def _hash_above(self, place: int) -> None:
        for level, above in zip(self._levels, self._levels[1:], strict=False):
            place >>= 1
            pair = level[2 * place : 2 * place + 2]
            node = poseidon(*pair) if len(pair) == 2 else pair[0]
            if place == len(above):
                above.append(node)
            else:
                above[place] = node


def climb_path(leaf: int, path: LeanPath) -> int:
    """Return the root that ``leaf`` leads to along ``path``.

    Raises:
        NotInField: A number is not a field element.
    """
    node = _checked(0, leaf)
    for level, sibling in enumerate(path.siblings):
        on_the_left = path.index >> level & 1
        node = poseidon(sibling, node) if on_the_left else poseidon(node, sibling)
    return node


def _parents(level: list[int]) -> list[int]:
    parents = [poseidon(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return parents + level[2 * len(parents) :]


def _checked(position: int, leaf: int) -> int:
    if type(leaf) is not int or not 0 <= leaf < FIELD:
        raise NotInField(position)
    return leaf
