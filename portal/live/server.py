"""Serve a run's live page and its events on loopback: two addresses, all of them for reading.

``GET /runs/RUN`` is the page, ``GET /runs/RUN/events`` the stream; ``now`` stands for the id of the
run that the home holds. Another run in the home has another id, and the old one's address ends.

What holds (tests/portal/test_live_server.py):

1. Only GET and HEAD do anything, and only for the machine's own names: a page of another site that
   points its name here gets nothing.
2. A slow reader holds up nobody, and there are at most ``READERS_MAX`` at a time.
3. Nothing is logged about who asks.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portal.home import Home
from portal.live.page import POLICY, assets, document
from portal.live.source import HomeSource
from portal.live.stream import BATCH, EventStream, Pace, follow, is_over, position_of
from portal.live.view import View
from portal.live.wording import LANGUAGES
from portal.patient.page import HEADERS, language_of
from protocol.errors import BitHiveError, ConfigurationError, FederationError

LOOPBACK: Final = "127.0.0.1"
HOSTS: Final = ("127.0.0.1", "localhost")
READERS_MAX: Final = 64
CONNECTIONS_MAX: Final = 2 * READERS_MAX
NOW: Final = "now"
FOREVER: Final = "public, max-age=31536000, immutable"
RETRY_AFTER_SECONDS: Final = 5
log = logging.getLogger("bithive.live")


class RunUnknown(ConfigurationError):
    """The home holds no run of this id."""

    code = "live-run-unknown"

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(
            f"there is no run {run} here; it was begun anew or is not founded yet, open /runs/now"
        )


class TooManyReaders(FederationError):
    """As many follow a run as may at a time."""

    code = "too-many-readers"

    def __init__(self) -> None:
        super().__init__(
            f"{READERS_MAX} readers follow this run already; try again in {RETRY_AFTER_SECONDS} s"
        )


@dataclass
class Watched:
    """A home as its server sees it: the source, and the view folded so far."""

    source: HomeSource
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    stop: Callable[[], bool] = lambda: False
    readers: int = 0
    _view: View = field(default_factory=View)
    _run: str | None = None
    _lock: Lock = field(default_factory=Lock)

    def check(self, run: str) -> None:
        """See that an address is of the run that is here.

        Raises:
            RunUnknown: It is not.
        """
        if run not in {NOW, self.source.run()}:
            raise RunUnknown(run)

    def view(self) -> View:
        """Return the run as it stands.

        Raises:
            StorageError: Its events cannot be read.
        """
        with self._lock:
            if self.source.run() != self._run:
                self._run, self._view = self.source.run(), View()
            while events := self.source.since(self._view.position, limit=BATCH):
                self._view = self._view.all_after(events)
            return self._view

    async def frames(self, after: int) -> AsyncGenerator[bytes, None]:
        """Yield what a reader is sent, and count it while it stays."""
        self.readers += 1
        try:
            async with aclosing(
                follow(self.source, after, stop=self.stop, pace=self.pace)
            ) as frames:
                async for one in frames:
                    yield one
        finally:
            self.readers -= 1


def create_app(watched: Watched) -> FastAPI:
    """Return the application over a home."""
    app = FastAPI(
        title="BitHive, a run as it happens", docs_url=None, redoc_url=None, openapi_url=None
    )
    files = assets()

    @app.get("/")
    def root() -> RedirectResponse:
        """Lead to the run that is here."""
        return RedirectResponse(f"/runs/{watched.source.run() or NOW}", 307)

    @app.get("/runs/{run}", response_class=HTMLResponse)
    def page(run: str, request: Request, language: str = "") -> Response:
        """Return the page as it stands."""
        here = watched.source.run()
        if run == NOW and here is not None:
            return RedirectResponse(f"/runs/{here}", 307)
        watched.check(run)
        spoken = language_of(request.headers.get("accept-language", ""))
        terms = watched.source.terms()
        return HTMLResponse(
            document(
                watched.view(),
                study=run if terms is None else terms.study,
                events=f"/runs/{run}/events",
                language=language if language in LANGUAGES else spoken,
                now=watched.clock(),
            )
        )

    @app.get("/runs/{run}/events")
    def events(run: str, request: Request, after: str = "0") -> Response:
        """Send what happened after the reader's last event, then what happens."""
        watched.check(run)
        position = position_of(request.headers.get("last-event-id", after))
        if is_over(watched.source, position):
            return Response(status_code=204)
        if watched.readers >= READERS_MAX:
            raise TooManyReaders
        return EventStream(watched.frames(position), stalled_seconds=watched.pace.stalled)

    @app.get("/files/{digest}/{name}")
    def file(digest: str, name: str) -> Response:
        """Return one of the page's files."""
        asset = files.get(name)
        if asset is None or asset.address != f"/files/{digest}/{name}":
            return Response(status_code=404)
        return Response(
            asset.content, media_type=asset.media_type, headers={"Cache-Control": FOREVER}
        )

    @app.exception_handler(BitHiveError)
    def expected(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BitHiveError)
        statuses: dict[type[BitHiveError], int] = {RunUnknown: 404, TooManyReaders: 503}
        return _problem(error, statuses.get(type(error), 503))

    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
    return app


class Guard:
    """Put the same headers on every answer, and log what nobody expected by its type alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        policy = {**HEADERS, "Content-Security-Policy": POLICY}
        self._headers = [(key.lower().encode(), value.encode()) for key, value in policy.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a stream stays a stream."""
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                held = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *self._headers]
                if b"cache-control" not in held:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001 - the last door: log the type, tell nothing
            log.error("%s in %s", type(error).__name__, scope.get("path"))  # noqa: TRY400 - a traceback may quote what was read
            if not begun and scope["type"] == "http":
                body = {"type": "/problems/internal", "code": "internal", "status": 500}
                answer = JSONResponse(body, 500, media_type="application/problem+json")
                await answer(scope, receive, guarded)


def serve(path: Path, *, port: int, told: Callable[[str], None], host: str = LOOPBACK) -> None:
    """Serve the run of the home at ``path`` until interrupted.

    Args:
        path: The home.
        port: TCP port; 0 for a free one.
        told: Is given the address once it is open.
        host: Of this machine.

    Raises:
        NoRunHere: There is no run.
        StorageError: It cannot be read.
    """
    watched = Watched(HomeSource(Home(path)))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(watched),
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            log_level="critical",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=5,
        )
    )
    watched.stop = lambda: server.should_exit
    with listening(host, port, stalled_seconds=watched.pace.stalled) as door:
        told(f"http://{host}:{door.getsockname()[1]}/")
        server.run(sockets=[door])


def listening(host: str, port: int, *, stalled_seconds: float) -> socket.socket:
    """Return a socket whose connections the system ends when their reader takes nothing for long.

    References:
        tcp(7), TCP_USER_TIMEOUT: also of a connection whose peer keeps its window closed.
    """
    door = socket.create_server((host, port))
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * stalled_seconds))
    return door


def _problem(error: BitHiveError, status: int) -> JSONResponse:
    """Answer as RFC 9457 problem details."""
    body = {"type": f"/problems/{error.code}", "code": error.code, "detail": str(error)}
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return JSONResponse(
        body | {"status": status}, status, headers, media_type="application/problem+json"
    )
