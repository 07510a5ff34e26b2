"""Claims: the patients' share of a payout, split over live consents and claimed without a name.

When money for the patients of a study at a hospital comes in, the payout ids of the live grants of
an epoch become a group, and the pool is split into as many equal shares. A patient claims one by a
Semaphore proof that she is one of the group::

    scope     number_for("bithive-payout-1", registry, study, epoch, site)
    message   number_for("bithive-claim-1", recipient)

The nullifier stops a second claim, the message a thief: a proof that was seen pays nobody but the
recipient it names. The hospital cannot claim, and nobody learns whose consent was paid for.

Shares are whole base units. What is left after an equal split goes, one unit each, to those who
claim first: all remainders are equal, and any other order would need to know who is who.

    >>> [share_of(100, 3, order) for order in range(3)]
    [34, 33, 33]

A claim is kept before it is paid. Whoever assembles consent with the books pays what ``unpaid``
returns, under each claim's own id, and then calls ``mark_paid``; after a crash it begins again, and
the id tells the books what they have paid already.

What holds (tests/consent/test_claims.py):

1. All shares together are the pool, to the base unit, and no two differ by more than one.
2. An identity claims once from a payout, over any interleaving and any crash.
3. A proof for another payout, group or recipient is refused.
4. A payout opened twice is the same payout, or an error; its group never changes.
5. What is owed is what was promised less what was paid, whoever asks.

In a group of few a claim says much about who claims: under 20 a payout is refused, or, if the book
is told so, opened with ``small`` set, which must be shown to whoever claims. For the same reason a
claim keeps the day of its arrival, not the hour.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from consent.claims_store import CLAIMS, MEMBERS, PAYOUTS, open_tables
from consent.store import lock
from protocol.errors import ConsentError
from protocol.ids import SiteId, StudyId
from storage.database import reading, writing
from zk import groth16
from zk.lean_imt import LeanIMT
from zk.poseidon import FIELD
from zk.semaphore import SemaphoreProof, Verifier, check, check_members, number_for

GROUP_MIN: Final = 20
RECIPIENT: Final = re.compile(r"[!-~]{1,128}")
"""An account or an address: printable ASCII without spaces."""


class GroupTooSmall(ConsentError):
    """So few consents share a payout that a claim would be nearly a name."""

    code = "payout-group-too-small"

    def __init__(self, found: int, needed: int) -> None:
        self.found = found
        self.needed = needed
        super().__init__(
            f"{found} live consents share this payout and {needed} are needed; wait for an epoch "
            "with more, or allow small groups and tell those who claim"
        )


class PoolTooSmall(ConsentError):
    """A pool does not give every share a base unit."""

    code = "payout-pool-too-small"

    def __init__(self, pool: int, shares: int) -> None:
        self.pool = pool
        self.shares = shares
        super().__init__(
            f"{pool} base units cannot be split into {shares} shares; wait until the pool has more"
        )


class PayoutDiffers(ConsentError):
    """A payout was opened before, with another group or pool."""

    code = "payout-differs"

    def __init__(self, study: StudyId, epoch: int, site: SiteId) -> None:
        super().__init__(
            f"the payout of {study} at {site} in epoch {epoch} was opened with another group or "
            "pool; open the next one at a later epoch"
        )


class PayoutUnknown(ConsentError):
    """No payout was opened for this study, epoch and hospital."""

    code = "payout-unknown"

    def __init__(self, study: StudyId, epoch: int, site: SiteId) -> None:
        super().__init__(f"there is no payout of {study} at {site} in epoch {epoch}")


class PayoutExhausted(ConsentError):
    """More identities claim than the group has members, which no honest group makes possible."""

    code = "payout-exhausted"

    def __init__(self, shares: int) -> None:
        self.shares = shares
        super().__init__(
            f"all {shares} shares of this payout were claimed; have its operator look into it"
        )


class RecipientUnusable(ConsentError):
    """A recipient is no account and no address."""

    code = "recipient-unusable"

    def __init__(self) -> None:
        super().__init__(
            "a recipient is an account or an address: 1 to 128 printable characters without spaces"
        )


class ClaimedAlready(ConsentError):
    """An identity claims a second time from one payout."""

    code = "claimed-already"

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        super().__init__(
            f"this share was claimed on {claim.at}; it is paid once, to the recipient named then"
        )


class SmallGroups(Enum):
    """What to do with a payout that fewer share than ``group_min``."""

    REFUSE = "refuse"
    WARN = "warn"
    """Open it with ``Payout.small`` set."""


@dataclass(frozen=True)
class Payout:
    """One pool of money and the group that shares it."""

    study: StudyId
    epoch: int
    site: SiteId
    scope: int
    root: int
    """Of the LeanIMT over the payout ids."""
    shares: int
    pool: int
    """Base units."""
    small: bool
    """So few share it that a claim says much about who claims."""


@dataclass(frozen=True)
class Claim:
    """One share, to be paid once."""

    id: str
    """64 hexadecimal digits from scope and nullifier: what the books pay under."""
    study: StudyId
    epoch: int
    site: SiteId
    nullifier: int
    recipient: str
    amount: int
    """Base units."""
    at: str
    """ISO 8601 date, UTC."""
    paid_at: str | None


def payout_scope(registry: str, study: StudyId, epoch: int, site: SiteId) -> int:
    """Return the scope of all claims to one payout."""
    return number_for("bithive-payout-1", registry, study, epoch, site)


def claim_message(recipient: str) -> int:
    """Return what a claim's proof says.

    Raises:
        RecipientUnusable: It is no account and no address.
    """
    if RECIPIENT.fullmatch(recipient) is None:
        raise RecipientUnusable
    return number_for("bithive-claim-1", recipient)


def share_of(pool: int, shares: int, order: int) -> int:
    """Return what the claim of this order, from 0, is paid: Hamilton's method on equal weights."""
    assert 0 <= order < shares <= pool
    return pool // shares + (order < pool % shares)


