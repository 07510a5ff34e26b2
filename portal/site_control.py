"""Ask a site's running agent how it is, or tell it to stop or go on, over its operator's socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fl_client.link import AgentUnreachable, ask
from protocol.errors import ConfigurationError, storage_error
from protocol.frames import decode, encode
from protocol.ids import SiteId
from storage.files import write_whole

PLACES: Final = "agent.json"


class AgentRefused(ConfigurationError):
    """A running agent refused what its operator asked."""

    code = "agent-refused"

    def __init__(self, code: str, reason: str) -> None:
        self.refused = code
        super().__init__(f"the agent refused with {code}: {reason}")


def token_at(folder: Path) -> Path:
    """Return where a site's folder keeps the token of its agent's door for frames."""
    return folder / "agent.token"


def control_token_at(folder: Path) -> Path:
    """Return where a site's folder keeps the token of its agent's door for the operator."""
    return folder / "control.token"


def keep_places(folder: Path, *, frames: Path, control: Path) -> None:
    """Note where a running agent listens."""
    places = {"agent": str(frames.resolve()), "control": str(control.resolve())}
    write_whole(folder / PLACES, json.dumps(places, indent=2).encode())


def ask_agent(
    home: Path, site: SiteId, kind: str, asked: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the agent of a site of ``home`` answers its operator; as ``ask_agent_of``."""
    return ask_agent_of(home / "sites" / site, kind, asked)


def ask_agent_of(folder: Path, kind: str, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a site's agent answers its operator.

    Args:
        folder: The site's own.
        kind: What is asked or ordered.
        asked: An order says who gives it: ``fl_client.control.ordered``.

    Raises:
        AgentUnreachable: None is running.
        TokenRefused: The token beside it is another agent's.
        AgentRefused: It says no.
    """
    places = folder / PLACES
    if not places.is_file():
        raise AgentUnreachable(str(places), "it has not run here")
    try:
        control = str(json.loads(places.read_text())["control"])
    except OSError as error:
        raise storage_error(error, places.name) from error
    frame = encode(kind, dict(asked or {}))
    answer = decode(ask(f"unix:{control}", frame, control_token_at(folder)))
    if answer.kind == "refused":
        raise AgentRefused(str(answer.body.get("code")), str(answer.body.get("reason")))
    return answer.body
