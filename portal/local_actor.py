"""Who sits at this machine: the actor of a command that is run beside the files it changes.

The operating system has signed the user in, and the rights on the folder let her reach its keys;
so whoever runs an operator's command is the operator. At a site several people may share a
machine's account for the agent, so a site may say who holds which role, by name of the system's
user::

    SITE/identity/people.json    {"ward7": ["steward"], "it": ["officer"]}

Where the file is missing, the folder's user holds all of the site's roles. It is the site's own
bookkeeping and no fence against somebody who owns the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, RootModel, ValidationError

from identity.roles import Actor, Role
from ledger.chart import wallet
from protocol.errors import IdentityError, storage_error
from protocol.ids import SiteId

SITE_ROLES: Final = frozenset({Role.STEWARD, Role.OFFICER})
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
    file = folder / "identity" / PEOPLE
    roles = SITE_ROLES
    try:
        roles = People.model_validate_json(file.read_bytes()).root.get(user, frozenset())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(error, file.name) from error
    except ValidationError:
        raise PeopleUnreadable(file) from None
    return Actor(user, roles & SITE_ROLES, site=site, account=wallet(site))
