"""How an officer signs in: with a token that her hospital's administrator made for her.

The token is printed once; the site's folder keeps its SHA-256, whose it is and until when. A
session begins with it and ends with it, with the browser, after eight hours, or when the server
stops.

What holds, each line a test in tests/portal/test_officer_page.py:

1. A token that is unknown, expired or withdrawn opens nothing, and keeps no session open.
2. A form that does not carry its session's own value changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from identity.roles import Actor, Role
from protocol.errors import IdentityError, storage_error
from protocol.ids import SiteId
from protocol.jobs import instant, moment_of
from storage.files import PRIVATE, write_whole

TOKEN_DAYS: Final = 30
SESSION: Final = timedelta(hours=8)
SESSIONS_MAX: Final = 64


class OfficerTokenRefused(IdentityError):
    """Somebody came to the officer's page without a token that holds."""

    code = "officer-token-refused"

    def __init__(self) -> None:
        super().__init__(
            "this token does not open the officer's page; ask the administrator for a new one "
            "(`bithive site officer-token`)"
        )


class FormNotOurs(IdentityError):
    """A form was sent that this page did not give to this session."""

    code = "form-not-ours"

    def __init__(self) -> None:
        super().__init__("this form is not of this session; open the job again and decide there")


@dataclass(frozen=True)
class OfficerTokens:
    """The tokens of one site's officers, in a file of mode 0600."""

    path: Path
    site: SiteId

    def make(self, who: str, *, now: datetime, days: int = TOKEN_DAYS) -> str:
        """Return a new token for an officer; an earlier one of hers ends."""
        token = secrets.token_urlsafe(32)
        kept = [one for one in self._kept() if one["who"] != who]
        until = instant(now + timedelta(days=days))
        kept.append({"who": who, "sha256": _hash(token), "until": until})
        write_whole(self.path, json.dumps(kept, indent=2).encode(), mode=PRIVATE)
        return token

    def officer(self, token: str, *, now: datetime) -> Actor:
        """Return whose token this is.

        Raises:
            OfficerTokenRefused: Nobody's, or it has ended.
        """
        found = self._of(_hash(token.strip()), now)
        if found is None:
            raise OfficerTokenRefused
        return Actor(found["who"], frozenset({Role.OFFICER}), site=self.site)

    def holds(self, sha256: str, *, now: datetime) -> bool:
        """Say whether the token of this hash still opens the page."""
        return self._of(sha256, now) is not None

    def _of(self, sha256: str, now: datetime) -> dict[str, Any] | None:
        for one in self._kept():
            if hmac.compare_digest(one["sha256"], sha256) and now < moment_of(one["until"]):
                return one
        return None

    def _kept(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads(self.path.read_bytes())) if self.path.is_file() else []
        except OSError as error:
            raise storage_error(error, self.path.name) from error


@dataclass(frozen=True)
class Session:
    """One signed-in officer's; ``form`` is what her forms carry, ``token`` the hash of hers."""

    officer: Actor
    form: str
    until: datetime
    token: str

    def check_form(self, given: str) -> None:
        """Return if a form is of this session.

        Raises:
            FormNotOurs: It is not.
        """
        if not hmac.compare_digest(self.form.encode(), given.encode()):
            raise FormNotOurs


@dataclass
class Sessions:
    """Who is signed in, in memory alone."""

    tokens: OfficerTokens
    clock: Callable[[], datetime]
    _open: dict[str, Session] = field(default_factory=dict)

    def begin(self, token: str) -> str:
        """Return the name of a new session.

        Raises:
            OfficerTokenRefused: The token does not hold.
        """
        now = self.clock()
        officer = self.tokens.officer(token, now=now)
        self._open = {name: one for name, one in self._open.items() if now < one.until}
        while len(self._open) >= SESSIONS_MAX:
            self._open.pop(next(iter(self._open)))
        name, form = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._open[name] = Session(officer, form, now + SESSION, _hash(token.strip()))
        return name

    def find(self, name: str) -> Session | None:
        """Return the session of this name while it lasts, and the token that began it."""
        found, now = self._open.get(name), self.clock()
        if found is None or now >= found.until or not self.tokens.holds(found.token, now=now):
            return None
        return found

    def end(self, name: str) -> None:
        """Sign out."""
        self._open.pop(name, None)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
