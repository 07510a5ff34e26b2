"""Masks are compared as the definitions say, and an empty one is never a NaN."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.overlap import dice, hausdorff_95

masks = arrays.arrays(np.int64, (2, 5, 6), elements=st.integers(0, 2))


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_dice_is_twice_the_intersection_over_the_sum(found, truth):
    values = dice(found, truth, classes=3)
    for record in range(2):
        for one in (1, 2):
            a, b = found[record] == one, truth[record] == one
            total = a.sum() + b.sum()
            expected = 2 * (a & b).sum() / total if total else 1.0
            assert np.isclose(values[record, one - 1], expected)


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_a_distance_needs_both_masks_and_is_symmetric(found, truth):
    there, back = (hausdorff_95(*pair, classes=3) for pair in ((found, truth), (truth, found)))
    assert there == back
    for record in range(2):
        for one in (1, 2):
            both = (found[record] == one).any() and (truth[record] == one).any()
            assert (there[record][one - 1] is not None) == both


def block(start):
    mask = np.zeros((1, 12, 12, 12), dtype=np.int64)
    mask[0, start : start + 4, 3:7, 3:7] = 1
    return mask


def test_equal_masks_have_dice_one_and_no_distance():
    assert dice(block(2), block(2), classes=2).tolist() == [[1.0]]
    assert hausdorff_95(block(2), block(2), classes=2) == [[0.0]]


def test_distances_are_in_millimetres_where_voxels_have_a_size():
    assert hausdorff_95(block(2), block(4), classes=2) == [[2.0]]
    assert hausdorff_95(block(2), block(4), classes=2, spacing=(3.0, 1.0, 1.0)) == [[6.0]]


def test_empty_masks_are_told_apart():
    empty = np.zeros((1, 12, 12, 12), dtype=np.int64)
    assert dice(empty, empty, classes=2).tolist() == [[1.0]]
    assert dice(empty, block(2), classes=2).tolist() == [[0.0]]
    assert hausdorff_95(empty, block(2), classes=2) == [[None]]
