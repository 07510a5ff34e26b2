"""The path of a leaf leads to its root, and nothing else's does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.contracts.tree import Tree, claim_leaf, climb

numbers = st.lists(st.integers(0, 2**96), min_size=1, max_size=40, unique=True)


@settings(deadline=None)
@given(numbers)
def test_every_path_leads_from_its_leaf_to_the_root(amounts):
    leaves = [claim_leaf(i, amount) for i, amount in enumerate(amounts)]
    tree = Tree(leaves)
    for i, leaf in enumerate(leaves):
        assert climb(leaf, tree.path(i)) == tree.root


@settings(deadline=None)
@given(numbers, st.data())
def test_no_other_leaf_climbs_a_path(amounts, data):
    tree = Tree([claim_leaf(i, amount) for i, amount in enumerate(amounts)])
    i = data.draw(st.integers(0, len(amounts) - 1))
    assert climb(claim_leaf(i, amounts[i] + 1), tree.path(i)) != tree.root


@settings(deadline=None)
@given(numbers)
def test_another_tree_has_another_root(amounts):
    leaves = [claim_leaf(i, amount) for i, amount in enumerate(amounts)]
    assert Tree([*leaves, claim_leaf(len(leaves), 1)]).root != Tree(leaves).root


def test_a_tree_has_leaves():
    with pytest.raises(AssertionError):
        Tree([])
