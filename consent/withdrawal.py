"""Withdrawing: by the code on the patient's paper, or by a proof of who granted.

Withdrawing must be as easy as granting. A code ends the grant it was printed for and, where the
same person has replaced that grant since, what took its place: an old sheet in her drawer never
gives a receipt while her data stay in use. A proof names one leaf and ends that one.

What holds (tests/consent/test_registry_proven.py, test_registry.py):

1. After a withdrawal by any code of a person's chain of grants, none of the chain is live.
2. A second time returns the receipt of the first.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.history import History
from consent.log import LogEntry
from consent.receipts import WithdrawalReceipt
from consent.store import EPOCHS, GRANTS
from protocol.errors import ConsentError
from protocol.ids import GrantId


class GrantUnknown(ConsentError):
    """The registry has published no grant of this id."""

    code = "grant-unknown"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(f"there is no grant {grant}; copy the id from the receipt")


class WithdrawalCodeWrong(ConsentError):
    """A code does not belong to the grant it was shown for."""

    code = "withdrawal-code-wrong"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(
            f"this is not the withdrawal code of grant {grant}; copy it from the same paper"
        )


class GrantReplaced(ConsentError):
    """A proof would withdraw a grant that another one has replaced."""

    code = "grant-replaced"

    def __init__(self, grant: GrantId, by: GrantId) -> None:
        self.grant = grant
        self.by = by
        super().__init__(f"grant {grant} was replaced by {by}; withdraw that one")


class NotProven(ConsentError):
    """A proof would withdraw a grant that was not proven when it was made."""

    code = "grant-not-proven"

    def __init__(self, grant: GrantId) -> None:
        self.grant = grant
        super().__init__(
            f"grant {grant} was made by the hospital; withdraw it with the code on its paper"
        )


def find_grant(connection: sa.Connection, grant: GrantId) -> sa.Row[Any]:
    """Return the row of a grant.

    Raises:
        GrantUnknown: There is no such grant.
    """
    row = connection.execute(sa.select(GRANTS).where(GRANTS.c.grant == grant)).first()
    if row is None:
        raise GrantUnknown(grant)
    return row


def check_code(row: sa.Row[Any], code: bytes) -> None:
    """Return if the code belongs to the grant.

    Raises:
        WithdrawalCodeWrong: It does not.
    """
    if not hmac.compare_digest(hashlib.sha256(code).digest(), row.revoke_hash):
        raise WithdrawalCodeWrong(GrantId(row.grant))


def newest_of(connection: sa.Connection, row: sa.Row[Any]) -> sa.Row[Any]:
    """Return the grant that took the place of this one, or of that one, to the last; or itself."""
    while row.replaced_by is not None:
        row = connection.execute(sa.select(GRANTS).where(GRANTS.c.place == row.replaced_by)).one()
    return row


def end(
    connection: sa.Connection,
    history: History,
    key: Ed25519PrivateKey,
    row: sa.Row[Any],
    at: str,
) -> WithdrawalReceipt:
    """Take a grant's leaf out in the next epoch, if it is live; return the receipt of its end.

    Args:
        connection: Holds the write lock.
        history: As of now; ahead of the disk until the transaction is committed.
        key: The registry's.
        row: Of the grant.
        at: ISO 8601, UTC.
    """
    epoch = row.withdrawn_epoch
    if epoch is None:
        epoch = history.epoch.number + 1
        ended = sa.update(GRANTS).where(GRANTS.c.place == row.place)
        connection.execute(ended.values(withdrawn_epoch=epoch))
        change = LogEntry(history.sequence + 1, row.place, 0, epoch, at)
        history.append(connection, [change], at, key)
    else:
        at = connection.execute(sa.select(EPOCHS.c.at).where(EPOCHS.c.number == epoch)).scalar_one()
    receipt = WithdrawalReceipt(
        history.registry, b"", grant=GrantId(row.grant), index=row.place, epoch=epoch, at=at
    )
    return receipt.signed_by(key)
