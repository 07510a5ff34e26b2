"""A LeanIMT is the tree of its recursive definition, and the one that npm's package makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zk.lean_imt import LeanIMT, LeanPath, climb_path
from zk.poseidon import FIELD, NotInField, poseidon

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "semaphore.json"
elements = st.integers(min_value=0, max_value=FIELD - 1)
leaf_lists = st.lists(elements, min_size=1, max_size=20)


def recursive_root(leaves):
    """The twin: the left part is the largest power of two that leaves something on the right."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return poseidon(recursive_root(leaves[:split]), recursive_root(leaves[split:]))


@given(leaf_lists)
def test_growing_and_building_give_the_root_of_the_definition(leaves):
    grown = LeanIMT()
    places = [grown.insert(leaf) for leaf in leaves]
    built = LeanIMT(leaves)
    assert grown.root == built.root == recursive_root(leaves)
    assert grown.depth == built.depth == (len(leaves) - 1).bit_length()
    assert places == list(range(len(leaves)))
    assert grown.leaves() == leaves


@given(leaf_lists, st.lists(st.tuples(st.integers(0, 19), elements), max_size=8))
def test_any_order_of_changes_gives_the_root_of_the_leaves_in_the_end(leaves, changes):
    tree = LeanIMT(leaves)
    for place, leaf in changes:
        if place < len(leaves):
            tree.update(place, leaf)
            leaves[place] = leaf
        else:
            tree.insert(leaf)
            leaves.append(leaf)
    assert tree.root == recursive_root(leaves)


@given(leaf_lists, st.data())
def test_a_path_leads_from_its_own_leaf_to_the_root_and_from_no_other(leaves, data):
    tree = LeanIMT(leaves)
    place = data.draw(st.integers(0, len(leaves) - 1))
    path = tree.path(place)
    assert climb_path(leaves[place], path) == tree.root
    assert climb_path((leaves[place] + 1) % FIELD, path) != tree.root


def test_every_step_equals_that_of_the_npm_package():
    tree = LeanIMT()
    for expected in json.loads(FILE.read_text())["trees"]:
        kind, *numbers = expected["step"]
        {"insert": tree.insert, "update": tree.update, "remove": tree.remove}[kind](
            *map(int, numbers)
        )
        assert tree.root == int(expected["root"])
        assert tree.depth == expected["depth"]
        assert [tree.path(place) for place in range(tree.size)] == [
            LeanPath(path["index"], tuple(map(int, path["siblings"]))) for path in expected["paths"]
        ]


def test_an_empty_tree_and_one_whose_only_member_left_have_root_0():
    assert LeanIMT().root == 0
    tree = LeanIMT([7])
    tree.remove(0)
    assert tree.root == 0


@pytest.mark.parametrize("leaf", [-1, FIELD, True, "7"])
def test_what_is_no_field_element_is_refused_and_changes_nothing(leaf):
    tree = LeanIMT([1, 2, 3])
    for change in (
        lambda: tree.insert(leaf),
        lambda: tree.update(1, leaf),
        lambda: LeanIMT([leaf]),
    ):
        with pytest.raises(NotInField):
            change()
    assert (tree.leaves(), tree.root) == ([1, 2, 3], recursive_root([1, 2, 3]))
