"""What passes between a patient's browser and her hospital unread by the server in between.

Three things, all from WebCrypto's own algorithms, so that the page needs no library for them:

An invitation. The hospital gives an identified person a one-time code on paper. From it come three
keys (HKDF-SHA256 [1], without salt, the info naming the use): ``lookup`` names the envelope at the
server, ``envelope`` opens it (AES-256-GCM [2]; the key seals once, so the nonce is constant), and
``request`` authenticates the commitment that the browser sends back (HMAC-SHA256 [3]): a server
cannot enrol a commitment of its own. The envelope holds the number that the hospital has for her
and the pseudonym that her leaves commit to; for a carer also in which relation and until when.

An opening. What opens a new leaf goes to the hospital's X25519 key [4] from a key made for this one
message::

    sealed = version (1 byte) | ephemeral public key (32) | AES-256-GCM ciphertext and tag
    key    = HKDF-SHA256(X25519, info = label | ephemeral | recipient | context)

Context is registry, lane and leaf, so that a box cannot be shown with another leaf. Who sealed it
is not shown by the box but by the grant's proof, which says the leaf.

    >>> hospital = X25519PrivateKey.generate()
    >>> box = seal(b"opening", hospital.public_key().public_bytes_raw(), context=b"leaf 7")
    >>> unseal(box, hospital, context=b"leaf 7")
    b'opening'

What holds (tests/portal/test_patient_sealing.py):

1. What was sealed opens for its hospital and context, and for no others; no byte can be changed.
2. An invitation's lookup says nothing of its other keys; a request for another commitment, site or
   code is refused.

References:
    [1] RFC 5869. [2] NIST SP 800-38D. [3] RFC 2104. [4] RFC 7748.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from portal.patient.codes import read_invitation
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId

VERSION: Final = b"\x01"
KEY_BYTES: Final = 32
LOOKUP_BYTES: Final = 16
HEADER_BYTES: Final = 1 + KEY_BYTES
SEALED_MAX: Final = 2048
"""Bytes of a sealed opening; one with a long patient's number has about 600."""
_NONCE: Final = bytes(12)  # every key seals one message
_BOX_LABEL: Final = b"bithive sealed opening\n"


class SealedBroken(ConsentError):
    """A sealed message was changed, or is for another hospital, code or grant."""

    code = "sealed-message-broken"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the sealed {what} does not open here; it was changed on its way or is for somebody "
            "else: ask for a new one"
        )


class RequestNotOfCode(ConsentError):
    """A request to enrol was not made with the code it is shown for."""

    code = "request-not-of-code"

    def __init__(self) -> None:
        super().__init__(
            "the commitment was not sent by whoever holds this invitation code; do not enrol it, "
            "and have the patient enter her code again"
        )


class Relation(StrEnum):
    """How a ward stands to her carer. A closed list, so that no free text names anybody."""

    CHILD = "child"
    WARD = "ward"


@dataclass(frozen=True)
class Ward:
    """The invitation is for a carer, who decides for the patient until her day."""

    relation: Relation
    until: date
    """The first day on which the patient decides alone, in UTC."""


@dataclass(frozen=True)
class Person:
    """What a hospital tells a patient's browser about herself, or a carer's about her ward."""

    patient: PatientId = field(repr=False)
    subject: int = field(repr=False)
    ward: Ward | None = field(default=None, repr=False)


@dataclass(frozen=True)
class InvitationKeys:
    """What follows from an invitation's code."""

    lookup: str
    """32 hexadecimal digits; the only one that the server sees."""
    envelope: bytes = field(repr=False)
    request: bytes = field(repr=False)


def invitation_keys(code: str) -> InvitationKeys:
    """Return the keys of an invitation.

    Raises:
        CodeMistyped: It is no invitation.
    """
    symbols = read_invitation(code).encode()
    return InvitationKeys(
        lookup=_derive(symbols, b"bithive invitation lookup", LOOKUP_BYTES).hex(),
        envelope=_derive(symbols, b"bithive invitation envelope", KEY_BYTES),
        request=_derive(symbols, b"bithive invitation request", KEY_BYTES),
    )


