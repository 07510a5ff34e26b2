"""The books over HTTP: read balances and move BTT, for the operator and for who is signed in.

The operator's token is the operator's; any other token is a session's, and everybody sees and does
what the table of permissions gives them: a researcher her own account and statement, an auditor all
of them, and only the operator moves anything.

Amounts are decimal text in base units, in both directions: a JSON number of that size would be
rounded by a browser. A transfer names its key, so a client that saw no answer sends it again.
Every refusal is an RFC 9457 problem whose type ends in the error's code.

::

    POST /transfers        {"key", "debit", "credit", "amount", "memo"}
    GET  /transfers/KEY
    GET  /accounts/NAME
    GET  /statements/ACCOUNT
    GET  /supply

References:
    RFC 9457, "Problem Details for HTTP APIs". RFC 6750, "Bearer Token Usage".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from identity.accounts import SessionEnded
from identity.roles import (
    About,
    Actor,
    Denied,
    Permission,
    PermissionMissing,
    Role,
    check,
    unrecorded,
)
from ledger.books import Ledger
from ledger.chain.keystore import read_private
from ledger.chart import BURNED, AccountMisnamed, check_account
from ledger.journal import (
    KEY_CHARACTERS_MAX,
    MEMO_CHARACTERS_MAX,
    IdempotencyConflict,
    Transfer,
    UnknownAccount,
)
from ledger.statements import Statement, statement
from protocol.errors import BitHiveError, ConfigurationError, LedgerError, StorageError
from protocol.ids import AccountId
from storage.files import PRIVATE, write_whole

STATUS: Final[dict[type[Exception], int]] = {
    AccountMisnamed: 422,
    UnknownAccount: 404,
    IdempotencyConflict: 409,
    LedgerError: 409,
    SessionEnded: 401,
    PermissionMissing: 403,
    StorageError: 503,
    BitHiveError: 400,
}
AMOUNT: Final = r"^(0|[1-9][0-9]{0,37})$"
"""Decimal digits without sign, separators or leading zeros; 38, as PostgreSQL keeps them."""

BEARER: Final = HTTPBearer()
TOKEN_BYTES: Final = 32
TOKEN_CHARACTERS_MIN: Final = 32

AmountText = Annotated[str, Field(pattern=AMOUNT, examples=["1000000000000000000"])]


class TokenTooShort(ConfigurationError):
    """A file's secret is so short that it could be guessed."""

    code = "ledger-token-short"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path.name} holds fewer than {TOKEN_CHARACTERS_MIN} characters; remove it and a "
            "better one is made"
        )


class TransferAsked(BaseModel):
    """A transfer to be made once."""

    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS_MAX)]
    debit: str
    credit: str
    amount: AmountText
    memo: Annotated[str, Field(max_length=MEMO_CHARACTERS_MAX)] = ""


class LegShown(BaseModel):
    """Base units out of one account into another."""

    debit: str
    credit: str
    amount: AmountText


class TransferShown(BaseModel):
    """A transfer as the journal has it."""

    sequence: int
    key: str
    at: datetime
    memo: str
    legs: list[LegShown]


class AccountShown(BaseModel):
    """What an account holds, and its flags."""

    account: str
    balance: str
    flags: list[str]


class SupplyShown(BaseModel):
    """All base units, and those of them that were burned."""

    supply: AmountText
    burned: AmountText


class LineShown(BaseModel):
    """One amount that came, or went if it is negative, and what was there after it."""

    at: datetime
    sequence: int
    key: str
    memo: str
    other: str
    amount: str
    balance: str


class StatementShown(BaseModel):
    """What came and went on an account."""

    account: str
    closing: AmountText
    lines: list[LineShown]


def caller(
    request: Request, shown: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)]
) -> Actor:
    """Return whose token came with the request."""
    who: Callable[[str], Actor] = request.app.state.who
    return who(shown.credentials)


Caller = Annotated[Actor, Depends(caller)]


