"""Publishing grants: what goes into the tree, whose word it rests on, and what it replaces.

A grant is made by a hospital, on its word, or proven by an enrolled person (``consent.
grants_by_proof``). A proven grant carries a nullifier, which is the same for all that one person
says in one study. If she has a live grant there, in whatever lane, the new one replaces it: the old
leaf becomes 0 and the new one appears in the same epoch, so that she never counts twice.

What holds (tests/consent/test_registry_proven.py):

1. A nullifier has at most one live leaf, in the tree and in the database.
2. A lane for proven grants takes no others.
3. A leaf is published once, ever: a proof that was seen cannot be shown again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.history import History
from consent.lanes import Lane, LanePolicy, LaneUnknown, read_lanes
from consent.log import LogEntry
from consent.receipts import GrantReceipt
from consent.store import GRANTS
from protocol.errors import ConsentError
from protocol.ids import GrantId
from zk.poseidon import FIELD
from zk.semaphore import SemaphoreProof

GRANT_DIGITS: Final = 20
"""Hexadecimal digits of a grant's id, 80 bits: among a million two collide with chance 2^-41."""


class LaneFull(ConsentError):
    """A lane has fewer free places than grants were to be published."""

    code = "lane-full"

    def __init__(self, lane: Lane, asked: int, free: int) -> None:
        self.lane = lane
        self.free = free
        super().__init__(
            f"the lane of {lane.site} in {lane.study} has {free} free places and {asked} are "
            "needed; open a larger lane under another data set name"
        )


class LaneProvenOnly(ConsentError):
    """A grant without a proof was to go into a lane for proven ones."""

    code = "lane-proven-only"

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        super().__init__(
            f"the lane of {lane.site} in {lane.study} takes only grants that the patient proved; "
            "let her grant on the patient's page"
        )


class LeafUnusable(ConsentError):
    """A leaf cannot be published."""

    code = "leaf-unusable"

    def __init__(self, position: int, why: str) -> None:
        self.position = position
        super().__init__(
            f"grant {position} of this call cannot be published: {why}; make a new opening"
        )


@dataclass(frozen=True)
class ProvenGrant:
    """What an enrolled person sends: see ``consent.grants_by_proof.grant_message``."""

    leaf: int
    revoke_hash: bytes
    """SHA-256 of her withdrawal code, 32 bytes."""
    payout_id: int
    """The commitment of the identity that claims for this grant."""
    proof: SemaphoreProof


@dataclass(frozen=True)
class Checked:
    """A grant of which everything but the state of the registry was checked."""

    lane: Lane
    leaf: int
    revoke_hash: bytes
    nullifier: int | None = None
    payout_id: int | None = None
    proof: str | None = None
    """Canonical JSON."""


def publish(
    connection: sa.Connection,
    history: History,
    key: Ed25519PrivateKey,
    grants: Sequence[Checked],
    at: str,
) -> list[GrantReceipt]:
    """Publish grants in one epoch, all of them or none.

    Args:
        connection: Holds the write lock.
        history: As of now; ahead of the disk until the transaction is committed.
        key: The registry's.
        grants: At least one; of a nullifier one at most.
        at: ISO 8601, UTC.

    Raises:
        LaneUnknown: A lane is not this registry's.
        LaneProvenOnly: A lane takes proven grants only, and one has no proof.
        LaneFull: A lane has too few free places.
        LeafUnusable: A leaf is 0, no field element, or was published before, ever.
    """
    _check_lanes(connection, [grant.lane for grant in grants])
    _check_words(grants)
    places = _free_places(connection, grants)
    _check_leaves(connection, [grant.leaf for grant in grants])
    epoch = history.epoch.number + 1
    replaced = [_live_of(connection, grant.nullifier) for grant in grants]
    for old, place in zip(replaced, places, strict=True):
        if old is not None:
            ended = sa.update(GRANTS).where(GRANTS.c.place == old.place)
            connection.execute(ended.values(withdrawn_epoch=epoch, replaced_by=place))
    ids = [grant_id(history.registry, grant.leaf) for grant in grants]
    rows = [_row(*one) for one in zip(grants, ids, places, strict=True)]
    connection.execute(sa.insert(GRANTS), rows)
    ends = [(old.place, None) for old in replaced if old is not None]
    leaves = [(place, grant) for place, grant in zip(places, grants, strict=True)]
    changes = [
        _entry(sequence, place, grant, epoch, at)
        for sequence, (place, grant) in enumerate([*ends, *leaves], history.sequence + 1)
    ]
    history.append(connection, changes, at, key)
    return [
        GrantReceipt(
            history.registry,
            b"",
            grant=name,
            index=place,
            leaf=grant.leaf,
            epoch=epoch,
            at=at,
            policy=grant.lane.policy.value,
            proven=grant.proof is not None,
            replaces=None if old is None else GrantId(old.grant),
        ).signed_by(key)
        for grant, name, place, old in zip(grants, ids, places, replaced, strict=True)
    ]


