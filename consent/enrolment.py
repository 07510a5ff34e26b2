"""The enrolment group: the identity commitments of persons whom a hospital has identified.

A patient grants by proving that she is one of this group, so one person counts once in a study and
no name is known. The group is a LeanIMT (``zk.lean_imt``) in which a person has one place for good.
The place holds the commitment that acts for her: her own, or before a ward's day her carer's
(``consent.proofing``). Every change needs a statement that a hospital signed, or a ward's day that
came, and is a line in a public log from which anybody rebuilds every root.

    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> from consent.proofing import Proofing
    >>> key, now = Ed25519PrivateKey.generate(), datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    >>> group = EnrolmentGroup(":memory:", {SiteId("north"): key.public_key().public_bytes_raw()})
    >>> statement = Enrolment(
    ...     site=SiteId("north"), commitment=7, proofing=Proofing.IN_PERSON, at=now.isoformat()
    ... )
    >>> group.enrol(statement.signed_by(key), now=now)
    >>> group.check_root(group.root(now=now), now=now)

What holds (tests/consent/test_enrolment.py):

1. A commitment joins once, ever, and only with a hospital's signature.
2. The root is that of the log, after any interleaving of changes, and in the next process.
3. A root serves for proofs while it is the newest, and for 24 hours after others have joined. When
   somebody leaves the group no root before serves any more: a proof against it could be hers.
4. From a ward's day on no proof of her carer is accepted, whether or not anybody did anything on
   that day; before it none of her own.

A person who enrols anew after losing her secret has new nullifiers: her hospital withdraws her old
grants, by their codes, before it signs for her again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from consent.enrolment_log import (
    EnrolmentChange,
    apply,
    put,
    read_changes,
    rebuild,
    sequence_of,
)
from consent.enrolment_store import ENROLMENT_LOG, ENROLMENTS, open_tables
from consent.proofing import Enrolment, Kind, Removal
from consent.store import lock
from protocol.errors import ConsentError
from protocol.ids import SiteId
from storage.database import name_of, reading, writing
from zk.lean_imt import LeanIMT
from zk.poseidon import FIELD
from zk.semaphore import check_members

ROOT_AGE_MAX: Final = timedelta(hours=24)
"""How long a root serves after others have joined: long enough to prove on a slow telephone, and
for a proof made without a network in the evening to be sent in the morning."""


class SiteNotEnrolling(ConsentError):
    """A statement names a hospital whose key the group does not know."""

    code = "site-not-enrolling"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(f"{site} is not among the hospitals that enrol; register its key first")


class CommitmentUnusable(ConsentError):
    """A commitment cannot join."""

    code = "commitment-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this identity commitment cannot be enrolled: {why}; make a new identity")


class CarerUnusable(ConsentError):
    """A ward's enrolment names a carer who cannot act for her."""

    code = "carer-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the carer's commitment cannot act for this ward: {why}; enrol the carer with an "
            "identity of her own for each ward"
        )


class WardOfAge(ConsentError):
    """A ward is enrolled whose day has come already."""

    code = "ward-of-age"

    def __init__(self) -> None:
        super().__init__("the ward decides alone already; enrol her for herself")


class MemberUnknown(ConsentError):
    """A removal names a commitment that the hospital has not enrolled, or that has left."""

    code = "member-unknown"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(f"{site} has no such commitment enrolled; copy it from the enrolment")


class EnrolmentRootStale(ConsentError):
    """A proof refers to a state of the group that serves no more."""

    code = "enrolment-root-stale"

    def __init__(self, root: int, why: str) -> None:
        self.root = root
        super().__init__(
            f"the proof refers to the enrolment group as it was before: {why}; fetch its members "
            "again and prove anew"
        )


