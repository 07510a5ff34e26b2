"""Who may do what: roles, permissions, the one table that joins them, and the check against it.

Every domain call that needs a right is told who asks, as an ``Actor``, and calls ``check`` before
it does anything. The table gives each right with its reach: everywhere, at the actor's own site, or
on the actor's own account. What the table does not give is refused.

    >>> steward = Actor("s.north", frozenset({Role.STEWARD}), site=SiteId("north"))
    >>> check(steward, Permission.RAISE_CAP, about=About(site=SiteId("north")), audit=unrecorded)
    >>> check(steward, Permission.RAISE_CAP, about=About(site=SiteId("south")), audit=unrecorded)
    Traceback (most recent call last):
    identity.roles.PermissionMissing: s.north may not raise the cap at south: ...

Not here: what is decided by a proof or a signature and by no role. A patient grants, withdraws and
claims with her own keys (``consent``); a site's update and a server's plan count by the keys that
the study's terms name (``fl_server.gate``, ``fl_client.plans``).

What holds, each line a test in tests/identity/test_roles.py:

1. An actor has a right exactly where the table gives it to one of her roles, within its reach.
2. A right within a reach is refused when the call does not say what it is about, or when the actor
   has no site or account: silence opens nothing.
3. Every refusal is handed to the audit log before it is raised, and names no patient.
4. The table in docs/access.md is this one.
5. Every right of the table is asked for somewhere: there are none that only look like protection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from protocol.errors import IdentityError
from protocol.ids import AccountId, SiteId

Denied: TypeAlias = Callable[[str, Mapping[str, Any]], object]
"""Takes a kind of event and its facts, as an audit log's ``append`` does."""


class Role(StrEnum):
    """What a person or machine is to the federation; one may have several."""

    PATIENT = "patient"
    RESEARCHER = "researcher"
    STEWARD = "steward"
    OFFICER = "officer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    SITE = "site"
    SERVER = "server"


class Permission(StrEnum):
    """One act; the value reads after "may"."""

    SUBMIT_STUDY = "submit a study"
    WATCH_RUN = "watch a run"
    STOP_RUN = "stop a run"

    READ_JOBS = "read the jobs"
    APPROVE_JOB = "approve a job"
    ALLOW_CODE = "allow a job with code"
    PAUSE_SITE = "pause the site"
    LEAVE_FEDERATION = "leave the federation"

    READ_BUDGET = "read the privacy ledger"
    SET_CAP = "set the privacy cap"
    RAISE_CAP = "raise the cap"
    FIX_COHORT = "fix a cohort"
    ACCEPT_CLOCK = "accept the clock"

    ENROL_PATIENT = "enrol a patient"
    REMOVE_PATIENT = "end a patient's enrolment"
    PUBLISH_GRANT = "publish a grant on the hospital's word"
    END_GRANT = "end a grant for a patient who withdrew"
    ERASE_PATIENT = "erase a patient"

    ADMIT_SITE = "admit a site"
    EXPEL_SITE = "expel a site"
    RENEW_CERTIFICATE = "renew a certificate"
    READ_SITES = "read the list of sites"
    TAKE_CONSENT = "take in the consents that a hospital sends"
    MANAGE_ACCOUNTS = "manage accounts"

    READ_AUDIT = "read the audit log"
    WITNESS = "witness the audit log"
    READ_STATEMENT = "read a statement"
    TRANSFER = "transfer BTT"
    SETTLE = "settle a round"


class Reach(StrEnum):
    """Where a right holds."""

    EVERYWHERE = "everywhere"
    OWN_SITE = "own site"
    OWN_ACCOUNT = "own account"


MATRIX: Final[Mapping[Role, Mapping[Permission, Reach]]] = {
    Role.PATIENT: {
        Permission.READ_STATEMENT: Reach.OWN_ACCOUNT,
    },
    Role.RESEARCHER: {
        Permission.SUBMIT_STUDY: Reach.OWN_ACCOUNT,
        Permission.WATCH_RUN: Reach.OWN_ACCOUNT,
        Permission.STOP_RUN: Reach.OWN_ACCOUNT,
        Permission.READ_STATEMENT: Reach.OWN_ACCOUNT,
    },
    Role.STEWARD: {
        Permission.READ_JOBS: Reach.OWN_SITE,
        Permission.WATCH_RUN: Reach.OWN_SITE,
        Permission.READ_BUDGET: Reach.OWN_SITE,
        Permission.SET_CAP: Reach.OWN_SITE,
        Permission.RAISE_CAP: Reach.OWN_SITE,
        Permission.FIX_COHORT: Reach.OWN_SITE,
        Permission.ACCEPT_CLOCK: Reach.OWN_SITE,
        Permission.ENROL_PATIENT: Reach.OWN_SITE,
        Permission.REMOVE_PATIENT: Reach.OWN_SITE,
        Permission.PUBLISH_GRANT: Reach.OWN_SITE,
        Permission.END_GRANT: Reach.OWN_SITE,
        Permission.ERASE_PATIENT: Reach.OWN_SITE,
        Permission.MANAGE_ACCOUNTS: Reach.OWN_SITE,
    },
    Role.OFFICER: {
        Permission.READ_JOBS: Reach.OWN_SITE,
        Permission.APPROVE_JOB: Reach.OWN_SITE,
        Permission.ALLOW_CODE: Reach.OWN_SITE,
        Permission.PAUSE_SITE: Reach.OWN_SITE,
        Permission.LEAVE_FEDERATION: Reach.OWN_SITE,
        Permission.MANAGE_ACCOUNTS: Reach.OWN_SITE,
        Permission.WATCH_RUN: Reach.OWN_SITE,
        Permission.READ_BUDGET: Reach.OWN_SITE,
        Permission.READ_STATEMENT: Reach.OWN_ACCOUNT,
        Permission.WITNESS: Reach.OWN_SITE,
    },
    Role.OPERATOR: {
        Permission.WATCH_RUN: Reach.EVERYWHERE,
        Permission.STOP_RUN: Reach.EVERYWHERE,
        Permission.ADMIT_SITE: Reach.EVERYWHERE,
        Permission.EXPEL_SITE: Reach.EVERYWHERE,
        Permission.RENEW_CERTIFICATE: Reach.EVERYWHERE,
        Permission.READ_SITES: Reach.EVERYWHERE,
        Permission.TAKE_CONSENT: Reach.EVERYWHERE,
        Permission.MANAGE_ACCOUNTS: Reach.EVERYWHERE,
        Permission.READ_AUDIT: Reach.EVERYWHERE,
        Permission.READ_STATEMENT: Reach.EVERYWHERE,
        Permission.TRANSFER: Reach.EVERYWHERE,
        Permission.SETTLE: Reach.EVERYWHERE,
    },
    Role.AUDITOR: {
        Permission.READ_SITES: Reach.EVERYWHERE,
        Permission.READ_AUDIT: Reach.EVERYWHERE,
        Permission.WITNESS: Reach.EVERYWHERE,
        Permission.READ_STATEMENT: Reach.EVERYWHERE,
    },
    Role.SITE: {
        Permission.READ_AUDIT: Reach.EVERYWHERE,
        Permission.WITNESS: Reach.OWN_SITE,
        Permission.READ_STATEMENT: Reach.OWN_ACCOUNT,
    },
    Role.SERVER: {
        Permission.SETTLE: Reach.EVERYWHERE,
    },
}
"""What each role may do, and how far. Nobody may do anything else."""