class ClaimBook:
    """Payouts and claims over one database, which any number of processes may share."""

    def __init__(
        self,
        database: str | Path | sa.Engine,
        *,
        registry: str,
        group_min: int = GROUP_MIN,
        small_groups: SmallGroups = SmallGroups.REFUSE,
    ) -> None:
        """Open the book, empty where there is none.

        Args:
            database: A file, ``":memory:"``, or an engine of ``storage.database`` or
                ``consent.postgresql``.
            registry: The id of the registry whose epochs are meant.
            group_min: Consents below which a group is small.
            small_groups: What to do then.

        Raises:
            StorageError: The database cannot be used.
        """
        self._engine = open_tables(database)
        self._registry = registry
        self._group_min = group_min
        self._small_groups = small_groups

    def close(self) -> None:
        """Close the database; what was changed is on the disk already."""
        self._engine.dispose()

    def open_payout(
        self, study: StudyId, epoch: int, site: SiteId, payout_ids: Iterable[int], *, pool: int
    ) -> Payout:
        """Fix who shares a pool; a second time with the same returns the same.

        Args:
            study: Whose pool it is.
            epoch: Of the registry: the snapshot.
            site: The hospital.
            payout_ids: Those of all live grants of the site in the study at that epoch, in the
                order of their leaves. One that two grants name is one share: whoever copies
                another's id gains nothing and takes nothing.
            pool: Base units, all of which are for this group.

        Raises:
            GroupTooSmall: Fewer than ``group_min`` share it, and small groups are refused.
            GroupFull: More than 65,536 do.
            PoolTooSmall: A share would be nothing.
            PayoutDiffers: It was opened with another group or pool.
            StorageError: The disk refused; nothing was opened.
        """
        members = list(dict.fromkeys(payout_ids))
        assert all(0 < member < FIELD for member in members)
        small = len(members) < self._group_min
        if not members or (small and self._small_groups is SmallGroups.REFUSE):
            raise GroupTooSmall(len(members), max(self._group_min, 1))
        check_members(len(members))
        if pool < len(members):
            raise PoolTooSmall(pool, len(members))
        scope = payout_scope(self._registry, study, epoch, site)
        root = LeanIMT(members).root
        payout = Payout(study, epoch, site, scope, root, len(members), pool, small)
        with self._deciding() as connection:
            opened = _payout(connection, scope)
            if opened is None:
                connection.execute(sa.insert(PAYOUTS).values(vars(payout)))
                rows = [{"scope": scope, "place": i, "member": m} for i, m in enumerate(members)]
                connection.execute(sa.insert(MEMBERS), rows)
            elif (opened.root, opened.pool) != (root, pool):
                raise PayoutDiffers(study, epoch, site)
        return opened or payout

    def payout(self, study: StudyId, epoch: int, site: SiteId) -> Payout:
        """Return what is paid out.

        Raises:
            PayoutUnknown: Nothing was opened.
        """
        with reading(self._engine) as connection:
            found = _payout(connection, payout_scope(self._registry, study, epoch, site))
        if found is None:
            raise PayoutUnknown(study, epoch, site)
        return found

    def payouts(self, study: StudyId, site: SiteId) -> list[Payout]:
        """Return the payouts to a hospital's patients in a study, in the order of their epochs."""
        wanted = sa.select(PAYOUTS).where(_of(study, site)).order_by(PAYOUTS.c.epoch)
        with reading(self._engine) as connection:
            return [_payout_of(row) for row in connection.execute(wanted)]

    def owed(self, study: StudyId, site: SiteId) -> int:
        """Return the base units that payouts to a hospital's patients promise and have not paid."""
        promised = sa.select(PAYOUTS.c.pool).where(_of(study, site))
        paid = (
            sa.select(CLAIMS.c.amount)
            .join(PAYOUTS)
            .where(_of(study, site), CLAIMS.c.paid_at.is_not(None))
        )
        with reading(self._engine) as connection:
            # Added in Python: amounts are bytes in the database, and pass 64 bits.
            total: int = sum(connection.execute(promised).scalars())
            settled: int = sum(connection.execute(paid).scalars())
        return total - settled

    def members(self, payout: Payout) -> list[int]:
        """Return the group in order: what a browser proves with."""
        wanted = sa.select(MEMBERS.c.member).where(MEMBERS.c.scope == payout.scope)
        with reading(self._engine) as connection:
            return list(connection.execute(wanted.order_by(MEMBERS.c.place)).scalars())

    def claim(
        self,
        proof: SemaphoreProof,
        study: StudyId,
        epoch: int,
        site: SiteId,
        recipient: str,
        *,
        now: datetime,
        verifier: Verifier = groth16.verify,
    ) -> Claim:
        """Keep a claim, to be paid once.

        Args:
            proof: From anybody.
            study: Of the payout, like the next two.
            epoch: Of the registry.
            site: The hospital.
            recipient: Whom to pay, as the proof says.
            now: With a time zone.
            verifier: The reference, or ``zk.fast.verify``.

        Raises:
            PayoutUnknown: There is no such payout.
            RecipientUnusable: It is no account and no address.
            GroupRootWrong: The proof is about another group.
            ScopeWrong: It is for another payout: a foreign study, epoch or hospital.
            MessageWrong: It names another recipient.
            ProofInvalid: It does not hold.
            ClaimedAlready: Its identity has claimed; the error holds the claim that is kept.
            PayoutExhausted: Every share was claimed by another identity.
            StorageError: The disk refused; nothing was kept.
        """
        payout = self.payout(study, epoch, site)
        nullifier = check(
            proof,
            root=payout.root,
            scope=payout.scope,
            message=claim_message(recipient),
            verifier=verifier,
        )
        name = _claim_id(payout.scope, nullifier)
        with self._deciding() as connection:
            kept = _claims(connection, CLAIMS.c.id == name)
            if kept:
                raise ClaimedAlready(kept[0])
            mine = sa.select(sa.func.count()).where(CLAIMS.c.scope == payout.scope)
            order = connection.execute(mine).scalar_one()
            if order >= payout.shares:
                raise PayoutExhausted(payout.shares)
            row = {
                "id": name,
                "scope": payout.scope,
                "nullifier": nullifier,
                "recipient": recipient,
                "amount": share_of(payout.pool, payout.shares, order),
                "at": _day(now),
            }
            connection.execute(sa.insert(CLAIMS).values(row))
            return _claims(connection, CLAIMS.c.id == name)[0]

    def unpaid(self) -> list[Claim]:
        """Return the claims to pay, in the order of their ids, which says nothing of when."""
        with reading(self._engine) as connection:
            return _claims(connection, CLAIMS.c.paid_at.is_(None))

    def mark_paid(self, claim_id: str, *, now: datetime) -> None:
        """Note that the books have paid a claim; a second time changes nothing."""
        with self._deciding() as connection:
            connection.execute(
                sa.update(CLAIMS)
                .where(CLAIMS.c.id == claim_id, CLAIMS.c.paid_at.is_(None))
                .values(paid_at=_day(now))
            )

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[sa.Connection]:
        """Give a connection on which nobody else opens, claims or marks meanwhile."""
        with writing(self._engine) as connection:
            lock(connection, CLAIMS)
            yield connection


