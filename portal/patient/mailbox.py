"""What the server keeps for patients and hospitals to fetch: envelopes, requests, sealed openings.

None of it can be read here: an envelope opens with a code on paper, a sealed opening with the key
of its hospital. Requests and openings are forgotten once the hospital has them. Days are kept, not
hours, and never an address. Openings lie by their leaves, which are hashes, and are handed out like
that: neither the table nor the hospital's book shows in which order they came.

What holds (tests/portal/test_patient_api.py):

1. What was fetched and thrown away is gone; what was not is there after a crash.
2. Neither table nor file shows, after a batch, in which order its openings came.
3. Nobody fills the box: requests for an invitation, and openings waiting at a hospital, end at a
   limit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table

from consent.publication import LeafUnusable
from consent.receipts import GrantReceipt
from consent.store import Element, forget_past
from protocol.errors import ConsentError
from protocol.ids import SiteId
from storage.database import open_database, reading, writing

METADATA: Final = MetaData()
REQUESTS_MAX: Final = 8
"""For one invitation: a browser that lost its storage may ask again, nobody for ever."""
WAITING_MAX: Final = 65_536
"""Sealed openings of a hospital that has not fetched them."""

INVITATIONS: Final = Table(
    "invitations",
    METADATA,
    Column("lookup", String, primary_key=True),
    Column("site", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)
REQUESTS: Final = Table(
    "requests",
    METADATA,
    Column("lookup", sa.ForeignKey("invitations.lookup"), primary_key=True),
    Column("commitment", Element, primary_key=True),
    Column("mac", LargeBinary, nullable=False),
    Column("day", String, nullable=False),
)
WARDS: Final = Table(  # of requests by carers
    "ward_requests",
    METADATA,
    Column("lookup", String, primary_key=True),
    Column("commitment", Element, primary_key=True),
    Column("ward", Element, nullable=False),
    sa.ForeignKeyConstraint(["lookup", "commitment"], ["requests.lookup", "requests.commitment"]),
)
BOXES: Final = Table(
    "sealed_openings",
    METADATA,
    # By leaf, not by arrival: the file must not keep the order that a batch hides.
    Column("leaf", Element, primary_key=True),
    Column("site", String, nullable=False, index=True),
    Column("lane", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("receipt", String),  # none until the registry has published the leaf
    sqlite_with_rowid=False,
)


class InvitationUnknown(ConsentError):
    """No hospital issued this invitation, or it was used."""

    code = "invitation-unknown"

    def __init__(self) -> None:
        super().__init__(
            "no hospital has issued this invitation code, or it was used already; "
            "compare it with the paper or ask for a new one"
        )


class MailboxFull(ConsentError):
    """Too much waits to be fetched."""

    code = "mailbox-full"
    retry_after_seconds: Final = 3600
    """A hospital fetches several times a day."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"too many {what} are waiting; have the hospital fetch them first")


@dataclass(frozen=True)
class Request:
    """A browser asks that its commitment be enrolled."""

    lookup: str
    commitment: int
    mac: bytes
    ward: int | None = None
    """From a carer: the commitment that takes over on the ward's day."""


@dataclass(frozen=True)
class Box:
    """A sealed opening and the receipt of its leaf."""

    lane: int
    leaf: int
    sealed: bytes
    receipt: GrantReceipt