@dataclass(frozen=True)
class Actor:
    """Whoever asks: a signed-in person, or a machine known by its certificate.

    Args:
        name: As the account or certificate has it. A patient's is never written anywhere.
        roles: What she is.
        site: Whose hospital's; None for who belongs to none.
        account: Which account is hers in the books or, for a study, which submitted it.
    """

    name: str
    roles: frozenset[Role]
    site: SiteId | None = None
    account: AccountId | None = None

    @property
    def shown(self) -> str:
        """How messages and logs call her: a patient is never told from another."""
        return "a patient" if Role.PATIENT in self.roles else self.name


@dataclass(frozen=True)
class About:
    """What a call touches: a site, an account, or neither."""

    site: SiteId | None = None
    account: AccountId | None = None


WHOLE: Final = About()
"""About the federation as a whole: only a right that holds everywhere covers it."""


class PermissionMissing(IdentityError):
    """Somebody asked for what none of her roles allows there."""

    code = "permission-missing"

    def __init__(self, actor: Actor, permission: Permission, about: About) -> None:
        self.permission = permission
        self.site = about.site
        where = f" at {about.site}" if about.site is not None else ""
        roles = ", ".join(sorted(actor.roles)) or "no role"
        super().__init__(
            f"{actor.shown} may not {permission}{where}: signed in as {roles}"
            f"{f' of {actor.site}' if actor.site else ''}; it takes {_who(permission)}"
        )


def check(actor: Actor, permission: Permission, *, about: About = WHOLE, audit: Denied) -> None:
    """Return if ``actor`` has the right where she asks for it.

    Args:
        actor: Whoever asks.
        permission: For what.
        about: Whose site or account is touched.
        audit: Told of a refusal: ``permission-denied`` with its facts.

    Raises:
        PermissionMissing: She does not.
    """
    if any(_covers(actor, MATRIX[role].get(permission), about) for role in actor.roles):
        return
    facts: dict[str, Any] = {
        "actor": actor.shown,
        "permission": str(permission),
        "roles": sorted(map(str, actor.roles)),
    }
    if about.site is not None:
        facts["site"] = about.site
    if about.account is not None and Role.PATIENT not in actor.roles:
        facts["account"] = about.account
    audit("permission-denied", facts)
    raise PermissionMissing(actor, permission, about)


def holders(permission: Permission) -> dict[Role, Reach]:
    """Return which roles have a right, and how far."""
    return {role: rights[permission] for role, rights in MATRIX.items() if permission in rights}


def table() -> str:
    """Return the table as Markdown: a line a permission, a column a role."""
    signs = {Reach.EVERYWHERE: "yes", Reach.OWN_SITE: "own site", Reach.OWN_ACCOUNT: "own account"}
    lines = [
        f"| may | {' | '.join(Role)} |",
        f"| --- |{' --- |' * len(Role)}",
    ]
    for permission in Permission:
        having = holders(permission)
        cells = (signs[having[role]] if role in having else "" for role in Role)
        lines.append(f"| {permission} | {' | '.join(cells)} |")
    return "\n".join(lines)


def unrecorded(_kind: str, _facts: Mapping[str, Any]) -> None:
    """Stand for an audit log where there is none: in examples, and before one exists."""


def _covers(actor: Actor, reach: Reach | None, about: About) -> bool:
    if reach is None:
        return False
    if reach is Reach.EVERYWHERE:
        return True
    if reach is Reach.OWN_SITE:
        return about.site is not None and actor.site == about.site
    return about.account is not None and actor.account == about.account


def _who(permission: Permission) -> str:
    return " or ".join(
        f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
        + ("" if reach is Reach.EVERYWHERE else f" of its {reach}")
        for role, reach in holders(permission).items()
    )
