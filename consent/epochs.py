"""An epoch as the registry publishes it: the root, what changed, and two signatures.

The log is one line of JSON for each epoch, in order. A line has the lanes opened since the line
before, the changes of leaves, the root they lead to, and the *head*: the SHA-256 of the head before
and of this line's content. The registry signs the root, which proofs refer to, and the head, which
stands for every lane, withdrawal hash, nullifier, payout id and proof since the beginning. Who has
seen one head notices any other past.

    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> key = Ed25519PrivateKey.generate()
    >>> epoch = SignedEpoch("registry", b"", number=0, root=5, at="1970-01-01T00:00:00+00:00")
    >>> line = EpochLine.sealed(epoch, (), (), before=FIRST_HEAD, signing_key=key)
    >>> EpochLine.from_json(line.to_json()) == line
    True

What holds (tests/consent/test_rebuilding.py):

1. A line reads back as it was written, and only its canonical form is read.
2. The head changes with every field of every line before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.lanes import Lane, LanePolicy
from consent.log import LogEntry
from consent.receipts import Signed
from protocol.errors import ConsentError
from protocol.ids import SiteId, StudyId

HEAD_BYTES: Final = 32
FIRST_HEAD: Final = bytes(HEAD_BYTES)
"""Before the first line."""
LINE_MAX: Final = 1 << 28
"""Bytes of a line: 65,536 proven grants have some 110 MB."""


class LogLineMalformed(ConsentError):
    """What should be a line of a registry's log is not one in its canonical form."""

    code = "consent-log-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"this is no line of a consent registry's log: {reason}; fetch the log again"
        )


@dataclass(frozen=True)
class SignedEpoch(Signed):
    """One state of the registry: the root that proofs may refer to."""

    label = "epoch"
    number: int
    root: int
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class SignedHead(Signed):
    """What the log came to with one epoch."""

    label = "log head"
    number: int
    """Of the epoch."""
    head: str
    """64 hexadecimal digits."""


def verify_epoch(epoch: SignedEpoch, public_key: bytes) -> None:
    """Return if the registry whose key this is (32 raw bytes) signed the epoch.

    Raises:
        NotSignedByRegistry: It did not.
    """
    epoch.check(public_key)


@dataclass(frozen=True)
class EpochLine:
    """One line of the log."""

    epoch: SignedEpoch
    lanes: tuple[Lane, ...]
    """Opened since the epoch before, in the order of their chunks."""
    changes: tuple[LogEntry, ...]
    head: SignedHead

    @classmethod
    def sealed(
        cls,
        epoch: SignedEpoch,
        lanes: Sequence[Lane],
        changes: Sequence[LogEntry],
        *,
        before: bytes,
        signing_key: Ed25519PrivateKey,
    ) -> Self:
        """Return the line with both signatures.

        Args:
            epoch: Its signature does not matter.
            lanes: Opened since the epoch before.
            changes: Of this epoch.
            before: The head of the line before, 32 bytes.
            signing_key: The registry's.
        """
        number, head = epoch.number, head_after(before, epoch, lanes, changes)
        return cls(
            epoch.signed_by(signing_key),
            tuple(lanes),
            tuple(changes),
            SignedHead(epoch.registry, b"", number=number, head=head.hex()).signed_by(signing_key),
        )

    def to_json(self) -> str:
        """Return the line, canonically: sorted names, no spaces, ASCII."""
        fields = _content(self.epoch, self.lanes, self.changes) | {
            "registry": self.epoch.registry,
            "signature": self.epoch.signature.hex(),
            "head": self.head.head,
            "head_signature": self.head.signature.hex(),
        }
        return _canonical(fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a line; what it says is for ``consent.rebuilding`` to check.

        Args:
            text: From anybody.

        Raises:
            LogLineMalformed: It is no line, or not in the form in which ``to_json`` writes it.
        """
        if len(text) > LINE_MAX:
            raise LogLineMalformed(f"it is longer than {LINE_MAX} bytes")
        try:
            line = cls._read(json.loads(text))
            canonical = line.to_json()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LogLineMalformed("a field is missing or is not what it should be") from error
        if canonical != text:
            raise LogLineMalformed("it is not in its canonical form")
        return line

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Self:
        registry, number, at = _text(fields["registry"]), int(fields["number"]), _text(fields["at"])
        epoch = SignedEpoch(
            registry,
            bytes.fromhex(fields["signature"]),
            number=number,
            root=int(fields["root"]),
            at=at,
        )
        head = SignedHead(
            registry,
            bytes.fromhex(fields["head_signature"]),
            number=number,
            head=_text(fields["head"]),
        )
        lanes = tuple(_lane(one) for one in fields["lanes"])
        changes = tuple(_change(one, number, at) for one in fields["changes"])
        return cls(epoch, lanes, changes, head)


def head_after(
    before: bytes, epoch: SignedEpoch, lanes: Sequence[Lane], changes: Sequence[LogEntry]
) -> bytes:
    """Return the head of the log when an epoch is added to it: 32 bytes.

    It is the SHA-256 of ``bithive log``, a line feed, the head before, and the line's content as
    canonical JSON, without the registry's name and signatures.
    """
    content = _canonical(_content(epoch, lanes, changes)).encode()
    return hashlib.sha256(b"bithive log\n" + before + content).digest()


def _content(
    epoch: SignedEpoch, lanes: Sequence[Lane], changes: Sequence[LogEntry]
) -> dict[str, Any]:
    return {
        "number": epoch.number,
        "root": str(epoch.root),
        "at": epoch.at,
        "lanes": [vars(lane) for lane in lanes],
        "changes": [_fields(change) for change in changes],
    }


def _fields(change: LogEntry) -> dict[str, Any]:
    """Return what a line says of a change; epoch and time are the line's."""
    fields: dict[str, Any] = {
        "sequence": change.sequence,
        "index": change.index,
        "leaf": str(change.leaf),
    }
    if change.leaf:
        fields["revoke_hash"] = change.revoke_hash.hex()
    if change.nullifier is not None:
        fields["nullifier"] = str(change.nullifier)
        fields["payout_id"] = str(change.payout_id)
        fields["proof"] = change.proof
    return fields


def _change(fields: dict[str, Any], number: int, at: str) -> LogEntry:
    proven = "nullifier" in fields
    return LogEntry(
        sequence=int(fields["sequence"]),
        index=int(fields["index"]),
        leaf=int(fields["leaf"]),
        epoch=number,
        at=at,
        revoke_hash=bytes.fromhex(fields.get("revoke_hash", "")),
        nullifier=int(fields["nullifier"]) if proven else None,
        payout_id=int(fields["payout_id"]) if proven else None,
        proof=_text(fields["proof"]) if proven else None,
    )


def _lane(fields: dict[str, Any]) -> Lane:
    return Lane(
        study=StudyId(_text(fields["study"])),
        site=SiteId(_text(fields["site"])),
        dataset=_text(fields["dataset"]),
        first_chunk=int(fields["first_chunk"]),
        chunk_count=int(fields["chunk_count"]),
        chunk_size=int(fields["chunk_size"]),
        policy=LanePolicy(fields["policy"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))
