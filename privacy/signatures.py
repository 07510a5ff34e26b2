"""Ed25519 signatures: keep a key in its owner's file, check a signature or refuse by name.

References:
    RFC 8032, section 5.1 (Ed25519); the implementation is ``cryptography``'s.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.canonical import SiteMessage
from protocol.errors import FederationError, PrivacyError, storage_error
from protocol.ids import SiteId
from protocol.terms import SiteIdentity, StudyTerms
from storage.files import PRIVATE, write_whole


class BadSignature(FederationError):
    """A message was not signed by the key it should be signed by, or was changed since."""

    code = "bad-signature"

    def __init__(self, what: str, who: str) -> None:
        self.what = what
        self.who = who
        super().__init__(
            f"the {what} does not carry a valid signature of {who}; ask {who} to send it again "
            "over a link you trust"
        )


class SigningKeyUnreadable(PrivacyError):
    """A signing key's file does not hold a key."""

    code = "signing-key-unreadable"

    def __init__(self, name: str) -> None:
        super().__init__(f"the file {name} does not hold a signing key; restore it from its backup")


class SiteUnknown(FederationError):
    """A message is in the name of a site that the study's terms do not register."""

    code = "site-not-registered"

    def __init__(self, site: SiteId) -> None:
        self.site = site
        super().__init__(
            f"{site} is not registered for this study; check the site's id, or found the study "
            "with it"
        )


def registered(terms: StudyTerms, site: SiteId) -> SiteIdentity:
    """Return the public keys of a site of the study.

    Raises:
        SiteUnknown: The terms do not register it.
    """
    identity = terms.identity(site)
    if identity is None:
        raise SiteUnknown(site)
    return identity


def check_site_message(terms: StudyTerms, message: SiteMessage, what: str) -> None:
    """Return if ``message`` is signed by the site it names.

    Raises:
        SiteUnknown: The study does not know the site.
        BadSignature: The site did not sign it.
    """
    key = registered(terms, message.site).signing_key
    signed = message.signed_bytes()
    check_signature(key, message.signature, signed, what=what, who=message.site)


def check_signature(
    public_key: bytes, signature: bytes, message: bytes, *, what: str, who: str
) -> None:
    """Return if ``signature`` is ``public_key``'s over ``message``.

    Args:
        public_key: 32 raw bytes.
        signature: 64 bytes; anything else is refused.
        message: The canonical bytes.
        what: What was signed, for the error's sentence.
        who: Who should have signed it, likewise.

    Raises:
        BadSignature: It is not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(what, who) from error


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the signing key kept at ``path`` (32 raw bytes, mode 0600), made on first use.

    Raises:
        SigningKeyUnreadable: The file holds something else.
        StorageError: The disk refused.
    """
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_whole(path, key.private_bytes_raw(), mode=PRIVATE)
        return key
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise SigningKeyUnreadable(path.name) from error
    except OSError as error:
        raise storage_error(error, path.name) from error