def _payout(connection: sa.Connection, scope: int) -> Payout | None:
    row = connection.execute(sa.select(PAYOUTS).where(PAYOUTS.c.scope == scope)).first()
    return None if row is None else _payout_of(row)


def _payout_of(row: sa.Row[Any]) -> Payout:
    return Payout(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name


def _of(study: StudyId, site: SiteId) -> sa.ColumnElement[bool]:
    return (PAYOUTS.c.study == study) & (PAYOUTS.c.site == site)


def _claims(connection: sa.Connection, which: sa.ColumnElement[Any]) -> list[Claim]:
    wanted = sa.select(
        CLAIMS.c.id,
        PAYOUTS.c.study,
        PAYOUTS.c.epoch,
        PAYOUTS.c.site,
        CLAIMS.c.nullifier,
        CLAIMS.c.recipient,
        CLAIMS.c.amount,
        CLAIMS.c.at,
        CLAIMS.c.paid_at,
    )
    rows = connection.execute(wanted.join(PAYOUTS).where(which).order_by(CLAIMS.c.id))
    return [Claim(*row) for row in rows]


def _claim_id(scope: int, nullifier: int) -> str:
    return hashlib.sha256(f"bithive claim\n{scope}\n{nullifier}".encode()).hexdigest()


def _day(now: datetime) -> str:
    assert now.tzinfo is not None
    return now.astimezone(UTC).date().isoformat()
