"""The audit log over HTTP: batches in, heads and proofs out, cosignatures back.

Batches need the writer's token. Heads and proofs hold hashes alone and are open to everybody;
cosignatures are taken from the witnesses that the log knows, by their signatures. Records are read
by who is signed in and has the right to (``identity.roles``); a refusal of that is logged. Every
refusal is an RFC 9457 problem whose type ends in the error's code.

::

    POST /batches               records, one a line (canonical JSON); header Idempotency-Key
    GET  /checkpoint            ?size=N, ?cosigned_by=K; as a signed note
    GET  /proofs/inclusion      ?position=I&size=N
    GET  /proofs/consistency    ?old=M&size=N
    POST /cosignatures          a checkpoint with a witness's line
    POST /sessions              {"name", "password"}, of an account
    GET  /records               ?first=N&count=M; one a line, for auditors, operators and sites

A batch is parsed by ``audit.records`` and not by the framework, which would cost more than the log.

References:
    RFC 9457, "Problem Details for HTTP APIs". RFC 6750, "Bearer Token Usage". docs/audit.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from audit.checkpoints import AuditDamaged
from audit.cosignatures import CosignatureRefused, Cosignatures
from audit.log import AuditLog, EntryUnknown, EventRepeated, HeadUnknown
from audit.notes import NOTE_BYTES_MAX, NoteMalformed, NoteUnsigned
from audit.records import (
    BATCH_BYTES_MAX,
    BatchTooLarge,
    FactRefused,
    RecordMalformed,
    read_records,
)
from identity.accounts import Accounts, SessionEnded, SignInRefused
from identity.roles import Permission, PermissionMissing, check
from identity.throttle import SignInThrottled
from protocol.errors import BitHiveError, StorageError

KEY_CHARACTERS_MAX: Final = 200
SIZE_MAX: Final = 10**15
RECORDS_MAX: Final = 100
"""In one answer, so that it stays below 7 MB."""
CONNECTIONS_MAX: Final = 64
SWITCH_SECONDS: Final = 0.0005
STATUS: Final[dict[type[Exception], int]] = {
    RecordMalformed: 422,
    FactRefused: 422,
    NoteMalformed: 422,
    NoteUnsigned: 403,
    CosignatureRefused: 409,
    EventRepeated: 409,
    BatchTooLarge: 413,
    HeadUnknown: 404,
    EntryUnknown: 404,
    AuditDamaged: 503,
    SignInRefused: 401,
    SessionEnded: 401,
    PermissionMissing: 403,
    SignInThrottled: 429,
    StorageError: 503,
    BitHiveError: 400,
}
BEARER: Final = HTTPBearer()
Size = Annotated[int | None, Query(ge=0, le=SIZE_MAX)]


class Logged(BaseModel):
    """Where a batch stands in the log, and the head that was signed over it."""

    first: int
    count: int
    checkpoint: str


class SignInAsked(BaseModel):
    """Name and password of an account."""

    name: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=1024, repr=False)]


class SessionShown(BaseModel):
    """What to show with a request for records, and until when, in seconds since 1970."""

    token: str
    ends_at: int


class ProofShown(BaseModel):
    """Hashes in base64, in the order of RFC 6962, and the size of the head they lead to."""

    size: int
    hashes: list[str]


def audit_app(
    log: AuditLog,
    cosignatures: Cosignatures,
    *,
    token: str,
    accounts: Accounts | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return the application.

    Args:
        log: Whoever calls closes it.
        cosignatures: Of that log, with the witnesses whose lines are taken.
        token: The writers' secret, at least 32 characters. Serve it over TLS or on one machine.
        accounts: Whose people may sign in and read records; without, nobody reads them here.
        clock: Seconds since 1970.
    """
    app = FastAPI(title="BitHive audit log", docs_url=None, redoc_url=None)
    app.add_exception_handler(BitHiveError, problem)
    app.include_router(audit_router(log, cosignatures, token=token))
    if accounts is not None:
        app.include_router(_records_router(log, accounts, clock))
    return app


