"""Refusals over HTTP: RFC 9457 problem details with our codes, and limits on what is read.

A problem has ``type`` (``/problems/CODE``), ``code``, ``title``, ``status`` and ``detail``, the
sentence of the error. It repeats nothing of what was sent. Where waiting helps (429), it also has
``retry_after_seconds``, and the answer the header ``Retry-After``.

References:
    RFC 9457 (problem details); RFC 9110, sections 15.5 (statuses) and 10.2.3 (Retry-After);
    RFC 6585, section 4 (429).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consent.claims import PayoutUnknown
from consent.lanes import LaneUnknown
from consent.reader import EpochUnknown
from consent.withdrawal import GrantUnknown
from portal.patient.limits import GrantedTooOften, TooManyRequests
from portal.patient.mailbox import InvitationUnknown, MailboxFull
from protocol.errors import (
    BitHiveError,
    ConfigurationError,
    ConsentError,
    ProofError,
    StorageError,
)

BODY_MAX: Final = 16_384
"""Bytes of a request; the largest, a grant, has some 6,500."""
DIGITS_MAX: Final = 20
"""Of a declared length; a longer number is not read."""


class RequestMalformed(ConfigurationError):
    """A request is not what the API takes."""

    code = "request-malformed"

    def __init__(self, where: str) -> None:
        self.where = where
        super().__init__(
            f"the request cannot be read: {where}; send what the API's description says"
        )


class RequestTooLarge(ConfigurationError):
    """A request has more bytes than any that can be meant."""

    code = "request-too-large"

    def __init__(self) -> None:
        super().__init__(f"a request has at most {BODY_MAX} bytes; nothing was read")


class NotHere(ConfigurationError):
    """There is nothing at an address."""

    code = "not-here"

    def __init__(self) -> None:
        super().__init__("there is nothing at this address; begin at the page's own")


STATUS: Final[dict[type[BitHiveError], HTTPStatus]] = {
    RequestMalformed: HTTPStatus.BAD_REQUEST,
    RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotHere: HTTPStatus.NOT_FOUND,
    EpochUnknown: HTTPStatus.NOT_FOUND,
    GrantUnknown: HTTPStatus.NOT_FOUND,
    InvitationUnknown: HTTPStatus.NOT_FOUND,
    LaneUnknown: HTTPStatus.NOT_FOUND,
    PayoutUnknown: HTTPStatus.NOT_FOUND,
    MailboxFull: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    GrantedTooOften: HTTPStatus.TOO_MANY_REQUESTS,
    ProofError: HTTPStatus.UNPROCESSABLE_ENTITY,
    StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    ConsentError: HTTPStatus.CONFLICT,
    BitHiveError: HTTPStatus.BAD_REQUEST,
}


def problem_of(error: BitHiveError) -> JSONResponse:
    """Answer an expected error."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    body: dict[str, object] = {
        "type": f"/problems/{error.code}",
        "code": error.code,
        "title": status.phrase,
        "status": status.value,
        "detail": str(error),
    }
    headers = {}
    if isinstance(error, TooManyRequests | GrantedTooOften | MailboxFull):
        body["retry_after_seconds"] = error.retry_after_seconds
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Have every refusal of ``app`` answered as a problem."""

    def expected(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BitHiveError)
        return problem_of(error)

    def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_of(RequestMalformed(f"{where}: {first['type']}"))

    def by_framework(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return problem_of(NotHere())
        return problem_of(RequestMalformed(HTTPStatus(error.status_code).phrase.lower()))

    app.add_exception_handler(BitHiveError, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, by_framework)


class LimitedBodies:
    """Refuse a request before more than ``BODY_MAX`` bytes of it are in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, or refuse; what says that it is too long is not read at all."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared(scope) > BODY_MAX:
            await problem_of(RequestTooLarge())(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY_MAX:
                await problem_of(RequestTooLarge())(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


def _declared(scope: Scope) -> int:
    """Return how long a request says that it is; 0 where it does not say, or not in digits."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(one) for one in lengths if one.isdigit() and len(one) <= DIGITS_MAX), default=0)
