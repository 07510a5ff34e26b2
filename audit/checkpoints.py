"""A log's head: which log, how many records, which root; signed, and cosigned by witnesses.

    >>> head = Head("example.com/behind-the-sofa", 20852163, bytes(32))
    >>> print(head.body(), end="")
    example.com/behind-the-sofa
    20852163
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    >>> read_head(head.body()) == head
    True

The text above is what the log signs, and what a witness signs after a line with the time. It is the
one form of a signed head in the project; whoever checks certificate logs can check it.

References:
    C2SP, tlog-checkpoint (the text). Extension lines are not written, and a head that has some is
    refused: nobody could say what they mean.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.notes import SIGNED, Note, NoteMalformed, SignatureLine, note_key
from protocol.errors import LedgerError
from storage.merkle import EMPTY_ROOT, HASH_BYTES

SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")


class AuditDamaged(LedgerError):
    """The log is not what was signed."""

    code = "audit-damaged"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(
            f"the audit log is damaged: {finding}; keep the file and compare it with a copy"
        )


@dataclass(frozen=True)
class Head:
    """How long a log was, and its root."""

    origin: str
    """The log's name, which is its key's name too."""
    size: int
    root: bytes

    def body(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class SignedHead(Head):
    """A head and the log keeper's Ed25519 signature of its text."""

    signature: bytes

    def check(self, key: Ed25519PublicKey) -> None:
        """Check the signature.

        Raises:
            AuditDamaged: It was not made by the owner of ``key`` for this log, size and root.
        """
        try:
            key.verify(self.signature, self.body().encode())
        except InvalidSignature as error:
            raise AuditDamaged(f"head {self.size} is not signed by the log's key") from error

    def note(self, key: Ed25519PublicKey) -> Note:
        """Return the head as a checkpoint, signed by ``key``."""
        key_id = note_key(self.origin, SIGNED, key).key_id
        return Note(self.body(), (SignatureLine(self.origin, key_id, self.signature),))


def sign_head(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> SignedHead:
    """Sign a head."""
    unsigned = Head(origin, size, root)
    return SignedHead(origin, size, root, key.sign(unsigned.body().encode()))


def read_head(body: str) -> Head:
    """Read a checkpoint's text.

    Raises:
        NoteMalformed: It is none.
    """
    lines = body.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise NoteMalformed("it has not the three lines of a checkpoint")
    origin, size, encoded = lines[:3]
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteMalformed("its root is not base64") from error
    same = base64.b64encode(root).decode() == encoded
    if SIZE.fullmatch(size) is None or len(root) != HASH_BYTES or not same:
        raise NoteMalformed("its size is no number, or its root no hash")
    if size == "0" and root != EMPTY_ROOT:
        raise NoteMalformed("a log without records has another root")
    return Head(origin, int(size), root)


def origin_of(key: Ed25519PublicKey) -> str:
    """Return the name of a log that nobody has named: from its key, so that no two share one."""
    return f"bithive/audit/{hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]}"
