"""What is said with an order to stop or to go on, between an officer's hands and her site's agent.

It is a file of its own so that what orders, a command or a page, brings none of what trains.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from fl_client.decisions import WHO_MAX
from identity.roles import Actor, Role
from protocol.canonical import Message, Site
from protocol.jobs import REASON_MAX


class Ordered(Message):
    """Who gives an order, and why."""

    actor: Annotated[str, Field(pattern=r"\S", max_length=WHO_MAX)]
    roles: Annotated[tuple[Role, ...], Field(max_length=len(Role))]
    site: Site
    reason: Annotated[str, Field(max_length=REASON_MAX)] = ""

    def by(self) -> Actor:
        """Return who gives it."""
        return Actor(self.actor, frozenset(self.roles), site=self.site)


def ordered(actor: Actor, reason: str = "") -> dict[str, Any]:
    """Return the body of an order's frame."""
    assert actor.site is not None
    roles = sorted(map(str, actor.roles))
    return {"actor": actor.shown, "roles": roles, "site": actor.site, "reason": reason}