class EnrolmentGroup:
    """The group over one database, which any number of instances and processes may share."""

    def __init__(self, database: str | Path | sa.Engine, site_keys: Mapping[SiteId, bytes]) -> None:
        """Open the group, empty where there is none.

        Args:
            database: A file, ``":memory:"``, or an engine of ``storage.database`` or
                ``consent.postgresql``.
            site_keys: The Ed25519 key, 32 raw bytes, of each hospital that may enrol.

        Raises:
            EnrolmentDamaged: The log was altered or cut short.
            StorageError: The database cannot be used.
        """
        self._engine = open_tables(database)
        self._site_keys = dict(site_keys)
        self._name = name_of(self._engine)
        self._lock = threading.RLock()
        self._tree = LeanIMT()
        self._sequence = 0
        self._ahead = False
        """The tree holds changes that are not committed."""
        with self._lock, reading(self._engine) as connection:
            self._catch_up(connection)

    def close(self) -> None:
        """Close the database; what was changed is on the disk already."""
        self._engine.dispose()

    # Changing

    def enrol(self, statement: Enrolment, *, now: datetime) -> None:
        """Let a person join, or a carer be named later.

        Args:
            statement: Signed by its hospital.
            now: With a time zone.

        Raises:
            SiteNotEnrolling, NotSignedByHospital: Nobody vouches for the statement.
            CommitmentUnusable: It is no commitment, or was enrolled before, ever.
            CarerUnusable: A ward's carer is not enrolled as one, was removed, or has a ward.
            WardOfAge: The ward's day has come.
            GroupFull: There are 65,536 places.
            StorageError: The disk refused; nothing was changed.
        """
        statement.check(self._key_of(statement.site))
        if not 0 < statement.commitment < FIELD:
            raise CommitmentUnusable("it is not an element of the field")
        policy = statement.policy
        if policy.until is not None and policy.until <= _utc(now).date():
            raise WardOfAge
        with self._changing(now) as connection:
            if _enrolment(connection, statement.commitment) is not None:
                raise CommitmentUnusable("it was enrolled before")
            if policy.carer is not None:
                _check_carer(connection, policy.carer)
            place = None if policy.kind is Kind.CARER else self._tree.size
            check_members(self._tree.size + (place is not None))
            connection.execute(sa.insert(ENROLMENTS).values(_row(statement, place)))
            if place is not None:
                acting = statement.commitment if policy.carer is None else policy.carer
                self._change(connection, place, acting, now)

    def remove(self, statement: Removal, *, now: datetime) -> None:
        """End an enrolment: its commitment proves nothing from now on and never joins again.

        A removed carer leaves her ward's place empty until the ward's day.

        Raises:
            SiteNotEnrolling, NotSignedByHospital: Nobody vouches for the statement.
            MemberUnknown: This hospital has not enrolled the commitment, or it was removed.
            StorageError: The disk refused; nothing was changed.
        """
        statement.check(self._key_of(statement.site))
        with self._changing(now) as connection:
            row = _enrolment(connection, statement.commitment)
            if row is None or row.site != statement.site or row.removed_at is not None:
                raise MemberUnknown(statement.site)
            ended = _mark(
                statement.commitment,
                removed_at=statement.at,
                removal_signature=statement.signature,
            )
            connection.execute(ended)
            for place in _places_of(connection, row):
                if self._tree.leaf(place) != 0:
                    self._change(connection, place, 0, now)

    # Reading

    def root(self, *, now: datetime) -> int:
        """Return the newest root; 0, against which nothing is accepted, for an empty group."""
        with self._lock:
            self._settled(now)
            return self._tree.root

    def members(self, *, now: datetime) -> list[int]:
        """Return who acts for each place in order, 0 for nobody: what a browser proves with.

        Whoever asks for all tells nobody who she is, as she would by asking for her own path.
        """
        with self._lock:
            self._settled(now)
            return self._tree.leaves()

    def log(self) -> list[EnrolmentChange]:
        """Return every change since the beginning; ``rebuild`` replays it."""
        with reading(self._engine) as connection:
            return read_changes(connection, after=0)

    def check_root(self, root: int, *, now: datetime) -> None:
        """Return if proofs against ``root`` show that somebody may act now.

        Raises:
            EnrolmentRootUnknown: The group never had it, or it is the root 0 of an empty group.
            EnrolmentRootStale: Somebody has left since, or it was replaced over 24 hours ago.
        """
        self._settled(now)
        with reading(self._engine) as connection:
            sequence = sequence_of(connection, root)
            after = sa.select(ENROLMENT_LOG).where(ENROLMENT_LOG.c.sequence > sequence)
            next_change = connection.execute(
                after.order_by(ENROLMENT_LOG.c.sequence).limit(1)
            ).first()
            somebody_left = connection.execute(after.where(ENROLMENT_LOG.c.left).limit(1)).first()
        if somebody_left is not None:
            raise EnrolmentRootStale(root, "somebody has left the group since")
        if next_change is not None:
            age = _utc(now) - datetime.fromisoformat(next_change.at)
            if age > ROOT_AGE_MAX:
                raise EnrolmentRootStale(root, "it was replaced more than 24 hours ago")

    def check_past_root(self, root: int) -> None:
        """Return if the group had this root at any time: enough for whoever ends what she began.

        Raises:
            EnrolmentRootUnknown: It never had it, or it is the root 0 of an empty group.
        """
        with reading(self._engine) as connection:
            sequence_of(connection, root)

    # Below

    def _key_of(self, site: SiteId) -> bytes:
        if site not in self._site_keys:
            raise SiteNotEnrolling(site)
        return self._site_keys[site]

    def _settled(self, now: datetime) -> None:
        """Bring the tree up to date: what others wrote, and wards whose day has come."""
        with self._lock:
            with reading(self._engine) as connection:
                self._catch_up(connection)
                due = connection.execute(_due(now)).first()
            if due is not None:
                with self._changing(now):
                    pass

    @contextlib.contextmanager
    def _changing(self, now: datetime) -> Iterator[sa.Connection]:
        """Give a connection with the write lock, wards whose day has come acting for themselves."""
        with self._lock:
            try:
                with writing(self._engine) as connection:
                    lock(connection, ENROLMENTS)
                    self._catch_up(connection)
                    for row in connection.execute(_due(now)).all():
                        self._change(connection, row.place, row.commitment, now)
                        connection.execute(_mark(row.commitment, of_age=True))
                    yield connection
            except BaseException:
                if self._ahead:  # what was not committed is forgotten, and read anew
                    self._tree, self._sequence = LeanIMT(), 0
                raise
            finally:
                self._ahead = False

    def _change(self, connection: sa.Connection, place: int, leaf: int, now: datetime) -> None:
        self._ahead = True
        left = place < self._tree.size and self._tree.leaf(place) != 0
        put(self._tree, place, leaf)
        self._sequence += 1
        connection.execute(
            sa.insert(ENROLMENT_LOG).values(
                sequence=self._sequence,
                place=place,
                leaf=leaf,
                left=left,
                root=self._tree.root,
                at=_utc(now).isoformat(),
            )
        )

    def _catch_up(self, connection: sa.Connection) -> None:
        changes = read_changes(connection, after=self._sequence)
        tree, sequence = self._tree, self._sequence
        self._tree, self._sequence = LeanIMT(), 0  # a tree that fails is not kept
        if sequence == 0:
            tree = rebuild(changes, name=self._name)
        else:
            for change in changes:
                apply(tree, change, self._name)
        self._tree, self._sequence = tree, sequence + len(changes)


