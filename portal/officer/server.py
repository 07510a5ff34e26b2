"""The officer's page over a desk: HTML and forms, no script, on loopback.

============================  ==================================================================
``GET /``                     the jobs, those that wait first
``GET /jobs/{job}``           one job with everything she decides on, and the buttons
``GET /jobs/{job}/code``      the code it brings along, a zip of sources
``POST /jobs/{job}/approve``  approve; ``/refuse`` with a reason refuses or revokes
``GET /decisions``            the record of decisions, checked under the log's signed head
``GET /duty``                 whether the site takes part
``POST /duty/{order}``        pause, resume, drain; leave, after the site's name was typed
``GET /sign-in``, ``POST``    with name and password; ``POST /sign-out``
``GET /password``, ``POST``   change one's own password, which ends one's sessions
============================  ==================================================================

Who may do what is decided in the desk and below it; a page leaves out the buttons of acts that are
not hers only so that she is not led on. A form that a page of another place sent changes nothing
and signs nobody in.
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
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fl_client.duty import Order
from identity.accounts import SignInRefused
from identity.passwords import CHARACTERS_MIN, PasswordUnfit
from identity.roles import PermissionMissing, Role
from identity.throttle import SignInThrottled
from portal.officer.desk import OfficerDesk
from portal.officer.signin import FormNotOurs, PageForeign, Session, Sessions, check_same_place
from protocol.errors import BitHiveError, ConfigurationError
from protocol.jobs import moment_of

HERE: Final = Path(__file__).parent
COOKIE: Final = "bithive-officer-"
"""Then the site: cookies know no ports, and one machine may serve the pages of several."""
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
STATUS: Final[Mapping[type[BitHiveError], HTTPStatus]] = {
    PermissionMissing: HTTPStatus.FORBIDDEN,
    FormNotOurs: HTTPStatus.FORBIDDEN,
    PageForeign: HTTPStatus.FORBIDDEN,
    SignInRefused: HTTPStatus.FORBIDDEN,
    SignInThrottled: HTTPStatus.TOO_MANY_REQUESTS,
    BitHiveError: HTTPStatus.CONFLICT,
}


class LeaveUnconfirmed(ConfigurationError):
    """The site was to leave, and its name was not typed to confirm it."""

    code = "leave-unconfirmed"

    def __init__(self, site: str) -> None:
        super().__init__(
            f"the hospital leaves only when its name is typed as it is written here: {site}"
        )


class PasswordsDiffer(ConfigurationError):
    """A new password was typed in two ways."""

    code = "passwords-differ"

    def __init__(self) -> None:
        super().__init__("the new password was typed in two ways; type it twice alike")


def create_app(desk: OfficerDesk, sessions: Sessions) -> FastAPI:
    """Return the application over one hospital's desk."""
    app = FastAPI(title="BitHive, the officer's page", openapi_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    _reading(app, desk, sessions)
    _reading_code(app, desk, sessions)
    _deciding(app, desk, sessions)
    _stopping(app, desk, sessions)
    _signing_in(app, desk, sessions)
    _changing_password(app, desk, sessions)

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
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        if isinstance(error, SignInRefused | SignInThrottled):
            shown = {"problem": str(error), "changed": False}
            return _page("sign-in.html", desk, session, status=status, **shown)
        shown = {"code": error.code, "words": str(error)}
        return _page("refused.html", desk, session, status=status, **shown)

    return app


def _reading(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.get("/")
    def jobs(request: Request) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        jobs, standing = desk.jobs(session.actor), desk.standing(session.actor)
        return _page("jobs.html", desk, session, jobs=jobs, standing=standing)

    @app.get("/jobs/{job}")
    def job(request: Request, job: str) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        return _page("job.html", desk, session, job=desk.job(job, session.actor))

    @app.get("/decisions")
    def decisions(request: Request) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        found = desk.decisions(session.actor)
        head = desk.checkpoint()
        return _page("decisions.html", desk, session, decisions=found, checkpoint=head)

    @app.get("/duty")
    def duty(request: Request) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        return _page("duty.html", desk, session, standing=desk.standing(session.actor))

    @app.get("/static/officer.css")
    def style() -> Response:
        return FileResponse(HERE / "static" / "officer.css", media_type="text/css")


def _reading_code(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.get("/jobs/{job}/code")
    def code(request: Request, job: str) -> Response:
        session = _session(request, sessions)
        if session is None:
            return _sign_in_first()
        named = {"Content-Disposition": 'attachment; filename="code.zip"'}
        return Response(desk.code(job, session.actor), media_type="application/zip", headers=named)


def _deciding(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.post("/jobs/{job}/approve")
    async def approve(request: Request, job: str) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        desk.approve(job, session.actor, form.get("reason", ""))
        return _see(f"/jobs/{desk.book.named(job).hash}")

    @app.post("/jobs/{job}/refuse")
    async def refuse(request: Request, job: str) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        desk.refuse(job, session.actor, form.get("reason", ""))
        return _see(f"/jobs/{desk.book.named(job).hash}")


def _stopping(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.post("/duty/{order}")
    async def say(request: Request, order: Order) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        if order == "leave" and form.get("site", "").strip() != desk.site:
            raise LeaveUnconfirmed(desk.site)
        reason = form.get("reason", "")
        await run_in_threadpool(desk.order, order, session.actor, reason)
        return _see("/duty")


def _signing_in(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    @app.get("/sign-in")
    def ask() -> Response:
        return _page("sign-in.html", desk, None, problem="", changed=False)

    @app.post("/sign-in")
    async def begin(request: Request) -> Response:
        check_same_place(request.headers)  # nobody is signed in, or tried, by a page elsewhere
        fields = await _fields(request)
        name, password = fields.get("name", "").strip(), fields.get("password", "")
        address = "" if request.client is None else request.client.host
        # A guess costs a third of a second of work; nobody else waits for it.
        token = await run_in_threadpool(sessions.begin, name, password, address=address)
        response = _see("/")
        response.set_cookie(COOKIE + desk.site, token, httponly=True, samesite="strict", path="/")
        return response

    @app.post("/sign-out")
    async def end(request: Request) -> Response:
        session, _ = await _form(request, sessions)
        if session is not None:
            sessions.end(request.cookies.get(COOKIE + desk.site, ""))
        response = _see("/sign-in")
        response.delete_cookie(COOKIE + desk.site, path="/")
        return response


def _changing_password(app: FastAPI, desk: OfficerDesk, sessions: Sessions) -> None:
    def shown(session: Session, problem: str = "", status: int = HTTPStatus.OK) -> Response:
        words = {"problem": problem, "characters": CHARACTERS_MIN}
        return _page("password.html", desk, session, status=status, **words)

    @app.get("/password")
    def ask(request: Request) -> Response:
        session = _session(request, sessions)
        return _sign_in_first() if session is None else shown(session)

    @app.post("/password")
    async def change(request: Request) -> Response:
        session, form = await _form(request, sessions)
        if session is None:
            return _sign_in_first()
        address = "" if request.client is None else request.client.host
        old = form.get("old", "")
        try:
            new = _typed_twice(form)
            await run_in_threadpool(sessions.change_password, session, old, new, address=address)
        except SignInRefused:
            problem = "the current password does not fit; type it again, or have it reset"
            return shown(session, problem, HTTPStatus.FORBIDDEN)
        except SignInThrottled as error:
            return shown(session, str(error), HTTPStatus.TOO_MANY_REQUESTS)
        except (PasswordsDiffer, PasswordUnfit) as error:
            return shown(session, str(error), HTTPStatus.CONFLICT)
        # Shown at once: a page that was told by its address could be told so by a link elsewhere.
        response = _page("sign-in.html", desk, None, problem="", changed=True)
        response.delete_cookie(COOKIE + desk.site, path="/")
        return response


def serve(desk: OfficerDesk, sessions: Sessions, *, port: int) -> None:
    """Serve the page on loopback until interrupted."""
    uvicorn.Server(configured(create_app(desk, sessions), port=port)).run()


def configured(app: FastAPI, *, port: int) -> uvicorn.Config:
    """Return how the page is served."""
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        # Every caller is on loopback, so none is believed when it says for whom it calls: else
        # each guess at a password could come from an address of its own.
        proxy_headers=False,
        ws="none",
        server_header=False,
    )


async def _form(request: Request, sessions: Sessions) -> tuple[Session | None, dict[str, str]]:
    """Return who sent a form and its fields, once it is sure that the page gave her the form."""
    check_same_place(request.headers)
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


def _typed_twice(form: Mapping[str, str]) -> str:
    new = form.get("new", "")
    if new != form.get("again", ""):
        raise PasswordsDiffer
    return new


def _session(request: Request, sessions: Sessions) -> Session | None:
    return sessions.find(request.cookies.get(COOKIE + sessions.site, ""))


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
    who = "" if session is None else session.actor.shown
    decides = session is not None and Role.OFFICER in session.actor.roles
    known = {"site": desk.site, "who": who, "form": form, "decides": decides}
    text = TEMPLATES.get_template(name).render(**known, **shown)
    return HTMLResponse(text, status)
