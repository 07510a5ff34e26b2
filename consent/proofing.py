"""What a hospital signs when it has made sure who somebody is: an enrolment, and its end.

A steward looks at the person and her papers, takes the identity commitment that her browser made,
and signs it with the hospital's Ed25519 key, with how the identity was proofed and when. No name,
no number, no date of birth: who she is stays in the hospital's own books.

An enrolment carries a policy:

========  ==========================================================================
self      the person grants, withdraws and claims for herself
carer     the commitment stands for nobody yet; a ward's enrolment may name it
minor     until a date the named carer acts in the ward's place; from then on the
          ward alone. A carer makes one identity for each ward, so that nullifiers
          keep counting persons, not carers
========  ==========================================================================

A carer's grant must not outlast her office: ``check_carer_terms`` is the hospital's to call, for
only the hospital sees terms.

    >>> statement = Enrolment(
    ...     site=SiteId("north"),
    ...     commitment=7,
    ...     proofing=Proofing.IN_PERSON,
    ...     at="2026-11-21T09:30:00+00:00",
    ... )
    >>> key = Ed25519PrivateKey.generate()
    >>> statement.signed_by(key).check(key.public_key().public_bytes_raw())

What holds (tests/consent/test_proofing.py):

1. A statement of which any field was changed is refused, and so is one by another key.
2. An enrolment is no removal: labels keep their signatures apart.

That one person enrols once at one hospital is the steward's duty; that she does not enrol at two is
not enforced here, because no name leaves a hospital.

References:
    NIST SP 800-63A-4 (ways of identity proofing); RFC 8032 (Ed25519).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import ClassVar, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consent.terms import Terms
from protocol.errors import ConsentError
from protocol.ids import SiteId
from protocol.units import day_number


class NotSignedByHospital(ConsentError):
    """A statement does not carry the signature of the hospital it names."""

    code = "not-signed-by-hospital"

    def __init__(self, what: str, site: SiteId) -> None:
        self.what = what
        self.site = site
        super().__init__(
            f"the {what} does not carry the signature of {site}; have its steward sign it anew"
        )


class CarerTermsTooLong(ConsentError):
    """A carer's grant would last beyond the day on which the ward decides alone."""

    code = "carer-terms-too-long"

    def __init__(self, expiry: int, until: date) -> None:
        self.expiry = expiry
        self.until = until
        super().__init__(
            f"terms that a carer grants must expire by {until.isoformat()}, when the ward comes of "
            f"age, and these expire on day {expiry} after 1970-01-01; shorten them"
        )


class Proofing(StrEnum):
    """How a steward made sure who somebody is. A closed list, so that no free text names her."""

    IN_PERSON = "in-person"
    """A photographic identity document, compared face to face."""
    ELECTRONIC_ID = "electronic-id"
    """A notified electronic identity of substantial or high assurance."""
    KNOWN_PATIENT = "known-patient"
    """Recognised by staff who treat her, and found in the hospital's own records."""


class Kind(StrEnum):
    """The kinds of policy."""

    SELF = "self"
    CARER = "carer"
    MINOR = "minor"


@dataclass(frozen=True)
class Policy:
    """Who acts for the enrolled person, and until when."""

    kind: Kind
    until: date | None = None
    """For a minor: the first day on which she decides alone, in UTC."""
    carer: int | None = None
    """For a minor: the commitment that acts for her before."""

    def __post_init__(self) -> None:
        minor = self.kind is Kind.MINOR
        assert (self.until is not None) == minor
        assert (self.carer is not None) == minor


SELF: Final = Policy(Kind.SELF)
CARER: Final = Policy(Kind.CARER)


def minor(until: date, carer: int) -> Policy:
    """Return the policy of a ward for whom ``carer`` acts until the day before ``until``."""
    return Policy(Kind.MINOR, until, carer)


@dataclass(frozen=True, kw_only=True)
class _BySteward:
    """What a hospital signs, under the label of a subclass."""

    label: ClassVar[str]
    site: SiteId
    commitment: int
    at: str
    """ISO 8601, UTC."""
    signature: bytes = b""

    def _fields(self) -> dict[str, str | None]:
        return {"site": self.site, "commitment": str(self.commitment), "at": self.at}

    def signed_bytes(self) -> bytes:
        """Return the label, a line feed, and the fields as sorted, compact JSON of texts."""
        body = json.dumps(self._fields(), sort_keys=True, separators=(",", ":"))
        return f"bithive {self.label}\n{body}".encode()

    def signed_by(self, key: Ed25519PrivateKey) -> Self:
        """Return it with the signature of ``key``."""
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
            raise NotSignedByHospital(self.label, self.site) from error


@dataclass(frozen=True, kw_only=True)
class Enrolment(_BySteward):
    """The hospital has made sure who holds this commitment."""

    label = "enrolment"
    proofing: Proofing
    policy: Policy = SELF

    def _fields(self) -> dict[str, str | None]:
        until, carer = self.policy.until, self.policy.carer
        return super()._fields() | {
            "proofing": self.proofing.value,
            "policy": self.policy.kind.value,
            "until": until.isoformat() if until else None,
            "carer": None if carer is None else str(carer),
        }


@dataclass(frozen=True, kw_only=True)
class Removal(_BySteward):
    """The hospital ends an enrolment: a secret was lost, or a mistake was made."""

    label = "enrolment removal"


def check_carer_terms(policy: Policy, terms: Terms) -> None:
    """Return if a carer may grant these terms for a ward of this policy.

    The circuit lets nobody use a grant on or after its expiry, so that from the ward's day on
    nothing that the carer granted is in use, and the ward's own grant counts alone.

    Raises:
        CarerTermsTooLong: They expire after the ward's day.
    """
    assert policy.until is not None
    if terms.expiry > day_number(policy.until):
        raise CarerTermsTooLong(terms.expiry, policy.until)
