"""Heads of a log are anchored once, in rising sizes, by an operator."""

import pytest

from tests.ledger.contracts.machine import address, hexed, reverts

OPERATOR, ADMIN, STRANGER = address("operator"), address("admin"), address("stranger")
LOG, ROOT = b"l" * 32, b"r" * 32


@pytest.fixture
def anchor(machine):
    anchor = machine.deploy("AuditAnchor", ADMIN)
    anchor.grantRole(anchor.OPERATOR_ROLE(), OPERATOR, sender=ADMIN)
    return anchor


def test_heads_are_kept_with_their_sizes(machine, anchor):
    done = anchor.anchor(LOG, 0, 5, ROOT, sender=OPERATOR)
    assert done.events == [("HeadAnchored", LOG, 5, ROOT, 0, hexed(OPERATOR))]
    machine.now += 3
    anchor.anchor(LOG, 5, 9, b"s" * 32, sender=OPERATOR)
    assert anchor.lastOf(LOG) == (9, machine.now, 2)
    assert (anchor.rootAt(LOG, 5), anchor.rootAt(LOG, 9)) == (ROOT, b"s" * 32)
    assert anchor.lastOf(b"m" * 32) == (0, 0, 0)
    with reverts("UnknownHead", LOG, 6):
        anchor.rootAt(LOG, 6)


@pytest.mark.parametrize("size", [0, 4, 5])
def test_a_head_that_is_not_larger_is_refused(anchor, size):
    anchor.anchor(LOG, 0, 5, ROOT, sender=OPERATOR)
    with reverts("SizeNotLarger", LOG, size, 5):
        anchor.anchor(LOG, 5, size, ROOT, sender=OPERATOR)


def test_a_writer_who_missed_a_head_is_refused(anchor):
    anchor.anchor(LOG, 0, 5, ROOT, sender=OPERATOR)
    for previous in (0, 4, 6):
        with reverts("LastHeadDiffers", LOG, 5):
            anchor.anchor(LOG, previous, 9, ROOT, sender=OPERATOR)


def test_a_head_without_a_root_is_refused(anchor):
    with reverts("RootMissing"):
        anchor.anchor(LOG, 0, 5, bytes(32), sender=OPERATOR)


def test_only_an_operator_anchors(anchor):
    with reverts("AccessControlUnauthorizedAccount"):
        anchor.anchor(LOG, 0, 5, ROOT, sender=ADMIN)
