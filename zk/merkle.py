"""A sparse Poseidon Merkle tree of fixed depth whose empty leaf is 0.

    >>> tree = MerkleTree(2)
    >>> tree.set(3, 7)
    >>> climb(7, 3, tree.path(3)) == tree.root
    True

What holds, each a property test in tests/zk/test_merkle.py:

1. The root equals that of a naive hash over all leaves.
2. The order in which leaves are set does not matter.
3. A path leads to the root from its own leaf and index only.

References:
    Merkle, A Digital Signature Based on a Conventional Encryption Function, CRYPTO 1987.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.errors import ProofError
from zk.poseidon import poseidon


class PathRefused(ProofError):
    """A Merkle path does not lead from its leaf to the root."""

    code = "path-refused"

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__(
            f"the path of leaf {index} does not lead to the root; ask the registry for its log "
            "and rebuild the tree"
        )


class MerkleTree:
    """A tree of ``2**depth`` leaves; only what differs from the empty tree is stored."""

    def __init__(self, depth: int) -> None:
        assert 0 <= depth <= 32
        self.depth = depth
        self._empty = [0]
        for _ in range(depth):
            self._empty.append(poseidon(self._empty[-1], self._empty[-1]))
        self._nodes: list[dict[int, int]] = [{} for _ in range(depth + 1)]

    @property
    def root(self) -> int:
        """The root, the only part that is signed."""
        return self.node(self.depth, 0)

    def leaf(self, index: int) -> int:
        """Return the leaf at ``index``, 0 where none was set."""
        return self.node(0, index)

    def node(self, level: int, index: int) -> int:
        """Return the node at ``level`` (0 for leaves) and ``index`` from the left."""
        assert 0 <= level <= self.depth
        assert 0 <= index < 1 << (self.depth - level)
        return self._nodes[level].get(index, self._empty[level])

    def set(self, index: int, leaf: int) -> None:
        """Put ``leaf`` at ``index``; 0 empties it."""
        self.set_many({index: leaf})

    def set_many(self, leaves: Mapping[int, int]) -> None:
        """Put several leaves; every node above them is hashed once."""
        assert all(0 <= index < 1 << self.depth for index in leaves)
        self._nodes[0].update(leaves)
        touched = {index >> 1 for index in leaves}
        for level in range(1, self.depth + 1):
            for index in touched:
                left, right = self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1)
                self._nodes[level][index] = poseidon(left, right)
            touched = {index >> 1 for index in touched}

    def path(self, index: int, *, level: int = 0) -> list[int]:
        """Return the siblings from the node at ``level`` and ``index`` up to the root."""
        return [self.node(up, (index >> (up - level)) ^ 1) for up in range(level, self.depth)]


def climb(node: int, index: int, siblings: Sequence[int]) -> int:
    """Return the root that ``siblings`` lead to from ``node`` at ``index`` of its level."""
    for sibling in siblings:
        node = poseidon(sibling, node) if index & 1 else poseidon(node, sibling)
        index >>= 1
    return node


def verify_path(root: int, index: int, leaf: int, path: Sequence[int]) -> None:
    """Return if ``path`` leads from ``leaf`` at ``index`` to ``root``.

    Raises:
        PathRefused: It does not, or ``index`` is not below ``2**len(path)``.
    """
    if not 0 <= index < 1 << len(path) or climb(leaf, index, path) != root:
        raise PathRefused(index)


def root_of(leaves: Sequence[int]) -> int:
    """Return the root over a power of two of leaves."""
    depth = len(leaves).bit_length() - 1
    assert len(leaves) == 1 << depth
    tree = MerkleTree(depth)
    tree.set_many(dict(enumerate(leaves)))
    return tree.root
