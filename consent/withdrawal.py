"""Withdrawing: by the code on the patient's paper, by a proof of who granted, or by her hospital.

Withdrawing must be as easy as granting. A code ends the grant it was printed for and, where the
same person has replaced that grant since, what took its place: an old sheet in her drawer never
gives a receipt while her data stay in use. A proof names one leaf and ends that one. A hospital
ends what is in its own lanes, for a patient who lost her code or wants to be erased.

What holds (tests/consent/test_registry_proven.py, test_registry.py):

1. After a withdrawal by any code of a person's chain of grants, none of the chain is live.
2. A second time returns the receipt of the first.
3. A hospital ends grants in its own lanes only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from typing import Any, Self

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consent.history import History
from consent.log import LogEntry
from consent.proofing import NotSignedByHospital
from consent.receipts import WithdrawalReceipt
from consent.store import EPOCHS, GRANTS
from protocol.errors import ConsentError
from protocol.ids import GrantId, SiteId


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


class GrantOfAnotherSite(ConsentError):
    """A hospital would end a grant that is not in one of its lanes."""

    code = "grant-of-another-site"

    def __init__(self, grant: GrantId, site: SiteId) -> None:
        self.grant = grant
        self.site = site
        super().__init__(f"grant {grant} is not one of {site}; its own hospital can end it")


@dataclass(frozen=True)
class SiteWithdrawal:
    """A hospital's signed word that it ends a grant of one of its patients, who asked it to.

    It takes a site's data out and puts none in, so a hospital that lies harms its own study only.
    """

    site: SiteId
    grant: GrantId
    at: str
    """ISO 8601, UTC."""
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """Return the label, a line feed, and the fields as sorted, compact JSON."""
        fields = {"site": self.site, "grant": self.grant, "at": self.at}
        body = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return f"bithive site withdrawal\n{body}".encode()

    def signed_by(self, key: Ed25519PrivateKey) -> Self:
        """Return it with the signature of the hospital's key."""
        return replace(self, signature=key.sign(self.signed_bytes()))

    def check(self, public_key: bytes) -> None:
        """Return if the hospital whose key this is, 32 raw bytes, signed it.

        Raises:
            NotSignedByHospital: It did not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                self.signature, self.signed_bytes()
            )
        except (InvalidSignature, ValueError) as error:
            raise NotSignedByHospital("withdrawal", self.site) from error


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
        change = LogEntry(history.sequence + 1, row.place, 0, epoch, at)
        history.append(connection, [change], at, key)
        ended = sa.update(GRANTS).where(GRANTS.c.place == row.place)
        connection.execute(ended.values(withdrawn_epoch=epoch))
    else:
        at = connection.execute(sa.select(EPOCHS.c.at).where(EPOCHS.c.number == epoch)).scalar_one()
    receipt = WithdrawalReceipt(
        history.registry, b"", grant=GrantId(row.grant), index=row.place, epoch=epoch, at=at
    )
    return receipt.signed_by(key)
