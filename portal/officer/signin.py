"""How people of a hospital sign in to its page: with an account of the site, a name and a password.

The accounts are the site's own, in ``identity/accounts.db`` of its folder; what somebody may do on
the page is what ``identity.roles`` gives to her account's roles at this site.

What holds, each line a test in tests/portal/officer/test_signin.py:

1. Nobody is signed in without a password that fits, and nobody guesses faster than the throttle.
2. A session ends at its hour, when idle, when she signs out, and when her account is changed.
3. A form that does not carry its session's own value changes nothing.
4. An account of another site opens nothing here.
5. A page of another place signs nobody in and sends no form, whatever it knows.
6. A password is changed by who knows it, not by who finds a browser that is signed in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from identity.accounts import Accounts, SessionEnded, SignInRefused
from identity.passwords import Cost
from identity.roles import Actor, Denied
from protocol.errors import IdentityError
from protocol.ids import SiteId
from storage.files import private_folder

ACCOUNTS: Final = Path("identity/accounts.db")


class FormNotOurs(IdentityError):
    """A form was sent that this page did not give to this session."""

    code = "form-not-ours"

    def __init__(self) -> None:
        super().__init__("this form is not of this session; open the page again and decide there")


class PageForeign(IdentityError):
    """A form was sent by a page of another place."""

    code = "page-foreign"

    def __init__(self) -> None:
        super().__init__(
            "this form was sent by another page than ours; open the hospital's page itself and "
            "decide there"
        )


def site_accounts(folder: Path, audit: Denied, *, cost: Cost | None = None) -> Accounts:
    """Return the accounts in a site's folder; the caller closes them.

    Args:
        folder: The site's own.
        audit: The site's log.
        cost: Of a guess at a password.

    Raises:
        StorageError: The disk refused.
    """
    path = folder / ACCOUNTS
    private_folder(path.parent)
    return Accounts(path, audit=audit, cost=cost)


@dataclass(frozen=True)
class Session:
    """One signed-in person's; ``form`` is what her forms carry."""

    actor: Actor
    form: str = field(repr=False)

    def check_form(self, given: str) -> None:
        """Return if a form is of this session.

        Raises:
            FormNotOurs: It is not.
        """
        if not hmac.compare_digest(self.form.encode(), given.encode()):
            raise FormNotOurs


@dataclass(frozen=True)
class Sessions:
    """Who is signed in at one site's page."""

    accounts: Accounts
    site: SiteId
    clock: Callable[[], datetime]

    def begin(self, name: str, password: str, *, address: str) -> str:
        """Return the token of a new session.

        Raises:
            SignInThrottled: There were too many failures.
            SignInRefused: Name and password do not fit, or are another site's.
        """
        now = self.clock().timestamp()
        session = self.accounts.sign_in(name, password, address=address, now=now)
        if self.find(session.token) is None:
            self.accounts.sign_out(session.token)
            raise SignInRefused
        return session.token

    def find(self, token: str) -> Session | None:
        """Return whose session this is, while it lasts."""
        try:
            actor = self.accounts.actor(token, now=self.clock().timestamp())
        except SessionEnded:
            return None
        return Session(actor, _form_of(token)) if actor.site == self.site else None

    def change_password(self, session: Session, old: str, new: str, *, address: str) -> None:
        """Change the password of who is signed in; all of her sessions end.

        Raises:
            SignInThrottled, SignInRefused: As ``begin``, for the old one.
            PasswordUnfit: The new one would be guessed.
        """
        now = self.clock().timestamp()
        self.accounts.change_password(session.actor.name, old, new, address=address, now=now)

    def end(self, token: str) -> None:
        """Sign out."""
        self.accounts.sign_out(token)


def check_same_place(headers: Mapping[str, str]) -> None:
    """Return if a form may have been sent by a page of ours.

    A browser says where a request came from in a header that no page can write [1]; one that does
    not know that header says the origin. A program that is no browser says neither, and has no
    cookies of anybody.

    Args:
        headers: Of the request, by their names in small letters.

    Raises:
        PageForeign: The browser says that it was a page of another place.

    References:
        [1] W3C, Fetch Metadata Request Headers, section 2.3 (``Sec-Fetch-Site``).
    """
    said = headers.get("sec-fetch-site")
    if said is not None:
        if said not in {"same-origin", "none"}:
            raise PageForeign
        return
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise PageForeign


def _form_of(token: str) -> str:
    """Return what proves that a form was made for this session; it does not show the token."""
    return hmac.new(token.encode("utf-8", "surrogatepass"), b"form", hashlib.sha256).hexdigest()
