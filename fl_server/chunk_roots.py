"""The roots of chunks of leaves, each computed once from the leaves themselves.

A round's lanes are mostly those of the round before, and hashing 1,024 leaves takes 26 ms. What is
remembered is what was computed here: nobody can put a root in, and a chunk of which one leaf
changed is another chunk. Whoever needs roots makes a cache of its own; there is none in the module.

    >>> roots = ChunkRoots()
    >>> roots.of((1, 2)) == roots.of((1, 2)) == root_of((1, 2))
    True
    >>> roots.hashed
    1

What holds (tests/fl_server/test_chunk_roots.py):

1. The root is that of ``zk.merkle.root_of``, whatever was asked before, in any number of threads.
2. No more than ``chunks_max`` are kept; the one that was not asked for longest goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from zk.merkle import root_of

CHUNKS_MAX: Final = 4096
"""The chunks of the largest lane: 262,144 patients, in some 12 MB."""


class ChunkRoots:
    """A bounded memory of roots by the content of their leaves; threads may share it."""

    def __init__(self, chunks_max: int = CHUNKS_MAX) -> None:
        assert chunks_max >= 1
        self._chunks_max = chunks_max
        self._roots: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._lock = threading.Lock()
        self.hashed = 0
        """How many chunks were hashed so far."""

    def __len__(self) -> int:
        return len(self._roots)

    def of(self, leaves: Sequence[int]) -> int:
        """Return the root over exactly these leaves, a power of two of them.

        Raises:
            NotInField: A leaf is not a field element; nothing was remembered.
        """
        content = tuple(leaves)
        with self._lock:
            root = self._roots.get(content)
            if root is not None:
                self._roots.move_to_end(content)
                return root
        root = root_of(content)
        with self._lock:
            self.hashed += 1
            self._roots[content] = root
            self._roots.move_to_end(content)
            while len(self._roots) > self._chunks_max:
                self._roots.popitem(last=False)
        return root
