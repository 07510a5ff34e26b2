"""What every message is made of: fields in one form, and one byte string that is hashed and signed.

A message is a frozen pydantic model: parsing is validation, an unknown field is refused, and
``canonical(message)`` gives the one byte string that is hashed and signed. Byte strings travel as
hexadecimal, field elements as decimal strings (JSON numbers of other languages end at 2**53), and
real numbers that are signed as decimal text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from protocol.errors import FederationError
from protocol.ids import SLUG, KeyId, SiteId, StudyId

ROUNDS_MAX: Final = 10_000

BN254_SCALARS: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the group whose exponents statements are made of (EIP-197)."""


class MalformedMessage(FederationError):
    """A message's fields are missing, of another type or out of range."""

    code = "malformed-message"

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        super().__init__(f"a {what} that was received cannot be used: {why}")


def _slug(text: str) -> str:
    if not SLUG.fullmatch(text):
        raise ValueError("an id is 1 to 40 lower-case letters, digits and inner dashes")
    return text


def _element(value: object) -> object:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 78):
            raise ValueError("a field element is a decimal number")
        return int(value)
    return value


Hex = Annotated[
    bytes,
    BeforeValidator(lambda value: bytes.fromhex(value) if isinstance(value, str) else value),
    PlainSerializer(lambda value: value.hex(), return_type=str, when_used="json"),
]
Key32 = Annotated[Hex, Field(min_length=32, max_length=32)]
Signature = Annotated[Hex, Field(max_length=64)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, AfterValidator(_slug)]
Site = Annotated[SiteId, AfterValidator(lambda value: SiteId(_slug(value)))]
Study = Annotated[StudyId, AfterValidator(lambda value: StudyId(_slug(value)))]
Element = Annotated[
    int,
    BeforeValidator(_element),
    Field(ge=0, lt=BN254_SCALARS),
    PlainSerializer(str, return_type=str, when_used="json"),
]
Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
GroupKeyId = Annotated[KeyId, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=2**40)]
Round = Annotated[int, Field(ge=1, le=ROUNDS_MAX)]


class Message(BaseModel):
    """Base of all messages: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyMessage = TypeVar("AnyMessage", bound=Message)


def canonical(message: Message, *, without: frozenset[str] = frozenset()) -> bytes:
    """Return the bytes of ``message`` that are hashed and signed: sorted, compact JSON."""
    body = message.model_dump(mode="json", exclude=set(without))
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(message: Message) -> str:
    """Return the SHA-256 of the canonical bytes, in hexadecimal."""
    return hashlib.sha256(canonical(message)).hexdigest()


def body(message: Message) -> dict[str, Any]:
    """Return the JSON object that carries ``message`` in a frame."""
    return message.model_dump(mode="json")


def read(kind: type[AnyMessage], received: object) -> AnyMessage:
    """Parse a received JSON object as ``kind``.

    Raises:
        MalformedMessage: It is not one; the message names the first field that is wrong.
    """
    try:
        return kind.model_validate(received)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise MalformedMessage(kind.__name__, f"{where}: {first['msg']}") from error


class SignedMessage(Message):
    """A message under one signature; ``label`` keeps kinds of messages apart."""

    label: ClassVar[bytes]
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what is signed: the label, and everything but the signature."""
        return b"bithive " + self.label + b"\n" + canonical(self, without=frozenset({"signature"}))

    def signed_by(self, sign: Callable[[bytes], bytes]) -> Self:
        """Return this message with ``sign``'s signature."""
        return self.model_copy(update={"signature": sign(self.signed_bytes())})


class SiteMessage(SignedMessage):
    """A message that a site signs."""

    site: Site
