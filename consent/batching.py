"""Publish proven grants in batches, so that the time of a grant does not tell who granted.

Whoever sees a patient leave the clinic at ten and a leaf appear at five past knows whose leaf it
is. A queue takes proven grants as they come and publishes those of an interval together, in random
order, in one epoch. A withdrawal never waits: it ends a grant that still waits, or a published one
at once.

What holds (tests/consent/test_batching.py):

1. Grants of one interval appear in one epoch, in an order that does not depend on their arrival.
2. A withdrawal takes effect when it returns, whether or not the grant was published. It ends all
   that the person has in the study: what waits, and what it would have taken the place of.
3. What was accepted is published exactly once, over any crash, or withdrawn.
4. Of one person the last grant of an interval is published, and no other; the code of one that was
   replaced while it waited ends what took its place.
5. After a batch the file does not show in which order its grants came.

A grant counts as given when it was accepted: the enrolment group is asked then and not again. What
a batch hides is worth what is in it: the only grant of an interval is as plain as before. The queue
keeps no time of arrival. Of a grant that will never be published it keeps leaf, hash of the code
and nullifier, so that an old paper still serves; its proof is forgotten.
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
from consent.grants_by_proof import check_withdrawal_proof
from consent.lanes import Lane
from consent.publication import Checked, LaneFull, LeafUnusable, ProvenGrant, grant_id
from consent.receipts import GrantReceipt, WithdrawalReceipt
from consent.registry import Registry
from consent.store import Element, forget_past
from consent.withdrawal import GrantReplaced, GrantUnknown, WithdrawalCodeWrong
from protocol.ids import GrantId
from storage.database import open_database, reading, writing
from zk import groth16
from zk.semaphore import SemaphoreProof, Verifier

Shuffle = Callable[[MutableSequence[Any]], None]
"""``random.SystemRandom().shuffle``, whose order nobody can foretell."""

Unpublished = sa.Row[*tuple[Any, ...]]
"""What waits, or was never published: columns of both, ``heir`` and whether it ``waits``."""

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
    Column("replaces", String),  # the person's live grant when this one was accepted
    sqlite_with_rowid=False,
)
NEVER: Final = Table(  # accepted, and withdrawn or replaced before it was published
    "never_published",
    METADATA,
    Column("leaf", Element, primary_key=True),
    Column("grant", String, unique=True, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("revoke_hash", LargeBinary, nullable=False),
    Column("nullifier", Element, nullable=False),
    Column("heir", String),  # the grant that took its place; none where it was withdrawn
    sqlite_with_rowid=False,
)
LAST: Final = Table(
    "last_batch",
    METADATA,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),  # ISO 8601
)


_OF_BOTH: Final = tuple(
    WAITING.c[name] for name in ("leaf", "grant", "lane", "revoke_hash", "nullifier")
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
        assert checked.nullifier is not None
        name = grant_id(self._registry.id, checked.leaf)
        with writing(self._engine) as connection:
            if self._find(connection, name) is not None or self._is_published(name):
                raise LeafUnusable(0, "its leaf was accepted before")
            self._put_aside(connection, checked.nullifier, heir=name)
            here = sa.select(sa.func.count()).where(WAITING.c.lane == lane.first_chunk)
            waiting = connection.execute(here).scalar_one()
            free = self._registry.free_places(lane)
            if waiting >= free:
                raise LaneFull(lane, 1, free - waiting)
            replaces = self._registry.live_grant(checked.nullifier)
            connection.execute(sa.insert(WAITING).values(_row(name, checked, replaces)))
        return name

    def waiting(self) -> int:
        """Return how many grants wait."""
        return len(self.waiting_grants())

    def waiting_grants(self) -> set[GrantId]:
        """Return which grants wait; in no order."""
        with reading(self._engine) as connection:
            return {
                GrantId(name) for name in connection.execute(sa.select(WAITING.c.grant)).scalars()
            }

    def begin(self, *, now: datetime) -> None:
        """Count the first interval from now, where there was no batch yet.

        Without it the first grant of all would be published when it came.

        Raises:
            StorageError: The disk refused.
        """
        assert now.tzinfo is not None
        with writing(self._engine) as connection:
            if connection.execute(sa.select(LAST)).first() is None:
                connection.execute(sa.insert(LAST).values(only=1, at=now.isoformat()))

    def due(self, *, now: datetime) -> datetime:
        """Return when the next batch is published, which is public; now or earlier: at once."""
        with reading(self._engine) as connection:
            last = connection.execute(sa.select(LAST.c.at)).scalar()
        return now if last is None else datetime.fromisoformat(last) + self._interval

    @property
    def interval(self) -> timedelta:
        """At least so long between batches."""
        return self._interval

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
            gone = [row for row in rows if self._was_withdrawn(row.replaces)]
            for row in gone:
                self._put_aside(connection, row.nullifier, heir=None)
            grants = [_checked(row, lanes[row.lane]) for row in rows if row not in gone]
            self._shuffle(grants)
            receipts = self._registry.publish_checked(grants, now=now)
            connection.execute(sa.delete(WAITING))
            connection.execute(sa.delete(LAST))
            connection.execute(sa.insert(LAST).values(only=1, at=now.isoformat()))
        return receipts

    def forget_past(self) -> None:
        """Leave nothing in the file of what waited once, nor of the order in which it came.

        Raises:
            StorageError: The disk refused; the traces are there until the next time.
        """
        forget_past(self._engine)

    def withdraw(self, grant: GrantId, code: bytes, *, now: datetime) -> WithdrawalReceipt | None:
        """End a grant at once, published or not, with all that the person has in the study.

        Returns:
            The receipt of what was published; None where nothing was, and now never will be.

        Raises:
            GrantUnknown: There is no such grant, nor does one wait.
            WithdrawalCodeWrong: The code is another grant's, or nobody's.
            StorageError: The disk refused; ask again.
        """
        with writing(self._engine) as connection:
            row = self._unpublished(connection, grant)
            if row is None:
                receipt = self._registry.withdraw(grant, code, now=now)
                self._end_waiting(connection, receipt.grant)
                return receipt
            if not hmac.compare_digest(hashlib.sha256(code).digest(), row.revoke_hash):
                raise WithdrawalCodeWrong(grant)
            return self._end(connection, row, now=now)

    def withdraw_proven(
        self,
        grant: GrantId,
        proof: SemaphoreProof,
        *,
        group: EnrolmentGroup,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> WithdrawalReceipt | None:
        """End a grant at once by a proof of who gave it; see ``withdraw``.

        Args:
            grant: Published or waiting.
            proof: From anybody; says ``consent.grants_by_proof.withdrawal_message``.
            group: The enrolment group.
            now: With a time zone.
            verifier: The reference, or ``zk.fast.verify``.

        Raises:
            GrantUnknown: There is no such grant, nor does one wait.
            GrantReplaced: Another grant has taken its place.
            ConsentError, ProofError: As ``Registry.withdraw_proven``.
            StorageError: The disk refused; ask again.
        """
        with writing(self._engine) as connection:
            row = self._unpublished(connection, grant)
            if row is None:
                receipt = self._registry.withdraw_proven(
                    grant, proof, group=group, now=now, verifier=verifier
                )
                self._end_waiting(connection, receipt.grant)
                return receipt
            check_withdrawal_proof(
                proof,
                next(one.study for one in self._registry.lanes() if one.first_chunk == row.lane),
                row.leaf,
                row.nullifier,
                registry=self._registry.id,
                group=group,
                verifier=verifier,
            )
            if row.heir is not None:
                raise GrantReplaced(grant, GrantId(row.heir))
            return self._end(connection, row, now=now)

    def _end(
        self, connection: sa.Connection, row: Unpublished, *, now: datetime
    ) -> WithdrawalReceipt | None:
        """End what became of a grant that was not published."""
        while row.heir is not None:
            heir = GrantId(row.heir)
            found = self._unpublished(connection, heir)
            if found is None:
                receipt = self._registry.withdraw_checked(heir, now=now)
                self._end_waiting(connection, receipt.grant)
                return receipt
            row = found
        if not row.waits:  # it was withdrawn before
            return None
        self._put_aside(connection, row.nullifier, heir=None)
        live = self._registry.live_grant(row.nullifier)
        return None if live is None else self._registry.withdraw_checked(live, now=now)

    def _end_waiting(self, connection: sa.Connection, ended: GrantId) -> None:
        """Withdraw what the giver of a grant that was ended has sent since and still waits."""
        nullifier = self._registry.status(ended).nullifier
        if nullifier is not None:
            self._put_aside(connection, nullifier, heir=None)

    def _put_aside(
        self, connection: sa.Connection, nullifier: int, *, heir: GrantId | None
    ) -> None:
        """Let a person's waiting grant never be published."""
        mine = WAITING.c.nullifier == nullifier
        row = connection.execute(sa.select(WAITING).where(mine)).first()
        if row is None:
            return
        connection.execute(sa.delete(WAITING).where(mine))
        if not self._is_published(GrantId(row.grant)):
            kept = {column.name: getattr(row, column.name) for column in _OF_BOTH}
            connection.execute(sa.insert(NEVER).values(kept | {"heir": heir}))

    def _unpublished(self, connection: sa.Connection, grant: GrantId) -> Unpublished | None:
        row = self._find(connection, grant)
        return None if row is None or self._is_published(grant) else row

    def _find(self, connection: sa.Connection, grant: GrantId) -> Unpublished | None:
        """Return the row of a grant that waits, or never will again, with its heir."""
        waits = sa.select(*_OF_BOTH, sa.null().label("heir"), sa.true().label("waits"))
        ended = sa.select(*NEVER.c, sa.false().label("waits"))
        found = connection.execute(waits.where(WAITING.c.grant == grant)).first()
        return found or connection.execute(ended.where(NEVER.c.grant == grant)).first()

    def _was_withdrawn(self, grant: str | None) -> bool:
        """Say whether a grant ended otherwise than by another in its place."""
        if grant is None:
            return False
        status = self._registry.status(GrantId(grant))
        return not status.is_live and status.replaced_by is None

    def _is_published(self, grant: GrantId) -> bool:
        try:
            self._registry.status(grant)
        except GrantUnknown:
            return False
        return True


def _row(name: GrantId, grant: Checked, replaces: GrantId | None) -> dict[str, Any]:
    return {
        "leaf": grant.leaf,
        "grant": name,
        "lane": grant.lane.first_chunk,
        "revoke_hash": grant.revoke_hash,
        "nullifier": grant.nullifier,
        "payout_id": grant.payout_id,
        "proof": grant.proof,
        "replaces": replaces,
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
