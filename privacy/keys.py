"""A site's own keys, and handing a secret from one site to another past an untrusted server.

A site signs with Ed25519 and agrees on keys with X25519; both are kept in one file of its own.
The group key made by one hospital reaches each other one wrapped: X25519 between the two sites'
long-term keys [1], HKDF-SHA256 with a fresh salt to a key used once [2], ChaCha20-Poly1305 [3]. Who
sends, who receives and what the secret is for are bound in as associated data, so that a wrapped
key serves nobody else and for nothing else::

    wrapped key = version (1 byte) | salt (32) | sealed secret and tag (length + 16)

    >>> maker, taker = SiteKeys.generate(), SiteKeys.generate()
    >>> sent = wrap(b"secret", taker.agreement_public, maker.agreement, context=b"study 1")
    >>> unwrap(sent, maker.agreement_public, taker.agreement, context=b"study 1")
    b'secret'

What holds, each line a test in tests/privacy/test_keys.py:

1. ``unwrap`` returns what was wrapped for the same two sites and context, and refuses all else.
2. Wrapping twice gives different bytes.
3. The file of keys is readable by its owner only, from the moment it exists.

Keys are static: whoever steals a site's X25519 key later opens what was wrapped for it before, and
can wrap to that site in another's name. Group keys are therefore renewed with the cohort.

References:
    [1] RFC 7748, sections 5 and 6.1. [2] RFC 5869. [3] RFC 8439, section 2.8.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NewType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import PrivacyError, storage_error
from storage.files import PRIVATE, write_whole

WrappedKey = NewType("WrappedKey", bytes)

_VERSION: Final = b"\x01"
_SALT_BYTES: Final = 32
_LABEL: Final = b"bithive wrapped key\n"
_SEAL_LABEL: Final = b"bithive sealed key\n"
_NONCE: Final = bytes(12)  # every wrapping has a key of its own, so the nonce may be constant


class KeyUnwrapFailed(PrivacyError):
    """A wrapped key was changed, or was wrapped by or for somebody else, or for something else."""

    code = "key-unwrap-failed"

    def __init__(self) -> None:
        super().__init__(
            "the wrapped key does not open for this site, sender and purpose; ask the site that "
            "made the group key to wrap it again for the agreement key registered for you"
        )


class AgreementKeyInvalid(PrivacyError):
    """A public key that no secret can be agreed with."""

    code = "agreement-key-invalid"

    def __init__(self) -> None:
        super().__init__(
            "the recipient's agreement key is not a usable X25519 public key; have the site "
            "register a new one"
        )


class SiteKeysUnreadable(PrivacyError):
    """A file of a site's keys holds something else."""

    code = "site-keys-unreadable"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the file {name} does not hold a site's keys; restore it from its backup")


@dataclass(frozen=True)
class SiteKeys:
    """A site's long-term private keys; they never leave the site."""

    signing: Ed25519PrivateKey = field(repr=False)
    agreement: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> SiteKeys:
        """Return new keys, drawn from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SiteKeys:
        """Return the keys kept at ``path``.

        Raises:
            SiteKeysUnreadable: The file holds something else.
            StorageError: The file cannot be read.
        """
        try:
            kept = json.loads(path.read_bytes())
            return cls(
                Ed25519PrivateKey.from_private_bytes(bytes.fromhex(kept["ed25519"])),
                X25519PrivateKey.from_private_bytes(bytes.fromhex(kept["x25519"])),
            )
        except OSError as error:
            raise storage_error(error, path.name) from error
        except (ValueError, KeyError, TypeError):
            # The cause may quote the content, which is secret.
            raise SiteKeysUnreadable(path.name) from None

    @classmethod
    def load_or_make(cls, path: Path) -> SiteKeys:
        """Return the keys kept at ``path``, made and kept there on first use.

        Raises:
            SiteKeysUnreadable: The file holds something else.
            StorageError: The disk refused.
        """
        if not path.exists():
            cls.generate().save(path)
        return cls.load(path)

    def save(self, path: Path) -> None:
        """Keep the keys at ``path``, mode 0600.

        Raises:
            StorageError: The disk refused; what was there before is untouched.
        """
        kept = {
            "ed25519": self.signing.private_bytes_raw().hex(),
            "x25519": self.agreement.private_bytes_raw().hex(),
        }
        write_whole(path, json.dumps(kept).encode(), mode=PRIVATE)

    @property
    def signing_public(self) -> bytes:
        """The 32 bytes that others check this site's signatures with."""
        return self.signing.public_key().public_bytes_raw()

    @property
    def agreement_public(self) -> bytes:
        """The 32 bytes that others wrap secrets for this site with."""
        return self.agreement.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return this site's 64-byte signature of ``message`` (checked by ``signatures``)."""
        return self.signing.sign(message)


