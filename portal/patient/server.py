"""Assemble the patient's page over a home, serve it on one port, and publish batches of grants.

Nothing is logged about who asks: no access log, no addresses. Errors that nobody expected are
logged by their type and the route, never with what was sent.

Grants are published by a task beside the server, which looks whether a batch is due, whatever
became of the last one: what waited over a crash or a full disk is published when it can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from consent.batching import GrantQueue
from consent.claims import ClaimBook, SmallGroups
from consent.enrolment import EnrolmentGroup
from consent.registry import Registry
from fl_server.store import ServerStore
from ledger.books import Ledger
from portal.books import NoRunHere
from portal.home import Home
from portal.patient.api import router
from portal.patient.desk import AT_ONCE, Desk
from portal.patient.limits import LimitedRates, Limits, granting_buckets
from portal.patient.mailbox import Mailbox
from portal.patient.page import HEADERS, assets, document, language_of
from portal.patient.problems import LimitedBodies, NotHere, answer_with_problems, problem_of
from portal.patient.sheet import StudySheet, read_sheet, study_view
from privacy.signatures import signing_key
from protocol.terms import StudyTerms
from zk import fast, groth16
from zk.semaphore import Verifier

CONNECTIONS_MAX: Final = 64
KEEP_ALIVE_SECONDS: Final = 5
BATCH: Final = timedelta(hours=1)
"""Between batches of grants, where the operator says nothing else."""
LOOK_SECONDS_MIN: Final = 0.05
LOOK_SECONDS: Final = 30.0
"""At most so long between looks whether a batch is due: a clock may be put right meanwhile."""
FOREVER: Final = "public, max-age=31536000, immutable"
log = logging.getLogger("bithive.patient")


def open_desk(home: Home, *, clock: Callable[[], datetime], batch: timedelta = AT_ONCE) -> Desk:
    """Return the desk over a home's server folder.

    Args:
        home: Of the server.
        clock: Gives times with a time zone.
        batch: How long grants are gathered before they are published together.

    Raises:
        NoRunHere: The home has no study and registry.
        StorageError: A database cannot be used.
    """
    folder = home.server
    terms = read_terms(home)
    registry = Registry(
        folder / "registry.db",
        registry_id=terms.consent.registry,
        signing_key=signing_key(folder / "registry.key"),
    )
    queue = GrantQueue(
        folder / "queue.db", registry, interval=batch, shuffle=random.SystemRandom().shuffle
    )
    if batch != AT_ONCE:
        queue.begin(now=clock())
    store, books = folder / "server.db", home.market / "ledger.db"
    return Desk(
        terms=terms,
        registry=registry,
        queue=queue,
        group=open_group(home, terms),
        # Small groups are told so on the page.
        claims=ClaimBook(
            folder / "claims.db", registry=terms.consent.registry, small_groups=SmallGroups.WARN
        ),
        mailbox=Mailbox(folder / "mailbox.db"),
        rounds=ServerStore(store) if store.is_file() else None,
        verifier=best_verifier(),
        clock=clock,
        books=Ledger(books) if books.is_file() else None,
    )


def read_terms(home: Home) -> StudyTerms:
    """Return the terms of the study that lives in a home.

    Raises:
        NoRunHere: There is none.
    """
    folder = home.server
    if not all((folder / name).is_file() for name in ("terms.json", "registry.db", "registry.key")):
        raise NoRunHere(home.path)
    return StudyTerms.model_validate_json((folder / "terms.json").read_bytes())


def open_group(home: Home, terms: StudyTerms) -> EnrolmentGroup:
    """Return the enrolment group of a home, in which the study's hospitals enrol."""
    keys = {one.site: one.signing_key for one in terms.sites}
    return EnrolmentGroup(home.server / "enrolment.db", keys)


def best_verifier() -> Verifier:
    """Return the fast verifier where its library is installed, else the reference."""
    return fast.verify if fast.available() else groth16.verify


def utc_now() -> datetime:
    """Return the time by the machine's clock."""
    return datetime.now(UTC)


