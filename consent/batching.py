"""Publish proven grants in batches, so that the time of a grant does not tell who granted.

Whoever sees a patient leave the clinic at ten and a leaf appear at five past knows whose leaf it
is. A queue takes proven grants as they come and publishes those of an interval together, in random
order, in one epoch. A withdrawal never waits: it ends a grant that still waits, or a published one
at once.

What holds (tests/consent/test_batching.py):

1. Grants of one interval appear in one epoch, in an order that does not depend on their arrival.
2. A withdrawal takes effect when it returns, whether or not the grant was published.
3. What was accepted is published exactly once, over any crash, or withdrawn.
4. Of one person the last grant of an interval is published, and no other.

A grant counts as given when it was accepted: the enrolment group is asked then and not again. What
a batch hides is worth what is in it: the only grant of an interval is as plain as before. The queue
keeps no time of arrival.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, MutableSequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table

from consent.enrolment import EnrolmentGroup
from consent.lanes import Lane
from consent.publication import Checked, LaneFull, LeafUnusable, ProvenGrant, grant_id
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.registry import Registry
from consent.store import Element
from consent.withdrawal import GrantUnknown, WithdrawalCodeWrong
from protocol.ids import GrantId
from storage.database import open_database, reading, writing
from zk import groth16
from zk.semaphore import Verifier

Shuffle = Callable[[MutableSequence[Any]], None]
"""``random.SystemRandom().shuffle``, whose order nobody can foretell."""

METADATA: Final = MetaData()

WAITING: Final = Table(
    "waiting",
    METADATA,
    # By leaf, not by arrival: the file must not keep the order that the batch hides.
    Column("leaf", Element, primary_key=True),
    Column("grant", String, unique=True, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("revoke_hash", LargeBinary, nullable=False),
    Column("nullifier", Element, unique=True, nullable=False),
    Column("payout_id", Element, nullable=False),
    Column("proof", String, nullable=False),
    sqlite_with_rowid=False,
)
LAST: Final = Table(
    "last_batch",
    METADATA,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),  # ISO 8601
)


class GrantQueue:
    """Grants that wait for their batch, in a file beside the registry's."""

    def __init__(
        self,
        database: str | Path,
        registry: Registry,
        *,
        interval: timedelta,
        shuffle: Shuffle,
    ) -> None:
        """Open the queue, empty where there is none.

        Args:
            database: A file, which its owner alone may read, or ``":memory:"``.
            registry: With its signing key.
            interval: At least so long between batches.
            shuffle: Puts a list into random order.

        Raises:
            StorageError: The database cannot be used.
        """
        self._engine = open_database(database, METADATA, private=True)
        self._registry = registry
        self._interval = interval
        self._shuffle = shuffle

    def close(self) -> None:
        """Close the file; what was accepted is on the disk already."""
        self._engine.dispose()

    def accept(
        self,
        lane: Lane,
        grant: ProvenGrant,
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> GrantId:
        """Take a grant for the next batch, in place of the same person's that still waits.

        Args:
            lane: Of the registry.
            grant: From anybody.
            group: The enrolment group.
            now: With a time zone.
            verifier: The reference, or ``zk.fast.verify``.

        Raises:
            ConsentError, ProofError: As ``Registry.publish_proven``; nothing was accepted.
            StorageError: The disk refused; nothing was accepted.
        """
        checked = self._registry.check_grant(lane, grant, group=group, now=now, verifier=verifier)
        name = grant_id(self._registry.id, checked.leaf)
        with writing(self._engine) as connection:
            known = connection.execute(sa.select(WAITING).where(WAITING.c.grant == name)).first()
            if known is not None or self._is_published(name):
                raise LeafUnusable(0, "its leaf was accepted before")
            same = WAITING.c.nullifier == checked.nullifier
            connection.execute(sa.delete(WAITING).where(same))
            here = sa.select(sa.func.count()).where(WAITING.c.lane == lane.first_chunk)
            waiting = connection.execute(here).scalar_one()
            free = self._registry.free_places(lane)
            if waiting >= free:
                raise LaneFull(lane, 1, free - waiting)
            connection.execute(sa.insert(WAITING).values(_row(name, checked)))
        return name

    def waiting(self) -> int:
        """Return how many grants wait."""
        with reading(self._engine) as connection:
            return int(connection.execute(sa.select(sa.func.count(WAITING.c.leaf))).scalar_one())

    def publish_due(self, *, now: datetime) -> list[GrantReceipt]:
        """Publish all that wait, if the interval has passed since the batch before, empty or not.

        Returns:
            The receipts in the order of their places; empty while it is not time.

        Raises:
            LaneFull: A lane was filled by others meanwhile; open it wider.
            StorageError: The disk refused; what was not published waits on.
        """
        assert now.tzinfo is not None
        with writing(self._engine) as connection:
            last = connection.execute(sa.select(LAST.c.at)).scalar()
            if last is not None and now - datetime.fromisoformat(last) < self._interval:
                return []
            lanes = {lane.first_chunk: lane for lane in self._registry.lanes()}
            rows = connection.execute(sa.select(WAITING)).all()
            # Published, and the process died before it could say so here.
            rows = [row for row in rows if not self._is_published(GrantId(row.grant))]
            grants = [_checked(row, lanes[row.lane]) for row in rows]
            self._shuffle(grants)
            receipts = self._registry.publish_checked(grants, now=now)
            connection.execute(sa.delete(WAITING))
            connection.execute(sa.delete(LAST))
            connection.execute(sa.insert(LAST).values(only=1, at=now.isoformat()))
        return receipts

    def withdraw(self, grant: GrantId, code: bytes, *, now: datetime) -> WithdrawalReceipt | None:
        """End a grant at once, published or not; None for one that will now never be published.

        Raises:
            GrantUnknown: There is no such grant, nor does one wait.
            WithdrawalCodeWrong: The code is another grant's, or nobody's.
            StorageError: The disk refused; the grant is as it was.
        """
        with writing(self._engine) as connection:
            row = connection.execute(sa.select(WAITING).where(WAITING.c.grant == grant)).first()
            if row is not None and not self._is_published(grant):
                if not hmac.compare_digest(hashlib.sha256(code).digest(), row.revoke_hash):
                    raise WithdrawalCodeWrong(grant)
                connection.execute(sa.delete(WAITING).where(WAITING.c.grant == grant))
                return None
            receipt = self._registry.withdraw(grant, code, now=now)
            # She withdraws: what she has sent since and still waits is withdrawn with it.
            nullifier = self._registry.status(grant).nullifier
            connection.execute(sa.delete(WAITING).where(WAITING.c.nullifier == nullifier))
        return receipt

    def _is_published(self, grant: GrantId) -> bool:
        try:
            self._registry.status(grant)
        except GrantUnknown:
            return False
        return True


def _row(name: GrantId, grant: Checked) -> dict[str, Any]:
    return {
        "leaf": grant.leaf,
        "grant": name,
        "lane": grant.lane.first_chunk,
        "revoke_hash": grant.revoke_hash,
        "nullifier": grant.nullifier,
        "payout_id": grant.payout_id,
        "proof": grant.proof,
    }


def _checked(row: sa.Row[Any], lane: Lane) -> Checked:
    return Checked(
        lane,
        row.leaf,
        row.revoke_hash,
        nullifier=row.nullifier,
        payout_id=row.payout_id,
        proof=row.proof,
    )
