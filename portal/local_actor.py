"""Who sits at this machine: the actor of a command that is run beside the files it changes.

The operating system has signed the user in, and the rights on the folder let her reach its keys;
so whoever runs an operator's command is the operator. At a site several people may share a
machine's account for the agent, so a site may say who holds which role, by name of the system's
user::

    SITE/identity/people.json    {"ward7": ["steward"], "it": ["officer"]}

Where the file is missing, the folder's user holds all of the site's roles. It is the site's own
bookkeeping and no fence against somebody who owns the folder. A server's folder, which holds the
keys of its operator and of the study's researcher, may have the same file for the two of them, and
a witness's folder for its auditors::

    HOME/people.json             {"ops": ["operator"], "lab": ["researcher"]}
    WITNESS/people.json          {"audit": ["auditor"]}
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, RootModel, ValidationError

from identity.roles import Actor, Role
from ledger.chart import wallet
from protocol.errors import IdentityError, storage_error
from protocol.ids import AccountId, SiteId

SITE_ROLES: Final = frozenset({Role.STEWARD, Role.OFFICER})
SERVER_ROLES: Final = frozenset({Role.OPERATOR, Role.RESEARCHER})
WITNESS_ROLES: Final = frozenset({Role.AUDITOR})
PEOPLE: Final = "people.json"


class PeopleUnreadable(IdentityError):
    """A site's list of people says nothing that can be meant."""

    code = "people-unreadable"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f'{path} does not say who is who; write {{"USER": ["steward", "officer"]}} into it'
        )


class People(RootModel[dict[Annotated[str, Field(max_length=64)], frozenset[Role]]]):
    """Roles by the system's user."""


def this_user() -> str:
    """Return whose process this is: the kernel's word, not that of the environment.

    ``LOGNAME`` and ``USER`` are what the caller likes them to be.
    """
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # as in a container, where an account may have no name
        return f"uid-{user}"


def operator(user: str) -> Actor:
    """Return the operator: who runs commands in the operator's folder."""
    return Actor(user, frozenset({Role.OPERATOR}))


def at_site(folder: Path, site: SiteId, user: str) -> Actor:
    """Return who runs commands in a site's folder.

    Args:
        folder: The site's own.
        site: Its name.
        user: As the operating system calls her.

    Raises:
        PeopleUnreadable: The site's list of people is none.
        StorageError: It cannot be read.
    """
    roles = _roles(folder / "identity" / PEOPLE, user, SITE_ROLES)
    return Actor(user, roles, site=site, account=wallet(site))


def at_server(home: Path, user: str, researcher: AccountId) -> Actor:
    """Return who runs commands in a server's folder: its operator and the study's researcher.

    Args:
        home: The server's.
        user: As the operating system calls her.
        researcher: The account that the study is paid from.

    Raises:
        PeopleUnreadable, StorageError: As ``at_site``.
    """
    return Actor(user, _roles(home / PEOPLE, user, SERVER_ROLES), account=researcher)


def at_witness(folder: Path, user: str) -> Actor:
    """Return who runs commands in a witness's folder: an auditor.

    Raises:
        PeopleUnreadable, StorageError: As ``at_site``.
    """
    return Actor(user, _roles(folder / PEOPLE, user, WITNESS_ROLES))


def _roles(file: Path, user: str, possible: frozenset[Role]) -> frozenset[Role]:
    """Return which of the possible roles the file gives; all of them where there is none."""
    try:
        people = People.model_validate_json(file.read_bytes()).root
    except FileNotFoundError:
        return possible
    except OSError as error:
        raise storage_error(error, file.name) from error
    except ValidationError:
        raise PeopleUnreadable(file) from None
    return people.get(user, frozenset()) & possible
