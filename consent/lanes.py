"""A lane: the run of whole chunks in the tree that one site's grants for one study go into.

A certificate covers one chunk, so a chunk belongs to one lane only and lanes begin and end at
chunk borders. Which chunks belong to whom is public; which leaf is whose is not. A leaf commits to
site, data set and study itself, so that in a foreign lane it proves nothing. A lane is part of what
the registry signs from the first epoch after it was opened.

A lane's policy says whose word a grant in it rests on. It is fixed when the lane is opened.

What holds (tests/consent/test_lanes.py):

1. No two lanes share a chunk, and a lane never moves, grows or ends.
2. The same triple of study, site and data set always gives the same lane.
3. No two names stand for the same number in consent terms.
4. A lane keeps the policy it was opened with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from consent.log import TREE_DEPTH
from consent.store import LANES, NUMBERS
from protocol.errors import ConsentError
from protocol.ids import SiteId, StudyId, number_of
from zk.cover import DATASET_BITS, SITE_BITS, STUDY_BITS

CHUNK_SIZE: Final = 64
"""Leaves in a chunk of the production circuit."""


class LanePolicy(StrEnum):
    """Whose word a grant in a lane rests on."""

    PROVEN = "proven"
    """Every grant was proven by an enrolled person: for production."""
    HOSPITAL = "hospital"
    """The hospital's word is enough: for consents on paper, and for demonstrations."""


class LaneUnknown(ConsentError):
    """The registry has opened no such lane."""

    code = "lane-unknown"

    def __init__(self, what: str) -> None:
        super().__init__(f"the registry has no lane for {what}; open one first")


class LaneDiffers(ConsentError):
    """A lane is open already and cannot become what was asked for."""

    code = "lane-differs"

    def __init__(self, lane: Lane, why: str) -> None:
        self.lane = lane
        super().__init__(
            f"the lane of {lane.site} in {lane.study} cannot be opened so: {why}; "
            "open it as it is, or use another data set name"
        )


class RegistryFull(ConsentError):
    """The tree has no room for another lane."""

    code = "registry-full"

    def __init__(self, asked: int, free: int) -> None:
        self.free = free
        super().__init__(
            f"the registry has room for {free} more leaves and the lane needs {asked}; "
            "ask for fewer or start another registry"
        )


class NumberTaken(ConsentError):
    """Two names have the same number in consent terms."""

    code = "number-taken"

    def __init__(self, kind: str, name: str, other: str) -> None:
        self.kind = kind
        super().__init__(
            f"the {kind} {name} has the same number in consent terms as {other}; rename it"
        )


@dataclass(frozen=True)
class Lane:
    """A lane as the registry opened it."""

    study: StudyId
    site: SiteId
    dataset: str
    first_chunk: int
    chunk_count: int
    chunk_size: int
    """Leaves in a chunk: a power of two, the same for all lanes of a registry."""
    policy: LanePolicy = LanePolicy.HOSPITAL

    @property
    def chunks(self) -> range:
        """Its chunks, numbered over the whole tree."""
        return range(self.first_chunk, self.first_chunk + self.chunk_count)

    @property
    def indices(self) -> range:
        """The indices of its leaves."""
        first = self.first_chunk * self.chunk_size
        return range(first, first + self.capacity)

    @property
    def capacity(self) -> int:
        """How many grants it takes in all; a withdrawn grant's place is not used again."""
        return self.chunk_count * self.chunk_size

    @property
    def chunk_level(self) -> int:
        """The level of the tree at which a node covers one chunk."""
        return self.chunk_size.bit_length() - 1


def read_lanes(connection: sa.Connection) -> list[Lane]:
    """Return all lanes in the order of their chunks."""
    rows = connection.execute(sa.select(LANES).order_by(LANES.c.first_chunk))
    return [lane_of(row) for row in rows]


def lane_of(row: sa.Row[Any]) -> Lane:
    """Return the lane in a row of the table."""
    return Lane(
        study=StudyId(row.study),
        site=SiteId(row.site),
        dataset=row.dataset,
        first_chunk=row.first_chunk,
        chunk_count=row.chunk_count,
        chunk_size=row.chunk_size,
        policy=LanePolicy(row.policy),
    )


def allot(
    connection: sa.Connection,
    study: StudyId,
    site: SiteId,
    dataset: str,
    *,
    capacity: int,
    chunk_size: int,
    policy: LanePolicy,
    epoch: int,
) -> Lane:
    """Return the lane of this triple, opening it behind the last one where there is none.

    Args:
        connection: Holds the write lock.
        study: Whose purpose the grants are for.
        site: Whose patients they are.
        dataset: Of which data set.
        capacity: Grants it must take at least, over all time; rounded up to whole chunks.
        chunk_size: Leaves in a chunk.
        policy: Whose word a grant rests on.
        epoch: The number of the next epoch.

    Raises:
        LaneDiffers: It is open with a smaller capacity or another policy, or chunks here have
            another size.
        RegistryFull: The tree has no room.
        NumberTaken: Another name has the same number in consent terms.
    """
    assert capacity >= 0
    assert 1 <= chunk_size == 1 << (chunk_size.bit_length() - 1)
    lanes = read_lanes(connection)
    first = lanes[-1].chunks.stop if lanes else 0
    chunks = max(1, -(-capacity // chunk_size))
    wanted = Lane(study, site, dataset, first, chunks, chunk_size, policy)
    if lanes and lanes[0].chunk_size != chunk_size:
        size = lanes[0].chunk_size
        raise LaneDiffers(wanted, f"chunks of this registry have {size} leaves")
    for lane in lanes:
        if (lane.study, lane.site, lane.dataset) == (study, site, dataset):
            if lane.capacity < capacity:
                raise LaneDiffers(lane, f"it takes {lane.capacity} grants and no more")
            if lane.policy is not policy:
                raise LaneDiffers(lane, f"its policy is {lane.policy}")
            return lane
    free = (1 << TREE_DEPTH) - first * chunk_size
    if wanted.capacity > free:
        raise RegistryFull(wanted.capacity, free)
    for kind, name, bits in (
        ("study", study, STUDY_BITS),
        ("site", site, SITE_BITS),
        ("dataset", dataset, DATASET_BITS),
    ):
        _claim_number(connection, kind, name, bits)
    connection.execute(
        sa.insert(LANES).values(
            study=study,
            site=site,
            dataset=dataset,
            first_chunk=wanted.first_chunk,
            chunk_count=wanted.chunk_count,
            chunk_size=chunk_size,
            policy=policy,
            epoch=epoch,
        )
    )
    return wanted


def _claim_number(connection: sa.Connection, kind: str, name: str, bits: int) -> None:
    number = f"{number_of(name, bits=bits):x}"
    where = (NUMBERS.c.kind == kind) & (NUMBERS.c.number == number)
    holder = connection.execute(sa.select(NUMBERS.c.name).where(where)).scalar()
    if holder is None:
        connection.execute(sa.insert(NUMBERS).values(kind=kind, number=number, name=name))
    elif holder != name:
        raise NumberTaken(kind, name, holder)
