"""The books over HTTP: read balances and move BTT, for whoever holds the operator's token.

Amounts are decimal text in base units, in both directions: a JSON number of that size would be
rounded by a browser. A transfer names its key, so a client that saw no answer sends it again.
Every refusal is an RFC 9457 problem whose type ends in the error's code.

::

    POST /transfers        {"key", "debit", "credit", "amount", "memo"}
    GET  /transfers/KEY
    GET  /accounts/NAME
    GET  /supply

References:
    RFC 9457, "Problem Details for HTTP APIs". RFC 6750, "Bearer Token Usage".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from ledger.books import Ledger
from ledger.chart import BURNED, AccountMisnamed, check_account
from ledger.journal import (
    KEY_CHARACTERS_MAX,
    MEMO_CHARACTERS_MAX,
    IdempotencyConflict,
    Transfer,
    UnknownAccount,
)
from protocol.errors import BitHiveError, LedgerError, StorageError

STATUS: Final[dict[type[Exception], int]] = {
    AccountMisnamed: 422,
    UnknownAccount: 404,
    IdempotencyConflict: 409,
    LedgerError: 409,
    StorageError: 503,
    BitHiveError: 400,
}
AMOUNT: Final = r"^(0|[1-9][0-9]{0,37})$"
"""Decimal digits without sign, separators or leading zeros; 38, as PostgreSQL keeps them."""

BEARER: Final = HTTPBearer()

AmountText = Annotated[str, Field(pattern=AMOUNT, examples=["1000000000000000000"])]


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


def ledger_app(ledger: Ledger, *, token: str, clock: Callable[[], datetime]) -> FastAPI:
    """Return the application.

    Args:
        ledger: The books; whoever calls closes them.
        token: The operator's secret, at least 32 characters. Serve it over TLS or on one machine.
        clock: The time to record, with its time zone.
    """
    assert len(token) >= 32
    app = FastAPI(title="BitHive ledger", docs_url=None, redoc_url=None)
    app.add_exception_handler(BitHiveError, _problem)
    kept = hashlib.sha256(token.encode()).digest()

    def operator(shown: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)]) -> None:
        # Of equal length and in constant time, so that an answer's delay tells nothing.
        if not hmac.compare_digest(hashlib.sha256(shown.credentials.encode()).digest(), kept):
            raise HTTPException(401, "this token is not the operator's")

    only_operator = [Depends(operator)]

    @app.post("/transfers", dependencies=only_operator)
    def post(asked: TransferAsked) -> TransferShown:
        """Make a transfer, or return the one that was made under its key."""
        debit, credit = check_account(asked.debit), check_account(asked.credit)
        amount = int(asked.amount)
        made = ledger.transfer(asked.key, debit, credit, amount, memo=asked.memo, now=clock())
        return _shown(made)

    @app.get("/transfers/{key:path}", dependencies=only_operator)
    def find(key: str) -> TransferShown:
        """Return the transfer that was made under a key."""
        found = ledger.find(key)
        if found is None:
            raise HTTPException(404, "no transfer was made under this key")
        return _shown(found)

    @app.get("/accounts/{name}", dependencies=only_operator)
    def account(name: str) -> AccountShown:
        """Return what an account holds."""
        known = check_account(name)
        flags = sorted(flag.value for flag in ledger.flags(known))
        return AccountShown(account=known, balance=str(ledger.balance(known)), flags=flags)

    @app.get("/supply", dependencies=only_operator)
    def supply() -> SupplyShown:
        """Return all there is."""
        balances = ledger.balances()
        burned = balances.get(BURNED, 0)
        return SupplyShown(supply=str(sum(balances.values())), burned=str(burned))

    return app


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
