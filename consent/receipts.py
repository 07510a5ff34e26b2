"""Receipts: what a patient keeps to show that a grant was published, or withdrawn.

Each is signed by the registry over a label and its fields as canonical JSON. A receipt names no
patient: it names a leaf, which its owner can look up in the registry's public log at any time, and
says whose word the grant rests on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consent.log import TREE_DEPTH
from protocol.errors import ConsentError
from protocol.ids import GrantId
from zk.poseidon import FIELD

RECEIPT_TEXT_MAX: Final = 4096
"""Characters of a receipt as JSON; real ones have some 500."""
KINDS: Final = {"index": int, "epoch": int, "leaf": int, "proven": bool, "signature": bytes}
"""Of fields that are not text."""
NUMBER_MAX: Final = {"index": 2**TREE_DEPTH, "epoch": 2**53}


class ReceiptMalformed(ConsentError):
    """What should be a receipt is not one."""

    code = "consent-receipt-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"this is no consent receipt: {reason}; copy it whole, as it was printed")


class NotSignedByRegistry(ConsentError):
    """A receipt or epoch does not carry the registry's signature, or was changed since."""

    code = "not-signed-by-registry"

    def __init__(self, what: str, registry: str) -> None:
        self.what = what
        self.registry = registry
        super().__init__(
            f"the {what} does not carry the signature of the registry {registry}; "
            "do not rely on it and fetch it from the registry again"
        )


@dataclass(frozen=True)
class Signed:
    """What the registry signs: the fields of a subclass, under its label."""

    label: ClassVar[str]
    registry: str
    signature: bytes

    def signed_bytes(self) -> bytes:
        """Return the label, a line feed, and the other fields as sorted, compact JSON.

        Numbers that may pass 2^53 are written as decimal strings.
        """
        fields = {name: value for name, value in asdict(self).items() if name != "signature"}
        body = json.dumps(
            {name: _portable(name, value) for name, value in fields.items()},
            sort_keys=True,
            separators=(",", ":"),
        )
        return f"bithive {self.label}\n{body}".encode()

    def signed_by(self, key: Ed25519PrivateKey) -> Self:
        """Return it with the signature of ``key``."""
        return replace(self, signature=key.sign(self.signed_bytes()))

    def check(self, public_key: bytes) -> None:
        """Return if the signature is that of the registry's key, 32 raw bytes.

        Raises:
            NotSignedByRegistry: It is not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                self.signature, self.signed_bytes()
            )
        except (InvalidSignature, ValueError) as error:
            raise NotSignedByRegistry(self.label, self.registry) from error


@dataclass(frozen=True)
class GrantReceipt(Signed):
    """The registry has published ``leaf`` at ``index``; it counts from ``epoch`` on."""

    label = "grant receipt"
    grant: GrantId
    index: int
    leaf: int
    epoch: int
    at: str
    """ISO 8601, UTC."""
    policy: str
    """Of the lane: a ``consent.lanes.LanePolicy``."""
    proven: bool
    """An enrolled person proved that she grants this; if not, it rests on the hospital's word."""
    replaces: GrantId | None = None
    """The same person's grant that ended with this one."""


@dataclass(frozen=True)
class WithdrawalReceipt(Signed):
    """The registry has taken the leaf at ``index`` out; from ``epoch`` on nothing covers it."""

    label = "withdrawal receipt"
    grant: GrantId
    index: int
    epoch: int
    at: str
    """ISO 8601, UTC."""


def receipt_json(receipt: GrantReceipt | WithdrawalReceipt) -> str:
    """Return a receipt as JSON for a person to keep: see docs/spec/consent-grant.md."""
    fields = asdict(receipt) | {"kind": receipt.label, "signature": receipt.signature.hex()}
    return json.dumps({name: _portable(name, value) for name, value in fields.items()}, indent=1)


def read_receipt(text: str) -> GrantReceipt | WithdrawalReceipt:
    """Read a receipt; whether the registry signed it is for ``check``.

    Args:
        text: From anybody.

    Raises:
        ReceiptMalformed: It is not one.
    """
    if len(text) > RECEIPT_TEXT_MAX:
        raise ReceiptMalformed(f"it is longer than {RECEIPT_TEXT_MAX} characters")
    try:
        fields = json.loads(text)
        kind = {one.label: one for one in (GrantReceipt, WithdrawalReceipt)}[fields.pop("kind")]
        if fields.keys() != {field.name for field in dataclass_fields(kind)}:
            raise ReceiptMalformed("it has other fields")
        fields["signature"] = bytes.fromhex(fields["signature"])
        if "leaf" in fields:
            fields["leaf"] = int(fields["leaf"])
        _check_values(fields)
        receipt: GrantReceipt | WithdrawalReceipt = kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReceiptMalformed("it is not the JSON of a receipt") from error
    return receipt


def _check_values(fields: dict[str, Any]) -> None:
    """Return if each value is of its field's type, also where a registry would sign another."""
    for name, value in fields.items():
        kind = KINDS.get(name, str)
        if type(value) is not kind and not (name == "replaces" and value is None):
            raise ReceiptMalformed(f"its {name} is no {kind.__name__}")
        if isinstance(value, int) and not 0 <= value < NUMBER_MAX.get(name, FIELD):
            raise ReceiptMalformed(f"its {name} is out of range")


def _portable(name: str, value: Any) -> Any:
    return str(value) if name in {"leaf", "root"} else value
