"""The enrolment group's public log: every change of a place, from which anybody rebuilds the group.

    >>> change = EnrolmentChange(1, place=0, leaf=7, left=False, root=7, at="2026-11-21T09:30:00Z")
    >>> rebuild([change]).root
    7

A line states the root it led to, so that a root to which a proof refers can be found, and whether
somebody left the group with it, so that older roots are known to be of no use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from consent.enrolment_store import ENROLMENT_LOG
from protocol.errors import ConsentError, StorageError
from zk.lean_imt import LeanIMT


class EnrolmentRootUnknown(ConsentError):
    """A proof refers to a state in which the group never was."""

    code = "enrolment-root-unknown"

    def __init__(self, root: int) -> None:
        self.root = root
        super().__init__(
            f"the enrolment group never had the root {root}; fetch its members and prove anew"
        )


class EnrolmentDamaged(StorageError):
    """The group's log does not lead to its roots."""

    code = "enrolment-damaged"

    def __init__(self, name: str, sequence: int) -> None:
        self.name = name
        self.sequence = sequence
        super().__init__(
            f"entry {sequence} of the enrolment log in {name} does not lead to the root it states; "
            "restore the file from its last backup and compare its log with a published one"
        )


@dataclass(frozen=True)
class EnrolmentChange:
    """One line of the log: a place got another leaf."""

    sequence: int
    """From 1, without gaps."""
    place: int
    leaf: int
    """Who acts for the person now; 0 for nobody."""
    left: bool
    """The leaf before was somebody, who acts no more."""
    root: int
    at: str
    """ISO 8601, UTC."""


def rebuild(log: Iterable[EnrolmentChange], *, name: str = "this copy") -> LeanIMT:
    """Return the group that a log leads to, after holding every root in it against the leaves.

    Args:
        log: From the first entry on; hostile.
        name: Of the log, for the message.

    Raises:
        EnrolmentDamaged: An entry is missing, or states another root or leaving than its leaf does.
    """
    tree = LeanIMT()
    for expected, change in enumerate(log, start=1):
        if change.sequence != expected:
            raise EnrolmentDamaged(name, expected)
        apply(tree, change, name)
    return tree


def apply(tree: LeanIMT, change: EnrolmentChange, name: str) -> None:
    """Make one change, and hold what the entry states against it."""
    left = change.place < tree.size and tree.leaf(change.place) != 0
    if not 0 <= change.place <= tree.size or change.left != left:
        raise EnrolmentDamaged(name, change.sequence)
    put(tree, change.place, change.leaf)
    if tree.root != change.root:
        raise EnrolmentDamaged(name, change.sequence)


def put(tree: LeanIMT, place: int, leaf: int) -> None:
    """Give a place a leaf, the next free one too."""
    if place == tree.size:
        tree.insert(leaf)
    else:
        tree.update(place, leaf)


def read_changes(connection: sa.Connection, *, after: int) -> list[EnrolmentChange]:
    """Return the entries after one of this number."""
    wanted = sa.select(ENROLMENT_LOG).where(ENROLMENT_LOG.c.sequence > after)
    rows = connection.execute(wanted.order_by(ENROLMENT_LOG.c.sequence))
    return [EnrolmentChange(*row) for row in rows]


def sequence_of(connection: sa.Connection, root: int) -> int:
    """Return the number of the last entry with this root.

    Raises:
        EnrolmentRootUnknown: There is none, or the root is 0.
    """
    found = sa.select(sa.func.max(ENROLMENT_LOG.c.sequence)).where(ENROLMENT_LOG.c.root == root)
    sequence: int | None = connection.execute(found).scalar()
    if root == 0 or sequence is None:
        raise EnrolmentRootUnknown(root)
    return sequence