def grant_id(registry: str, leaf: int) -> GrantId:
    """Return the id of the grant whose leaf this is."""
    digest = hashlib.sha256(f"bithive grant\n{registry}\n{leaf}".encode()).hexdigest()
    return GrantId(digest[:GRANT_DIGITS])


def next_place(connection: sa.Connection, lane: Lane) -> int:
    """Return the index of a lane's next free place; the end of the lane when it is full."""
    start, stop = lane.indices.start, lane.indices.stop
    mine = (GRANTS.c.place >= start) & (GRANTS.c.place < stop)
    last = connection.execute(sa.select(sa.func.max(GRANTS.c.place)).where(mine)).scalar()
    return start if last is None else int(last) + 1


def _check_lanes(connection: sa.Connection, lanes: Sequence[Lane]) -> None:
    known = set(read_lanes(connection))
    for lane in lanes:
        if lane not in known:
            raise LaneUnknown(f"{lane.site} in {lane.study}")


def _check_words(grants: Sequence[Checked]) -> None:
    seen: set[int] = set()
    for position, grant in enumerate(grants):
        if grant.nullifier is None:
            if grant.lane.policy is LanePolicy.PROVEN:
                raise LaneProvenOnly(grant.lane)
        elif grant.nullifier in seen:
            raise LeafUnusable(position, "the same person grants twice in one call")
        else:
            seen.add(grant.nullifier)


def _check_leaves(connection: sa.Connection, leaves: Sequence[int]) -> None:
    published = sa.select(GRANTS.c.grant).where(GRANTS.c.leaf == sa.bindparam("leaf"))
    seen: set[int] = set()
    for position, leaf in enumerate(leaves):
        if not 0 < leaf < FIELD:
            raise LeafUnusable(position, "it is not a commitment")
        if leaf in seen or connection.execute(published, {"leaf": leaf}).first() is not None:
            raise LeafUnusable(position, "its leaf was published before")
        seen.add(leaf)


def _free_places(connection: sa.Connection, grants: Sequence[Checked]) -> list[int]:
    """Return the place of each grant: the next free ones of its lane."""
    free: dict[Lane, int] = {}
    places = []
    for grant in grants:
        lane = grant.lane
        if lane not in free:
            free[lane] = next_place(connection, lane)
            asked = sum(one.lane == lane for one in grants)
            if free[lane] + asked > lane.indices.stop:
                raise LaneFull(lane, asked, lane.indices.stop - free[lane])
        places.append(free[lane])
        free[lane] += 1
    return places


def _live_of(connection: sa.Connection, nullifier: int | None) -> sa.Row[Any] | None:
    if nullifier is None:
        return None
    live = (GRANTS.c.nullifier == nullifier) & GRANTS.c.withdrawn_epoch.is_(None)
    return connection.execute(sa.select(GRANTS).where(live)).first()


def _row(grant: Checked, name: GrantId, place: int) -> dict[str, Any]:
    return {
        "place": place,
        "grant": name,
        "lane": grant.lane.first_chunk,
        "leaf": grant.leaf,
        "revoke_hash": grant.revoke_hash,
        "nullifier": grant.nullifier,
        "payout_id": grant.payout_id,
        "proof": grant.proof,
    }


def _entry(sequence: int, place: int, grant: Checked | None, epoch: int, at: str) -> LogEntry:
    if grant is None:
        return LogEntry(sequence, place, 0, epoch, at)
    return LogEntry(
        sequence,
        place,
        grant.leaf,
        epoch,
        at,
        revoke_hash=grant.revoke_hash,
        nullifier=grant.nullifier,
        payout_id=grant.payout_id,
        proof=grant.proof,
    )
