"""Who may do what in a server's folder, with its study and its money: researcher and operator.

The study is its researcher's: it is about her account in the books. What the books hold is moved,
and where it is paid out to is said, by the operator. A refusal is recorded in the operator's audit
log, and so is what was done.
"""

from __future__ import annotations

from pathlib import Path

from identity.roles import About, Actor, Permission, check
from portal.local_actor import at_server, this_user
from portal.market import RESEARCHER
from portal.own_log import own_record


def here(home: Path) -> Actor:
    """Return who runs this command in a server's folder.

    Raises:
        PeopleUnreadable, StorageError: As ``portal.local_actor``.
    """
    return at_server(home, this_user(), RESEARCHER)


def check_may(home: Path, actor: Actor, permission: Permission) -> None:
    """Return if ``actor`` may do this with the study of ``home``.

    Raises:
        PermissionMissing: She may not.
        StorageError: Her refusal cannot be recorded.
    """
    check(actor, permission, about=About(account=RESEARCHER), audit=own_record(_log_of(home)))


def who_may(home: Path, permission: Permission) -> Actor:
    """Return who runs this command in a server's folder, once it is sure that she may do this.

    Raises:
        PermissionMissing, PeopleUnreadable, StorageError: As ``check_may`` and ``here``.
    """
    actor = here(home)
    check_may(home, actor, permission)
    return actor


def note(home: Path, kind: str, actor: Actor, **facts: str) -> None:
    """Record what was done with the study, or with the books' money.

    Raises:
        StorageError: The disk refused.
    """
    own_record(_log_of(home))(kind, {"actor": actor.shown, **facts})


def _log_of(home: Path) -> Path:
    return home / "operator" / "authority"