def ledger_app(
    ledger: Ledger,
    *,
    token: str,
    clock: Callable[[], datetime],
    sessions: Callable[[str], Actor] | None = None,
    audit: Denied = unrecorded,
) -> FastAPI:
    """Return the application.

    Args:
        ledger: The books; whoever calls closes them.
        token: The operator's secret, at least 32 characters. Serve it over TLS or on one machine.
        clock: The time to record, with its time zone.
        sessions: Returns who holds a session's token, or raises; None where nobody signs in.
        audit: Told of every refusal.
    """
    assert len(token) >= TOKEN_CHARACTERS_MIN
    app = FastAPI(title="BitHive ledger", docs_url=None, redoc_url=None)
    app.add_exception_handler(BitHiveError, _problem)
    app.state.who = _doorman(token, sessions)

    def may(actor: Actor, permission: Permission, account: AccountId | None = None) -> None:
        check(actor, permission, about=About(account=account), audit=audit)

    @app.post("/transfers")
    def post(asked: TransferAsked, actor: Caller) -> TransferShown:
        """Make a transfer, or return the one that was made under its key."""
        may(actor, Permission.TRANSFER)
        debit, credit = check_account(asked.debit), check_account(asked.credit)
        amount = int(asked.amount)
        made = ledger.transfer(asked.key, debit, credit, amount, memo=asked.memo, now=clock())
        return _shown(made)

    @app.get("/transfers/{key:path}")
    def find(key: str, actor: Caller) -> TransferShown:
        """Return the transfer that was made under a key."""
        may(actor, Permission.READ_STATEMENT)
        found = ledger.find(key)
        if found is None:
            raise HTTPException(404, "no transfer was made under this key")
        return _shown(found)

    @app.get("/accounts/{name}")
    def account(name: str, actor: Caller) -> AccountShown:
        """Return what an account holds."""
        may(actor, Permission.READ_STATEMENT, AccountId(name))
        known = check_account(name)
        flags = sorted(flag.value for flag in ledger.flags(known))
        return AccountShown(account=known, balance=str(ledger.balance(known)), flags=flags)

    @app.get("/statements/{name}")
    def drawn(name: str, actor: Caller) -> StatementShown:
        """Return what came and went on an account."""
        may(actor, Permission.READ_STATEMENT, AccountId(name))
        return _drawn(statement(ledger, check_account(name)))

    @app.get("/supply")
    def supply(actor: Caller) -> SupplyShown:
        """Return all there is."""
        may(actor, Permission.READ_STATEMENT)
        balances = ledger.balances()
        burned = balances.get(BURNED, 0)
        return SupplyShown(supply=str(sum(balances.values())), burned=str(burned))

    return app


def _doorman(token: str, sessions: Callable[[str], Actor] | None) -> Callable[[str], Actor]:
    kept = hashlib.sha256(token.encode()).digest()

    def who(shown: str) -> Actor:
        # Of equal length and in constant time, so that an answer's delay tells nothing.
        if hmac.compare_digest(hashlib.sha256(shown.encode()).digest(), kept):
            return Actor("operator", frozenset({Role.OPERATOR}))
        if sessions is None:
            raise HTTPException(401, "this token is not the operator's")
        return sessions(shown)

    return who


def operator_token(path: Path) -> str:
    """Return the operator's secret in a file, made by us if there is none.

    Raises:
        SecretExposed: Others can read the file.
        TokenTooShort: It holds fewer than 32 characters.
        StorageError: It can be neither read nor made.
    """
    if not path.exists():
        write_whole(path, f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode(), mode=PRIVATE)
    token = read_private(path).decode(errors="replace").strip()
    if len(token) < TOKEN_CHARACTERS_MIN:
        raise TokenTooShort(path)
    return token


def _shown(transfer: Transfer) -> TransferShown:
    legs = [
        LegShown(debit=leg.debit, credit=leg.credit, amount=str(leg.amount))
        for leg in transfer.legs
    ]
    return TransferShown(
        sequence=transfer.sequence,
        key=transfer.key,
        at=transfer.at,
        memo=transfer.memo,
        legs=legs,
    )


def _drawn(found: Statement) -> StatementShown:
    lines = [
        LineShown(
            at=line.at,
            sequence=line.sequence,
            key=line.key,
            memo=line.memo,
            other=line.other,
            amount=str(line.amount),
            balance=str(line.balance),
        )
        for line in found.lines
    ]
    return StatementShown(account=found.party, closing=str(found.closing), lines=lines)


def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BitHiveError)
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    body: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "status": status,
        "detail": str(error),
        "instance": request.url.path,
    }
    return JSONResponse(body, status, media_type="application/problem+json")
