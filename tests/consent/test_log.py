"""Anybody rebuilds the root from the log, and a log no registry may write is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.log import TREE_DEPTH, LogEntry, LogInconsistent, rebuild
from zk.merkle import MerkleTree
from zk.poseidon import FIELD

AT = "2026-11-21T09:30:00+00:00"


def log_of(*changes):
    return [
        LogEntry(sequence=number, index=index, leaf=leaf, epoch=number, at=AT)
        for number, (index, leaf) in enumerate(changes, 1)
    ]


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**TREE_DEPTH - 1), st.integers(1, FIELD - 1), max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_the_log_leads_to_the_root_of_what_is_live(granted, withdrawn):
    gone = [index for place, index in enumerate(granted) if place in withdrawn]
    tree = MerkleTree(TREE_DEPTH)
    tree.set_many({index: leaf for index, leaf in granted.items() if index not in gone})
    assert rebuild(log_of(*granted.items(), *((index, 0) for index in gone))) == tree.root


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([(0, 5), (0, 6)], "used before"),
        ([(0, 5), (0, 0), (0, 5)], "used before"),
        ([(0, 0)], "not there"),
        ([(0, 5), (0, 0), (0, 0)], "not there"),
        ([(2**TREE_DEPTH, 5)], "no place"),
        ([(-1, 5)], "no place"),
        ([(0, FIELD)], "no place"),
    ],
)
def test_a_leaf_that_lives_twice_or_nowhere_is_refused(changes, why):
    with pytest.raises(LogInconsistent, match=why) as refusal:
        rebuild(log_of(*changes))
    assert refusal.value.sequence == len(changes)


def test_a_gap_or_another_order_is_refused():
    log = log_of((0, 5), (1, 6), (2, 7))
    for wrong in (log[1:], log[:1] + log[2:], log[::-1]):
        with pytest.raises(LogInconsistent, match="should stand"):
            rebuild(wrong)


def test_epochs_that_go_back_are_refused():
    with pytest.raises(LogInconsistent, match="before"):
        rebuild([LogEntry(1, 0, 5, 2, AT), LogEntry(2, 1, 6, 1, AT)])
