"""The officer's page over a desk: HTML and forms, no script, on loopback.

============================  ==================================================================
``GET /``                     the jobs, those that wait first
``GET /jobs/{job}``           one job with everything she decides on, and the buttons
``POST /jobs/{job}/approve``  approve; ``/refuse`` with a reason refuses or revokes
``GET /decisions``            the record of decisions, its chain checked
``GET /sign-in``, ``POST``    with a token; ``POST /sign-out``
============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from identity.roles import PermissionMissing
from portal.officer.desk import OfficerDesk
from portal.officer.signin import FormNotOurs, OfficerTokenRefused, Session, Sessions
from protocol.errors import BitHiveError
from protocol.jobs import moment_of

HERE: Final = Path(__file__).parent
COOKIE: Final = "bithive-officer"
BODY_MAX: Final = 8192
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
HOSTS: Final = ["127.0.0.1", "localhost", "[::1]"]
"""Whoever calls this server by another name was sent here by another page."""
TEMPLATES: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["time"] = lambda text: moment_of(text).strftime("%Y-%m-%d %H:%M UTC")
FORBIDDEN: Final = (PermissionMissing, FormNotOurs, OfficerTokenRefused)


def create_app(desk: OfficerDesk, sessions: Sessions) -> FastAPI:
    """Return the application over one hospital's desk."""
    app = FastAPI(title="BitHive, the officer's page", docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    _reading(app, desk, sessions)
    _deciding(app, desk, sessions)
    _signing_in(app, desk, sessions)

    @app.middleware("http")
    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Put the same headers on every answer."""
        response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(BitHiveError)
    async def refused(request: Request, error: Exception) -> Response:
        """Answer an expected error with a page that says it."""
        assert isinstance(error, BitHiveError)
        session = _session(request, sessions)
        status = HTTPStatus.FORBIDDEN if isinstance(error, FORBIDDEN) else HTTPStatus.CONFLICT
        shown = {"code": error.code, "words": str(error)}
        return _page("refused.html", desk, session, status=status, **shown)

    return app


def _reading(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.get("/")
    def jobs(request: Request) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        return _page("jobs.html", desk, session, jobs=desk.jobs())

    @app.get("/jobs/{job}")
    def job(request: Request, job: str) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        return _page("job.html", desk, session, job=desk.shown(desk.book.named(job)))

    @app.get("/decisions")
    def decisions(request: Request) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        return _page("decisions.html", desk, session, decisions=desk.decisions())

    @app.get("/static/officer.css")
    def style() -> Response:
        return FileResponse(HERE / "static" / "officer.css", media_type="text/css")


def _deciding(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.post("/jobs/{job}/approve")
    async def approve(request: Request, job: str) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        desk.approve(job, session.officer, form.get("reason", ""))
        return _see(f"/jobs/{desk.book.named(job).hash}")

    @app.post("/jobs/{job}/refuse")
    async def refuse(request: Request, job: str) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        desk.refuse(job, session.officer, form.get("reason", ""))
        return _see(f"/jobs/{desk.book.named(job).hash}")


def _signing_in(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.get("/sign-in")
    def ask() -> Response:
        return _page("sign-in.html", desk, None)

    @app.post("/sign-in")
    async def begin(request: Request) -> Response:
        token = (await _fields(request)).get("token", "")
        response = _see("/")
        response.set_cookie(
            COOKIE, sessions.begin(token), httponly=True, samesite="strict", path="/"
        )
        return response

    @app.post("/sign-out")
    async def end(request: Request) -> Response:
        session, _ = await _form(request, sessions)
        if session is not None:
            sessions.end(request.cookies.get(COOKIE, ""))
        response = _see("/sign-in")
        response.delete_cookie(COOKIE, path="/")
        return response


def serve(desk: OfficerDesk, sessions: Sessions, *, port: int) -> None:
    """Serve the page on loopback until interrupted."""
    uvicorn.run(
        create_app(desk, sessions),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
    )


async def _form(request: Request, sessions: Sessions) -> tuple[Session | None, dict[str, str]]:
    """Return who sent a form and its fields, once it is sure that the page gave her the form."""
    session = _session(request, sessions)
    if session is None:
        return None, {}
    fields = await _fields(request)
    session.check_form(fields.get("form", ""))
    return session, fields


async def _fields(request: Request) -> dict[str, str]:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > BODY_MAX:
            raise FormNotOurs
    try:
        read = parse_qs(content.decode(), strict_parsing=bool(content), max_num_fields=10)
    except ValueError as error:
        raise FormNotOurs from error
    return {name: values[0] for name, values in read.items()}


def _session(request: Request, sessions: Sessions) -> Session | None:
    return sessions.find(request.cookies.get(COOKIE, ""))


def _sign_in_first() -> Response:
    return _see("/sign-in")


def _see(place: str) -> RedirectResponse:
    return RedirectResponse(place, HTTPStatus.SEE_OTHER)


def _page(
    name: str,
    desk: OfficerDesk,
    session: Session | None,
    *,
    status: int = HTTPStatus.OK,
    **shown: Any,
) -> Response:
    form = "" if session is None else session.form
    who = "" if session is None else session.officer.shown
    text = TEMPLATES.get_template(name).render(site=desk.site, who=who, form=form, **shown)
    return HTMLResponse(text, status)
