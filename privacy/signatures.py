"""Check an Ed25519 signature, or refuse by name.

References:
    RFC 8032, section 5.1 (Ed25519); the implementation is ``cryptography``'s.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.errors import FederationError


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