def audit_server(app: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """Return a server of the application, not yet running, for this process alone.

    Who waits for a proof takes turns with those who parse batches. Python's threads change every
    5 ms by default; a proof needs a dozen turns.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            server_header=False,
            ws="none",
            log_level="warning",
            limit_concurrency=CONNECTIONS_MAX,
        )
    )


def audit_router(log: AuditLog, cosignatures: Cosignatures, *, token: str) -> APIRouter:
    """Return the routes; arguments as of ``audit_app``."""
    router = APIRouter()
    _serve_writers(router, log, token)
    _serve_readers(router, log, cosignatures)
    return router


def problem(request: Request, error: Exception) -> JSONResponse:
    """Answer an expected error."""
    assert isinstance(error, BitHiveError)
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    body: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "status": status,
        "detail": str(error),
        "instance": request.url.path,
    }
    return JSONResponse(body, status, media_type="application/problem+json")


def _serve_writers(router: APIRouter, log: AuditLog, token: str) -> None:
    assert len(token) >= 32
    kept = hashlib.sha256(token.encode()).digest()

    async def writer(shown: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)]) -> None:
        # Of equal length and in constant time, so that an answer's delay tells nothing.
        if not hmac.compare_digest(hashlib.sha256(shown.credentials.encode()).digest(), kept):
            raise HTTPException(401, "this token is not a writer's")

    @router.post("/batches", dependencies=[Depends(writer)], status_code=201)
    async def append(
        request: Request,
        idempotency_key: Annotated[
            str | None, Header(min_length=1, max_length=KEY_CHARACTERS_MAX)
        ] = None,
    ) -> Logged:
        """Log a batch, or say where it was logged under its key; on the disk when answered."""
        body = await _read(request, BATCH_BYTES_MAX, BatchTooLarge)
        return await run_in_threadpool(_append, log, body, idempotency_key)


def _serve_readers(router: APIRouter, log: AuditLog, cosignatures: Cosignatures) -> None:
    @router.get("/checkpoint", response_class=PlainTextResponse)
    def checkpoint(size: Size = None, cosigned_by: Annotated[int, Query(ge=0, le=100)] = 0) -> str:
        """Return a head with all its signatures: the newest, or of a size."""
        return cosignatures.checkpoint(size, cosigned_by=cosigned_by).text()

    @router.get("/proofs/inclusion")
    def inclusion(
        position: Annotated[int, Query(ge=0, le=SIZE_MAX)], size: Size = None
    ) -> ProofShown:
        """Return the proof that a record is under a head."""
        end = log.head().size if size is None else size
        return _shown(end, log.inclusion_proof(position, end))

    @router.get("/proofs/consistency")
    def consistency(old: Annotated[int, Query(ge=0, le=SIZE_MAX)], size: Size = None) -> ProofShown:
        """Return the proof that a head goes on from an older one."""
        end = log.head().size if size is None else size
        return _shown(end, log.consistency_proof(old, end))

    @router.post("/cosignatures", response_class=PlainTextResponse)
    async def cosigned(request: Request) -> str:
        """Keep what a witness signed, and return the head with all its signatures."""
        body = await _read(request, NOTE_BYTES_MAX, lambda: NoteMalformed("it is too long"))
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise NoteMalformed("it is not UTF-8") from error
        head = await run_in_threadpool(cosignatures.accept, text)
        note = await run_in_threadpool(cosignatures.checkpoint, head.size)
        return note.text()


def _records_router(log: AuditLog, accounts: Accounts, clock: Callable[[], float]) -> APIRouter:
    router = APIRouter()

    @router.post("/sessions", status_code=201)
    def begin(request: Request, asked: SignInAsked) -> SessionShown:
        """Sign in; the token is shown as a bearer's for twelve hours, an hour when idle."""
        address = "" if request.client is None else request.client.host
        made = accounts.sign_in(asked.name, asked.password, address=address, now=clock())
        return SessionShown(token=made.token, ends_at=int(made.ends_at))

    @router.get("/records", response_class=PlainTextResponse)
    def records(
        shown: Annotated[HTTPAuthorizationCredentials, Depends(BEARER)],
        first: Annotated[int, Query(ge=0, le=SIZE_MAX)] = 0,
        count: Annotated[int, Query(ge=1, le=RECORDS_MAX)] = RECORDS_MAX,
    ) -> str:
        """Return records from a position on, one a line, as the tree hashes them."""
        actor = accounts.actor(shown.credentials, now=clock())
        check(actor, Permission.READ_AUDIT, audit=log.append)
        return "".join(f"{one.record}\n" for one in log.events(first, count))

    return router


def _append(log: AuditLog, body: bytes, key: str | None) -> Logged:
    made = log.append_records(read_records(body), key=key)
    note = made.head.note(log.public_key)
    return Logged(first=made.first, count=made.count, checkpoint=note.text())


async def _read(request: Request, most: int, refusal: Callable[[], BitHiveError]) -> bytes:
    """Return a request's body, or refuse before more than ``most`` bytes of it are in memory."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise refusal()
        parts.append(part)
    return b"".join(parts)


def _shown(size: int, hashes: Sequence[bytes]) -> ProofShown:
    return ProofShown(size=size, hashes=[base64.b64encode(one).decode() for one in hashes])
