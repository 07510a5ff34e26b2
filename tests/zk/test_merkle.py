"""The sparse tree is the full tree, and a path proves one leaf at one place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zk.merkle import MerkleTree, PathInvalid, climb, root_of, verify_path
from zk.poseidon import FIELD, NotInField, poseidon

DEPTH = 4
LEAVES = 2**DEPTH
indices = st.integers(0, LEAVES - 1)
leaves = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, FIELD - 1))
changes = st.lists(st.tuples(indices, leaves), max_size=12)
quick = settings(max_examples=40, deadline=None)


def naive_root(values: list[int]) -> int:
    while len(values) > 1:
        values = [poseidon(*values[place : place + 2]) for place in range(0, len(values), 2)]
    return values[0]


def flat(changed) -> list[int]:
    values = [0] * LEAVES
    for index, leaf in changed:
        values[index] = leaf
    return values


def tree_after(changed) -> MerkleTree:
    tree = MerkleTree(DEPTH)
    for index, leaf in changed:
        tree.set(index, leaf)
    return tree


@quick
@given(changes)
def test_the_root_is_that_of_a_naive_rebuild(changed):
    tree = tree_after(changed)
    assert tree.root == naive_root(flat(changed)) == root_of(flat(changed))
    assert tree.leaves() == {place: leaf for place, leaf in enumerate(flat(changed)) if leaf}


@quick
@given(changes, changes)
def test_setting_many_at_once_is_setting_them_one_by_one(before, changed):
    tree = tree_after(before)
    tree.set_many(dict(changed))
    assert tree.root == tree_after([*before, *changed]).root


@quick
@given(changes, indices, leaves)
def test_a_leaf_set_back_restores_the_root(changed, index, leaf):
    tree = tree_after(changed)
    before, former = tree.root, tree.leaf(index)
    tree.set(index, leaf)
    tree.set(index, former)
    assert tree.root == before


@quick
@given(changes)
def test_forgotten_nodes_leave_no_trace(changed):
    tree = tree_after(changed)
    tree.set_many(dict.fromkeys(tree.leaves(), 0))
    assert tree.root == MerkleTree(DEPTH).root
    assert not any(tree._levels)


@quick
@given(changes, indices, st.integers(0, DEPTH))
def test_every_node_climbs_to_the_root(changed, index, level):
    tree = tree_after(changed)
    place = index >> level
    assert climb(tree.node(level, place), place, tree.path(place, level=level)) == tree.root


@quick
@given(changes, indices, indices, leaves)
def test_a_path_verifies_its_own_leaf_and_no_other(changed, index, elsewhere, leaf):
    tree = tree_after(changed)
    verify_path(tree.root, index, tree.leaf(index), tree.path(index), depth=DEPTH)
    if tree.leaf(elsewhere) != leaf:
        with pytest.raises(PathInvalid):
            verify_path(tree.root, elsewhere, leaf, tree.path(elsewhere), depth=DEPTH)


def test_a_path_to_another_root_is_refused():
    tree = tree_after([(3, 9)])
    with pytest.raises(PathInvalid, match="another root"):
        verify_path(tree.root + 1, 3, 9, tree.path(3))


def test_an_inner_node_does_not_pass_for_a_leaf_where_the_depth_is_known():
    tree = tree_after([(3, 9)])
    node, path = tree.node(1, 1), tree.path(1, level=1)
    verify_path(tree.root, 1, node, path)
    with pytest.raises(PathInvalid, match="deep"):
        verify_path(tree.root, 1, node, path, depth=DEPTH)


@pytest.mark.parametrize("index", [-1, LEAVES])
def test_an_index_outside_the_tree_is_refused(index):
    with pytest.raises(PathInvalid, match="no such place"):
        climb(1, index, MerkleTree(DEPTH).path(0))


@pytest.mark.parametrize("leaf", [-1, FIELD, True])
def test_a_leaf_outside_the_field_is_refused_and_nothing_is_set(leaf):
    tree = MerkleTree(DEPTH)
    with pytest.raises(NotInField):
        tree.set_many({0: 5, 1: leaf})
    assert tree.root == MerkleTree(DEPTH).root


def test_a_tree_of_one_leaf_is_its_own_root():
    tree = MerkleTree(0)
    tree.set(0, 6)
    assert tree.root == root_of([6]) == 6
    assert tree.path(0) == []


def test_twenty_levels_take_a_thousand_leaves_quickly():
    tree = MerkleTree(20)
    tree.set_many({index: index + 1 for index in range(1000)})
    verify_path(tree.root, 999, 1000, tree.path(999), depth=20)
