"""A remembered root is always the one its own leaves hash to, and the memory is bounded."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_server import chunk_roots
from fl_server.chunk_roots import ChunkRoots
from zk.merkle import root_of
from zk.poseidon import FIELD, NotInField

LEAVES = st.integers(0, 3).flatmap(
    lambda depth: st.lists(st.integers(0, 5), min_size=2**depth, max_size=2**depth)
)


@given(st.lists(LEAVES, max_size=12), st.integers(1, 4))
def test_a_root_is_that_of_its_leaves_whatever_was_asked_before(asked, chunks_max):
    roots = ChunkRoots(chunks_max)
    for leaves in asked:
        assert roots.of(leaves) == root_of(leaves)
        assert len(roots) <= chunks_max


def test_a_chunk_is_hashed_once_and_hashed_anew_when_a_leaf_changed(monkeypatch):
    hashed = []
    monkeypatch.setattr(
        chunk_roots, "root_of", lambda leaves: hashed.append(leaves) or root_of(leaves)
    )
    roots = ChunkRoots()
    roots.of((1, 2))
    roots.of([1, 2])
    assert hashed == [(1, 2)]
    assert roots.of((1, 0)) == root_of((1, 0)) != roots.of((1, 2))
    assert hashed == [(1, 2), (1, 0)]


def test_what_was_not_asked_for_longest_is_forgotten_first():
    roots = ChunkRoots(2)
    for leaves in [(1,), (2,), (1,), (3,)]:
        roots.of(leaves)
    assert roots.hashed == 3
    roots.of((1,))
    assert roots.hashed == 3
    roots.of((2,))
    assert roots.hashed == 4


@pytest.mark.parametrize("stranger", [-1, FIELD, "7", 1.0, True])
def test_what_is_no_field_element_is_refused_and_not_remembered(stranger):
    roots = ChunkRoots()
    with pytest.raises(NotInField):
        roots.of((stranger, 2))
    assert len(roots) == 0


def test_threads_may_share_it():
    roots = ChunkRoots(8)
    chunks = [(number % 16, 7) for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(roots.of, chunks)) == [root_of(one) for one in chunks]
    assert len(roots) == 8
