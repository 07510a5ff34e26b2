"""Merkle trees as the contracts check them: payouts of any number under 32 bytes.

Pairs are hashed with Keccak-256, the smaller first, as OpenZeppelin's ``MerkleProof`` does; a node
without a sibling moves up unchanged. Leaves are hashed twice, so that no inner node, which is one
hash of 64 bytes, can pass for a leaf of two numbers.

    >>> tree = Tree([claim_leaf(7, 100), claim_leaf(8, 50), claim_leaf(9, 1)])
    >>> len(tree.root), [len(tree.path(i)) for i in range(3)]
    (32, [2, 2, 1])
    >>> climb(claim_leaf(8, 50), tree.path(1)) == tree.root
    True

What holds (tests/ledger/contracts/test_tree.py):

1. The path of every leaf leads from it to the root, here and in the contract; no other leaf's does.
2. The order of leaves decides the root, so whoever repeats a tree must keep it.

References:
    Merkle, A Digital Signature Based on a Conventional Encryption Function, CRYPTO 1987.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from Crypto.Hash import keccak

WORD_MAX: Final = 1 << 256
ADDRESS_BYTES: Final = 20


def keccak256(content: bytes) -> bytes:
    """Return the Keccak-256 of ``content``, with Ethereum's padding."""
    digest: bytes = keccak.new(digest_bits=256, data=content).digest()
    return digest


def claim_leaf(nullifier: int, cumulative: int) -> bytes:
    """Return the leaf of ``Distributor.leafOf``.

    Args:
        nullifier: Of the payee.
        cumulative: Base units earned since the beginning.
    """
    return keccak256(keccak256(_word(nullifier) + _word(cumulative)))


def batch_leaf(epoch: bytes, batch: int, payouts: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the leaf of ``StudyEscrow.batchLeaf``.

    Args:
        epoch: 32 bytes, of ``StudyEscrow.epochOf``.
        batch: Its number.
        payouts: Addresses of 20 bytes, and base units.
    """
    assert len(epoch) == 32
    assert all(len(recipient) == ADDRESS_BYTES for recipient, _ in payouts)
    # abi.encode(bytes32, uint256, (address,uint256)[]): where the list begins, its length, it.
    listed = [bytes(12) + recipient + _word(amount) for recipient, amount in payouts]
    content = epoch + _word(batch) + _word(96) + _word(len(payouts)) + b"".join(listed)
    return keccak256(keccak256(content))


class Tree:
    """A tree over leaves, each 32 bytes, in their order."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._levels = [list(leaves)]
        assert self._levels[0]
        while len(self._levels[-1]) > 1:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def root(self) -> bytes:
        """What the contract keeps."""
        return self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """Return the siblings from a leaf to the root, for the contract's ``path``."""
        assert 0 <= index < len(self._levels[0])
        siblings = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index >>= 1
        return siblings


def climb(leaf: bytes, path: Iterable[bytes]) -> bytes:
    """Return the root that a leaf and its path lead to."""
    node = leaf
    for sibling in path:
        node = _pair(node, sibling)
    return node


def _parents(level: list[bytes]) -> list[bytes]:
    pairs = [_pair(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[len(pairs) * 2 :]


def _pair(one: bytes, other: bytes) -> bytes:
    return keccak256(one + other if one < other else other + one)


def _word(number: int) -> bytes:
    assert 0 <= number < WORD_MAX
    return number.to_bytes(32, "big")