def _enrolment(connection: sa.Connection, commitment: int) -> sa.Row[Any] | None:
    wanted = sa.select(ENROLMENTS).where(ENROLMENTS.c.commitment == commitment)
    return connection.execute(wanted).first()


def _check_carer(connection: sa.Connection, carer: int) -> None:
    row = _enrolment(connection, carer)
    if row is None or row.kind != Kind.CARER.value:
        raise CarerUnusable("it is not enrolled as a carer's")
    if row.removed_at is not None:
        raise CarerUnusable("it was removed")
    ward = sa.select(ENROLMENTS.c.commitment).where(ENROLMENTS.c.carer == carer)
    if connection.execute(ward).first() is not None:
        raise CarerUnusable("it acts for another ward")


def _places_of(connection: sa.Connection, row: sa.Row[Any]) -> list[int]:
    """Return the place that the commitment of an enrolment acts for, or would act for."""
    if row.place is not None:
        return [row.place]
    ward = sa.select(ENROLMENTS.c.place).where(
        ENROLMENTS.c.carer == row.commitment, ENROLMENTS.c.of_age.is_(False)
    )
    return list(connection.execute(ward).scalars())


def _due(now: datetime) -> sa.Select[Any]:
    """Select the wards who act alone from today on, and do not yet."""
    today = _utc(now).date().isoformat()
    return (
        sa.select(ENROLMENTS.c.place, ENROLMENTS.c.commitment)
        .where(
            ENROLMENTS.c.until <= today,
            ENROLMENTS.c.of_age.is_(False),
            ENROLMENTS.c.removed_at.is_(None),
        )
        .order_by(ENROLMENTS.c.place)
    )


def _mark(commitment: int, **values: Any) -> sa.Update:
    return sa.update(ENROLMENTS).where(ENROLMENTS.c.commitment == commitment).values(values)


def _row(statement: Enrolment, place: int | None) -> dict[str, Any]:
    policy = statement.policy
    return {
        "commitment": statement.commitment,
        "site": statement.site,
        "proofing": statement.proofing.value,
        "kind": policy.kind.value,
        "until": policy.until.isoformat() if policy.until else None,
        "carer": policy.carer,
        "at": statement.at,
        "signature": statement.signature,
        "place": place,
    }


def _utc(now: datetime) -> datetime:
    assert now.tzinfo is not None
    return now.astimezone(UTC)
