"""Local accounts: people with a password, what they are, and their sessions.

For a federation without a directory of its own people; OpenID Connect and security keys (WebAuthn)
are not here yet. A password is all there is, so it must be long (``identity.passwords``) and is
tried slowly (``identity.throttle``).

    >>> from identity.roles import unrecorded
    >>> operator = Actor("operator", frozenset({Role.OPERATOR}))
    >>> accounts = Accounts(Path(getfixture("tmp_path")) / "accounts.db", audit=unrecorded,
    ...                     cost=Cost(iterations=1, lanes=1, memory_kib=64))
    >>> accounts.add("r.west", "four long plain words", roles={Role.RESEARCHER}, actor=operator)
    >>> session = accounts.sign_in("r.west", "four long plain words", address="192.0.2.7", now=0.0)
    >>> accounts.actor(session.token, now=60.0).roles
    frozenset({<Role.RESEARCHER: 'researcher'>})
    >>> accounts.close()

What holds, each line a test in tests/identity/test_accounts.py:

1. A wrong password, a name that nobody has and an account that was disabled are refused in the same
   words, after the same work.
2. A session ends at its hour, when it lies idle, when it is left, when the password changes, and
   when the account is disabled.
3. The database holds no password and no token.
4. Nobody signs in faster than the throttle allows, from many threads either.
5. Every guess that was refused is recorded, of whom and from where, and never what was typed.
6. Whoever manages the accounts of a site alone gives no role that she has not herself, and touches
   nobody who has more.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, delete, insert, select, update

from identity.account_tables import PEOPLE, SESSIONS, deciding, open_tables
from identity.passwords import (
    Cost,
    PasswordWrong,
    check_password,
    hash_password,
    verify_password,
)
from identity.roles import About, Actor, Denied, Permission, Role, check
from identity.throttle import count_attempt, forgive
from protocol.errors import IdentityError
from protocol.ids import AccountId, SiteId
from protocol.plain import plain
from storage.database import reading

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?")
SESSION_SECONDS: Final = 12 * 3600.0
IDLE_SECONDS: Final = 3600.0
_NOTED_SECONDS: Final = 60.0
"""A session's last use is noted to the minute, so that reading a page rarely writes."""
_TOKEN_BYTES: Final = 32


class SignInRefused(IdentityError):
    """Name and password do not belong to an account that may sign in."""

    code = "sign-in-refused"

    def __init__(self) -> None:
        super().__init__(
            "name and password do not fit; type them again, or ask the operator for a new password"
        )


class SessionEnded(IdentityError):
    """A session is over, or never was."""

    code = "session-ended"

    def __init__(self) -> None:
        super().__init__("the session is over; sign in again")


class AccountUnfit(IdentityError):
    """An account would be made under a name, role or place that cannot be."""

    code = "account-unfit"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the account cannot be: {why}")


@dataclass(frozen=True)
class Session:
    """What a signed-in browser holds, and until when."""

    token: str = field(repr=False)
    ends_at: float


@dataclass(frozen=True)
class Person:
    """One account, without its secrets."""

    name: str
    roles: frozenset[Role]
    site: SiteId | None
    disabled: bool


