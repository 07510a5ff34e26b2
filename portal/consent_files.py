"""The files in which a hospital and a study's server exchange consent, as hostile input.

Where server and hospital share no disk, four kinds of file are carried between them::

    hospital ── NAME.grants.json ──────▶ server      leaves and hashes of codes, signed by the site
    hospital ◀── NAME.receipts.json ──── server      receipts, each signed by the registry
    hospital ── NAME.withdrawals.json ─▶ server      SiteWithdrawals, each signed by the site
    hospital ◀── NAME.withdrawn.json ─── server      receipts of their end

None is secret and none names a patient: a leaf is a commitment that only the hospital can open.
Each is canonical JSON, so that asking again for the same gives the same file.

What holds, each line a test in tests/portal/test_admitting.py:

1. A file of which a byte was changed, cut or added is refused, or says the same.
2. A file beyond its bound is not parsed.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from consent.receipts import GrantReceipt, WithdrawalReceipt, read_receipt, receipt_json
from consent.withdrawal import SiteWithdrawal
from protocol.canonical import Digest, Element, Hex, Key32, Message, Site, SiteMessage, Slug, Study
from protocol.errors import ConsentError
from protocol.ids import GrantId

GRANTS_MAX: Final = 65_536
"""In one file; as many as a registry publishes at once."""
MEBIBYTE: Final = 2**20


class ConsentFileRefused(ConsentError):
    """A file that should carry grants, receipts or withdrawals does not."""

    code = "consent-file-refused"

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        self.why = why
        super().__init__(
            f"the file of {what} is refused: {why}; have whoever sent it make it again"
        )


class NewGrant(Message):
    """A grant as its hospital asks for it to be published."""

    leaf: Element
    revoke_hash: Key32
    """SHA-256 of the patient's withdrawal code."""


class GrantsFile(SiteMessage):
    """A hospital's grants of one study, on its word, signed by it."""

    label = b"site grants"
    what: ClassVar[str] = "grants"
    bytes_max: ClassVar[int] = 16 * MEBIBYTE

    format: Literal["bithive-grants-1"] = "bithive-grants-1"
    study: Study
    terms: Digest
    grants: Annotated[tuple[NewGrant, ...], Field(min_length=1, max_length=GRANTS_MAX)]

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if len({one.leaf for one in self.grants}) != len(self.grants):
            raise ValueError("a leaf is in it twice")
        return self


class EndedGrant(Message):
    """A hospital's signed word that it ends a grant: the rest of a ``SiteWithdrawal``."""

    grant: Annotated[GrantId, Field(pattern=r"^[0-9a-f]{20}$")]
    at: Annotated[str, Field(max_length=40)]
    signature: Annotated[Hex, Field(min_length=64, max_length=64)]


class WithdrawalsFile(SiteMessage):
    """Grants that a hospital ends, signed one by one and together."""

    label = b"site withdrawals"
    what: ClassVar[str] = "withdrawals"
    bytes_max: ClassVar[int] = 24 * MEBIBYTE

    format: Literal["bithive-withdrawals-1"] = "bithive-withdrawals-1"
    registry: Slug
    withdrawals: Annotated[tuple[EndedGrant, ...], Field(min_length=1, max_length=GRANTS_MAX)]

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if len({one.grant for one in self.withdrawals}) != len(self.withdrawals):
            raise ValueError("a grant is in it twice")
        return self

    def statements(self) -> list[SiteWithdrawal]:
        """Return what the registry is told."""
        return [
            SiteWithdrawal(self.site, one.grant, one.at, one.signature) for one in self.withdrawals
        ]


class ReceiptsFile(Message):
    """Receipts of a hospital's grants, or of their end, each signed by the registry."""

    what: ClassVar[str] = "receipts"
    bytes_max: ClassVar[int] = 48 * MEBIBYTE

    format: Literal["bithive-receipts-1"] = "bithive-receipts-1"
    site: Site
    receipts: Annotated[
        tuple[dict[str, str | int | bool | None], ...], Field(max_length=GRANTS_MAX)
    ]

    @classmethod
    def of(cls, site: Site, receipts: list[GrantReceipt] | list[WithdrawalReceipt]) -> Self:
        """Return the file of these receipts."""
        return cls(site=site, receipts=tuple(json.loads(receipt_json(one)) for one in receipts))

    def read(self) -> list[GrantReceipt | WithdrawalReceipt]:
        """Return the receipts; whether the registry signed them is for ``check``.

        Raises:
            ReceiptMalformed: One of them is none.
        """
        return [read_receipt(json.dumps(one)) for one in self.receipts]


AnyFile = TypeVar("AnyFile", GrantsFile, WithdrawalsFile, ReceiptsFile)


def read_file(kind: type[AnyFile], content: bytes) -> AnyFile:
    """Return a file of this kind; whose signature it carries, the caller checks.

    Args:
        kind: What it should be.
        content: Hostile bytes.

    Raises:
        ConsentFileRefused: It is too large or of another form.
    """
    if len(content) > kind.bytes_max:
        raise ConsentFileRefused(kind.what, f"it is larger than {kind.bytes_max} bytes")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        found: Any = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in found["loc"])[:60] or "the whole"
        raise ConsentFileRefused(kind.what, f"{where}: {found['msg'][:100]}") from None