def seal_person(person: Person, keys: InvitationKeys, site: SiteId) -> bytes:
    """Return the envelope for whoever holds the code; made once for a code."""
    fields = {"patient": person.patient, "subject": str(person.subject)}
    if person.ward is not None:
        fields |= {"relation": person.ward.relation, "until": person.ward.until.isoformat()}
    body = json.dumps(fields).encode()
    return AESGCM(keys.envelope).encrypt(_NONCE, body, _of_site(site))


def open_person(envelope: bytes, keys: InvitationKeys, site: SiteId) -> Person:
    """Return what is in an envelope, as the page does.

    Raises:
        SealedBroken: It does not belong to this code and site.
    """
    try:
        body = json.loads(AESGCM(keys.envelope).decrypt(_NONCE, envelope, _of_site(site)))
    except InvalidTag as error:
        raise SealedBroken("invitation") from error
    ward = None
    if "until" in body:
        ward = Ward(Relation(body["relation"]), date.fromisoformat(body["until"]))
    return Person(PatientId(body["patient"]), int(body["subject"]), ward)


def request_mac(
    keys: InvitationKeys, site: SiteId, commitment: int, *, ward: int | None = None
) -> bytes:
    """Return what a browser sends with its commitment, and a carer's with her ward's."""
    body = f"bithive enrolment request\n{site}\n{commitment}"
    if ward is not None:
        body += f"\n{ward}"
    return hmac.new(keys.request, body.encode(), hashlib.sha256).digest()


def check_request(
    keys: InvitationKeys, site: SiteId, commitment: int, mac: bytes, *, ward: int | None = None
) -> None:
    """Return if the holder of the code asks to enrol this commitment.

    Args:
        keys: Of the code.
        site: The hospital that gave it out.
        commitment: Of whoever acts now.
        mac: From anybody.
        ward: Of whom a carer acts for, who takes over on her day.

    Raises:
        RequestNotOfCode: Somebody else does.
    """
    if not hmac.compare_digest(request_mac(keys, site, commitment, ward=ward), mac):
        raise RequestNotOfCode


def opening_context(registry: str, lane: int, leaf: int) -> bytes:
    """Return what ties a sealed opening to its grant."""
    return f"{registry}\n{lane}\n{leaf}".encode()


def seal(message: bytes, recipient: bytes, *, context: bytes) -> bytes:
    """Return ``message`` for the owner of a raw X25519 key, as the page does."""
    ephemeral = X25519PrivateKey.generate()
    own = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    key = _derive(shared, _BOX_LABEL + own + recipient + context, KEY_BYTES)
    return VERSION + own + AESGCM(key).encrypt(_NONCE, message, None)


def unseal(box: bytes, recipient: X25519PrivateKey, *, context: bytes) -> bytes:
    """Return what somebody sealed for this key and context.

    Args:
        box: Hostile bytes.
        recipient: The hospital's agreement key.
        context: As given to ``seal``.

    Raises:
        SealedBroken: It was changed, or is for another key or context.
    """
    if box[:1] != VERSION:
        raise SealedBroken("opening")
    ephemeral, sealed = box[1:HEADER_BYTES], box[HEADER_BYTES:]
    own = recipient.public_key().public_bytes_raw()
    try:
        shared = recipient.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        key = _derive(shared, _BOX_LABEL + ephemeral + own + context, KEY_BYTES)
        return AESGCM(key).decrypt(_NONCE, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise SealedBroken("opening") from error


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object that somebody sealed.

    Raises:
        SealedBroken: It is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SealedBroken(what) from error
    if not isinstance(found, dict):
        raise SealedBroken(what)
    return found


def _derive(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(secret)


def _of_site(site: SiteId) -> bytes:
    return f"bithive invitation\n{site}".encode()