class Accounts:
    """The accounts in one database; safe for threads and processes.

    Args:
        where: A file, made with mode 0600 if need be; or an engine of ``storage``.
        audit: The audit log's ``append``; told of accounts made, changed, disabled and of refusals,
            those to sign in among them, but for those that only came too early.
        cost: Of a guess at a password.
        entropy: Gives so many random bytes, for salts and tokens.

    Raises:
        DatabaseDamaged, DiskFull, StorageFailed: As ``storage.database``; so may every method.
    """

    def __init__(
        self,
        where: Path | Engine,
        *,
        audit: Denied,
        cost: Cost | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._engine = open_tables(where)
        self._audit = audit
        self._cost = cost or Cost()
        self._entropy = entropy
        # Looked at for names that nobody has, so that they take as long as others.
        self._nobodys = hash_password(entropy(16).hex(), cost=self._cost, entropy=entropy)

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def add(
        self,
        name: str,
        password: str,
        *,
        roles: Iterable[Role],
        actor: Actor,
        site: SiteId | None = None,
        account: AccountId | None = None,
    ) -> None:
        """Make an account.

        Args:
            name: 1 to 64 lower-case letters, digits, ``. _ @ -``; for a patient a pseudonym.
            password: The first one.
            roles: What she is; machines have certificates instead.
            actor: Who makes it.
            site: Her hospital; a steward or officer has one.
            account: Hers in the books.

        Raises:
            PermissionMissing: The actor may not.
            AccountUnfit: The name is taken or none, or a role lacks what it is for.
            PasswordUnfit: The password would be guessed.
        """
        given = frozenset(roles)
        self._may(actor, given, site)
        _check_fit(name, given, site)
        check_password(password, name=name)
        kept = hash_password(password, cost=self._cost, entropy=self._entropy)
        row = {
            "name": name,
            "password": kept,
            "roles": " ".join(sorted(given)),
            "site": site,
            "account": account,
            "disabled": 0,
        }
        with deciding(self._engine, PEOPLE) as connection:
            known = connection.execute(select(PEOPLE.c.name).where(PEOPLE.c.name == name)).first()
            if known is not None:
                raise AccountUnfit(f"the name {name} is taken; choose another")
            connection.execute(insert(PEOPLE), row)
        self._audit("account-made", _facts(name, given, actor))

    def reset_password(self, name: str, password: str, *, actor: Actor) -> None:
        """Give an account another password; its sessions end.

        Raises:
            PermissionMissing: The actor may not.
            AccountUnfit: There is no such account.
            PasswordUnfit: The password would be guessed.
        """
        roles = self._may_change(name, actor)
        self._change_password(name, password)
        self._audit("password-reset", _facts(name, roles, actor))

    def change_password(self, name: str, old: str, new: str, *, address: str, now: float) -> None:
        """Let somebody change her own password; all of her sessions end.

        Raises:
            SignInThrottled, SignInRefused: As ``sign_in``, for the old one.
            PasswordUnfit: The new one would be guessed.
        """
        self._prove(name, old, address, now)
        self._change_password(name, new)
        self._audit("password-changed", {"account": self._shown(name)})

    def disable(self, name: str, *, actor: Actor) -> None:
        """Let an account sign in no more; its sessions end.

        Raises:
            PermissionMissing: The actor may not.
            AccountUnfit: There is no such account.
        """
        roles = self._may_change(name, actor)
        with deciding(self._engine, PEOPLE) as connection:
            connection.execute(update(PEOPLE).where(PEOPLE.c.name == name).values(disabled=1))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.name == name))
        self._audit("account-disabled", _facts(name, roles, actor))

    def people(self, actor: Actor, *, site: SiteId | None = None) -> list[Person]:
        """Return the accounts of one site, or all of them, by name.

        Raises:
            PermissionMissing: The actor may not.
        """
        check(actor, Permission.MANAGE_ACCOUNTS, about=About(site=site), audit=self._audit)
        wanted = select(PEOPLE).order_by(PEOPLE.c.name)
        if site is not None:
            wanted = wanted.where(PEOPLE.c.site == site)
        with reading(self._engine) as connection:
            return [_person(row) for row in connection.execute(wanted)]

    def sign_in(self, name: str, password: str, *, address: str, now: float) -> Session:
        """Begin a session of twelve hours.

        Args:
            name: As typed.
            password: As typed.
            address: Where from, as the door knows it.
            now: Seconds since 1970.

        Raises:
            SignInThrottled: There were too many failures; nothing was looked at.
            SignInRefused: They do not fit.
        """
        kept = self._prove(name, password, address, now)
        token = self._entropy(_TOKEN_BYTES).hex()
        row = {
            "token": _hashed(token),
            "name": name,
            "made_at": now,
            "used_at": now,
            "ends_at": now + SESSION_SECONDS,
        }
        with deciding(self._engine, PEOPLE) as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.ends_at <= now))
            # Meanwhile she may have been disabled, or have changed her password.
            own = PEOPLE.c.name == name, PEOPLE.c.password == kept, PEOPLE.c.disabled == 0
            is_live = connection.execute(select(PEOPLE).where(*own)).first() is not None
            if is_live:
                connection.execute(insert(SESSIONS), row)
        if not is_live:
            raise SignInRefused
        return Session(token, now + SESSION_SECONDS)

    def actor(self, token: str, *, now: float) -> Actor:
        """Return who holds a session's token.

        Raises:
            SessionEnded: Nobody does, now.
        """
        key = _hashed(token)
        both = SESSIONS.join(PEOPLE, SESSIONS.c.name == PEOPLE.c.name)
        asked = select(SESSIONS.c.used_at, SESSIONS.c.ends_at, PEOPLE).select_from(both)
        with reading(self._engine) as connection:
            row = connection.execute(asked.where(SESSIONS.c.token == key)).one_or_none()
        if row is None or row.disabled or now >= row.ends_at or now >= row.used_at + IDLE_SECONDS:
            raise SessionEnded
        if now - row.used_at > _NOTED_SECONDS:
            with deciding(self._engine, SESSIONS) as connection:
                own = update(SESSIONS).where(SESSIONS.c.token == key)
                connection.execute(own.values(used_at=now))
        return Actor(row.name, _person(row).roles, site=row.site, account=row.account)

    def sign_out(self, token: str) -> None:
        """End a session, if there is one."""
        with deciding(self._engine, SESSIONS) as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.token == _hashed(token)))

    def _prove(self, name: str, password: str, address: str, now: float) -> str:
        """Return the hash that is kept of the password, which fits."""
        count_attempt(self._engine, name, address, now=now)
        row = self._row(name)
        kept = self._nobodys if row is None else row.password
        try:
            verify_password(password, kept)
            fits = row is not None and not row.disabled
        except PasswordWrong:
            fits = False
        if not fits:
            # A name that nobody has may be a password in the wrong field; to write that there is
            # none takes as long as to write one.
            facts = {"account": self._shown(name), "address": plain(address)}
            self._audit("sign-in-refused", facts)
            raise SignInRefused
        forgive(self._engine, name, address)
        if self._cost.is_of(kept):
            return str(kept)
        renewed = hash_password(password, cost=self._cost, entropy=self._entropy)
        with deciding(self._engine, PEOPLE) as connection:
            own = update(PEOPLE).where(PEOPLE.c.name == name, PEOPLE.c.password == kept)
            connection.execute(own.values(password=renewed))
        return renewed

    def _shown(self, name: str) -> str:
        row = self._row(name)
        return "nobody" if row is None else Actor(name, _person(row).roles).shown

    def _change_password(self, name: str, password: str) -> None:
        check_password(password, name=name)
        kept = hash_password(password, cost=self._cost, entropy=self._entropy)
        with deciding(self._engine, PEOPLE) as connection:
            connection.execute(update(PEOPLE).where(PEOPLE.c.name == name).values(password=kept))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.name == name))

    def _may(self, actor: Actor, roles: frozenset[Role], site: SiteId | None) -> None:
        """Return if ``actor`` may give, or take, these roles at this site."""
        everywhere = Role.OPERATOR in actor.roles
        # Who manages one site's accounts must not make a colleague with rights of which she has
        # none; such a colleague would be somebody of no site to her.
        of = site if everywhere or roles <= actor.roles else None
        check(actor, Permission.MANAGE_ACCOUNTS, about=About(site=of), audit=self._audit)

    def _may_change(self, name: str, actor: Actor) -> frozenset[Role]:
        row = self._row(name)
        if row is None:
            # Who may manage nothing learns nothing of names, either.
            check(actor, Permission.MANAGE_ACCOUNTS, about=About(actor.site), audit=self._audit)
            raise AccountUnfit("nobody has this name; see how it is written")
        person = _person(row)
        self._may(actor, person.roles, person.site)
        return person.roles

    def _row(self, name: str) -> Any:
        with reading(self._engine) as connection:
            asked = select(PEOPLE).where(PEOPLE.c.name == name)
            return connection.execute(asked).one_or_none() if NAME.fullmatch(name) else None


def _check_fit(name: str, roles: frozenset[Role], site: SiteId | None) -> None:
    if not NAME.fullmatch(name):
        raise AccountUnfit("a name has 1 to 64 lower-case letters, digits or inner . _ @ -")
    if not roles or roles & {Role.SITE, Role.SERVER}:
        raise AccountUnfit("an account has a person's role; machines have certificates")
    if roles & {Role.STEWARD, Role.OFFICER} and site is None:
        raise AccountUnfit("a steward or officer is one of a site; name it")


def _person(row: Any) -> Person:
    roles = frozenset(Role(one) for one in row.roles.split())
    return Person(row.name, roles, row.site, bool(row.disabled))


def _facts(name: str, roles: frozenset[Role], actor: Actor) -> dict[str, Any]:
    shown = Actor(name, roles).shown
    return {"account": shown, "roles": sorted(map(str, roles)), "actor": actor.shown}


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