def wrap(
    secret: bytes, recipient_public: bytes, sender_private: X25519PrivateKey, *, context: bytes
) -> WrappedKey:
    """Seal ``secret`` so that only the recipient opens it, and knows who sent it.

    Args:
        secret: Any bytes, such as ``SecretKey.to_bytes``.
        recipient_public: The recipient's registered 32-byte agreement key.
        sender_private: The sender's agreement key.
        context: What the secret is for: its key id, study, sender and recipient. Not secret.

    Raises:
        AgreementKeyInvalid: The recipient's key is no key, or one that agrees on zero.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    sender_public = sender_private.public_key().public_bytes_raw()
    bound = _LABEL + sender_public + recipient_public + context
    try:
        key = _agree(sender_private, recipient_public, salt, bound)
    except ValueError as error:
        raise AgreementKeyInvalid from error
    sealed = ChaCha20Poly1305(key).encrypt(_NONCE, secret, bound)
    return WrappedKey(_VERSION + salt + sealed)


def unwrap(
    wrapped: bytes, sender_public: bytes, recipient_private: X25519PrivateKey, *, context: bytes
) -> bytes:
    """Return the secret that ``sender_public``'s owner wrapped for this recipient and context.

    Args:
        wrapped: Hostile bytes.
        sender_public: The sender's registered 32-byte agreement key.
        recipient_private: This site's agreement key.
        context: As given to ``wrap``.

    Raises:
        KeyUnwrapFailed: It was changed, or is from, for or about something else.
    """
    if wrapped[:1] != _VERSION or len(wrapped) < 1 + _SALT_BYTES:
        raise KeyUnwrapFailed
    salt, sealed = wrapped[1 : 1 + _SALT_BYTES], wrapped[1 + _SALT_BYTES :]
    recipient_public = recipient_private.public_key().public_bytes_raw()
    bound = _LABEL + sender_public + recipient_public + context
    try:
        key = _agree(recipient_private, sender_public, salt, bound)
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, bound)
    except (InvalidTag, ValueError) as error:
        raise KeyUnwrapFailed from error


def seal(secret: bytes, key: bytes, *, context: bytes) -> bytes:
    """Return ``secret`` sealed under a key that seals nothing else.

    Args:
        secret: Any bytes.
        key: 32 random bytes, used for this one secret.
        context: What the secret is for. Not secret.
    """
    return ChaCha20Poly1305(key).encrypt(_NONCE, secret, _SEAL_LABEL + context)


def unseal(sealed: bytes, key: bytes, *, context: bytes) -> bytes:
    """Return what ``seal`` sealed under this key for this context.

    Raises:
        KeyUnwrapFailed: It was changed, or is under another key or for something else.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, _SEAL_LABEL + context)
    except (InvalidTag, ValueError) as error:
        raise KeyUnwrapFailed from error


def _agree(own: X25519PrivateKey, other: bytes, salt: bytes, bound: bytes) -> bytes:
    """Return a key for one wrapping; ``cryptography`` refuses an all-zero agreement."""
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(hashes.SHA256(), 32, salt=salt, info=bound).derive(shared)