class Mailbox:
    """The box over one database, which the server and its commands share."""

    def __init__(self, path: str | Path) -> None:
        """Open the box, empty where there is none.

        Raises:
            DatabaseDamaged: The file is there and is not a sound database.
            StorageError: It cannot be used.
        """
        self._engine = open_database(path, METADATA, private=True)

    def close(self) -> None:
        """Close the database; what was changed is on the disk already."""
        self._engine.dispose()

    # Invitations and requests

    def invite(self, lookup: str, site: SiteId, envelope: bytes) -> None:
        """Keep a hospital's envelope for whoever knows its code."""
        row = {"lookup": lookup, "site": site, "envelope": envelope}
        with writing(self._engine) as connection:
            connection.execute(sa.insert(INVITATIONS).values(row))

    def envelope(self, lookup: str) -> tuple[SiteId, bytes]:
        """Return the hospital of an invitation and its envelope.

        Raises:
            InvitationUnknown: There is none.
        """
        with reading(self._engine) as connection:
            row = connection.execute(_invitation(lookup)).first()
        if row is None:
            raise InvitationUnknown
        return SiteId(row.site), row.envelope

    def request(self, request: Request, *, now: datetime) -> None:
        """Keep a request until its hospital looks; the same again changes nothing.

        Raises:
            InvitationUnknown: There is no such invitation.
            MailboxFull: Too many were made for it.
        """
        of_invitation = sa.select(REQUESTS.c.commitment).where(REQUESTS.c.lookup == request.lookup)
        name = {"lookup": request.lookup, "commitment": request.commitment}
        row = name | {"mac": request.mac, "day": now.astimezone(UTC).date().isoformat()}
        with writing(self._engine) as connection:
            if connection.execute(_invitation(request.lookup)).first() is None:
                raise InvitationUnknown
            made = connection.execute(of_invitation).scalars().all()
            if request.commitment in made:
                return
            if len(made) >= REQUESTS_MAX:
                raise MailboxFull("requests for this invitation")
            connection.execute(sa.insert(REQUESTS).values(row))
            if request.ward is not None:
                connection.execute(sa.insert(WARDS).values(name | {"ward": request.ward}))

    def requests(self, site: SiteId) -> list[Request]:
        """Return the requests that wait for a hospital."""
        columns = (REQUESTS.c.lookup, REQUESTS.c.commitment, REQUESTS.c.mac, WARDS.c.ward)
        wanted = (
            sa.select(*columns)
            .join_from(REQUESTS, INVITATIONS)
            .outerjoin(
                WARDS,
                (WARDS.c.lookup == REQUESTS.c.lookup)
                & (WARDS.c.commitment == REQUESTS.c.commitment),
            )
            .where(INVITATIONS.c.site == site)
        )
        with reading(self._engine) as connection:
            return [Request(*row) for row in connection.execute(wanted.order_by(REQUESTS.c.lookup))]

    def forget_invitation(self, lookup: str) -> None:
        """Throw an invitation away with its requests: it was used, or called back."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(WARDS).where(WARDS.c.lookup == lookup))
            connection.execute(sa.delete(REQUESTS).where(REQUESTS.c.lookup == lookup))
            connection.execute(sa.delete(INVITATIONS).where(INVITATIONS.c.lookup == lookup))

    # Sealed openings

    def keep(self, site: SiteId, lane: int, leaf: int, sealed: bytes) -> int:
        """Keep a sealed opening before its leaf is published, and return what names it: the leaf.

        Raises:
            LeafUnusable: One is kept for this leaf.
            MailboxFull: The hospital has not fetched for long.
        """
        waiting = sa.select(sa.func.count()).where(
            BOXES.c.site == site, BOXES.c.receipt.is_not(None)
        )
        row = {"site": site, "lane": lane, "leaf": leaf, "sealed": sealed}
        with writing(self._engine) as connection:
            if connection.execute(waiting).scalar_one() >= WAITING_MAX:
                raise MailboxFull("sealed openings")
            same = sa.select(BOXES.c.leaf).where(BOXES.c.leaf == leaf)
            if connection.execute(same).first() is not None:
                raise LeafUnusable(0, "its leaf was accepted before")
            connection.execute(sa.insert(BOXES).values(row))
        return leaf

    def published(self, leaf: int, receipt: GrantReceipt) -> None:
        """Note that the leaf of a kept opening is in the registry."""
        text = json.dumps(asdict(receipt) | {"signature": receipt.signature.hex()})
        with writing(self._engine) as connection:
            connection.execute(sa.update(BOXES).where(BOXES.c.leaf == leaf).values(receipt=text))

    def unpublished(self) -> list[int]:
        """Return the leaves that are not known to be published."""
        wanted = sa.select(BOXES.c.leaf).where(BOXES.c.receipt.is_(None))
        with reading(self._engine) as connection:
            return list(connection.execute(wanted).scalars())

    def boxes(self, site: SiteId) -> list[Box]:
        """Return the openings that wait for a hospital, by their leaves, in no other order."""
        wanted = sa.select(BOXES).where(BOXES.c.site == site, BOXES.c.receipt.is_not(None))
        with reading(self._engine) as connection:
            rows = connection.execute(wanted.order_by(BOXES.c.leaf)).all()
        return [Box(r.lane, r.leaf, r.sealed, _receipt(r.receipt)) for r in rows]

    def forget(self, leaf: int) -> None:
        """Throw an opening away: its hospital has it, or its leaf will not be published."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(BOXES).where(BOXES.c.leaf == leaf))

    def forget_past(self) -> None:
        """Leave nothing in the file of what it held once, nor of the order in which it came.

        Raises:
            StorageError: The disk refused, or a steward reads; the traces are there until the next
                time.
        """
        forget_past(self._engine)


def _invitation(lookup: str) -> sa.Select[tuple[str, bytes]]:
    columns = sa.select(INVITATIONS.c.site, INVITATIONS.c.envelope)
    return columns.where(INVITATIONS.c.lookup == lookup)


def _receipt(text: str) -> GrantReceipt:
    fields = json.loads(text)
    return GrantReceipt(**fields | {"signature": bytes.fromhex(fields["signature"])})