def create_app(desk: Desk, sheet: StudySheet, *, limits: Limits | None = None) -> FastAPI:
    """Return the application over a desk.

    Args:
        desk: What it opens to the outside.
        sheet: What the operator says of the study.
        limits: How often an address may ask; None where somebody in front of it counts.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Publish batches while the server lives; a batch that has begun is finished."""
        stop = asyncio.Event()
        task = asyncio.create_task(publish_batches(desk, stop, look_seconds=LOOK_SECONDS))
        yield
        stop.set()
        await task

    app = FastAPI(
        title="BitHive, the patient's page", docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.desk = desk
    app.state.sheet = sheet
    app.include_router(router)
    _serve_page(app, desk, sheet)
    answer_with_problems(app)
    app.add_middleware(LimitedBodies)
    if limits is not None:
        app.add_middleware(LimitedRates, limits=limits, refuse=problem_of)

    @app.middleware("http")
    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Put the same headers on every answer, and answer what nobody expected."""
        try:
            response = await call_next(request)
        except Exception as error:  # noqa: BLE001 - the last door: log the type, tell nothing
            log.error("%s in %s", type(error).__name__, request.scope.get("route"))  # noqa: TRY400 - a traceback may quote what was sent
            response = JSONResponse(
                {"type": "/problems/internal", "code": "internal", "status": 500},
                500,
                media_type="application/problem+json",
            )
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return app


async def publish_batches(desk: Desk, stop: asyncio.Event, *, look_seconds: float) -> None:
    """Publish every batch when it is due, until stopped; no error ends it.

    Args:
        desk: Whose grants.
        stop: Set to end.
        look_seconds: At most so long between looks.
    """
    while not stop.is_set():
        try:
            seconds = await asyncio.to_thread(_publish, desk)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next batch may succeed
            log.error("%s while a batch was published", type(error).__name__)  # noqa: TRY400 - a traceback may quote what was sent
            seconds = look_seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(seconds, look_seconds))


def _publish(desk: Desk) -> float:
    """Publish a batch if it is due, and return how many seconds there are to the next."""
    desk.publish_due()
    if desk.queue.interval == AT_ONCE:
        return LOOK_SECONDS
    now = desk.clock()
    return max((desk.queue.due(now=now) - now).total_seconds(), LOOK_SECONDS_MIN)


def serve(
    path: Path,
    *,
    host: str,
    port: int,
    limits: Limits | None = None,
    batch: timedelta = BATCH,
) -> None:
    """Serve the page of the home at ``path`` until interrupted.

    Args:
        path: The server's home.
        host: Address to listen on.
        port: TCP port.
        limits: How often an address or a person may ask; None for the usual ones.
        batch: How long grants are gathered before they are published together.

    Raises:
        NoRunHere: The home has no study and registry.
        StudySheetInvalid, StorageError: Something in it cannot be used.
    """
    home = Home(path)
    limits = limits or Limits()
    desk = open_desk(home, clock=utc_now, batch=batch)
    desk.granting = granting_buckets(limits)
    app = create_app(desk, read_sheet(home.server / "study-sheet.json"), limits=limits)
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        proxy_headers=False,  # whose word counts is for ``limits`` to say
        server_header=False,
        ws="none",
        log_level="warning",
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


def _serve_page(app: FastAPI, desk: Desk, sheet: StudySheet) -> None:
    files = assets()
    for asset in files.values():
        asset.packed  # noqa: B018 - now, so that no visitor waits for it

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request) -> HTMLResponse:
        """Return the page, in the browser's language."""
        language = language_of(request.headers.get("accept-language", ""))
        return HTMLResponse(document(study_view(desk, sheet), files, language))

    @app.get("/files/{digest}/{name}")
    def file(digest: str, name: str, request: Request) -> Response:
        """Return one of the page's files."""
        asset = files.get(name)
        if asset is None or asset.address != f"/files/{digest}/{name}":
            raise NotHere
        headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
        small = asset.packed
        if small is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(small, media_type=asset.media_type, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)
