"""Which study a frame is for: read from the frame itself, so that one agent process serves several.

Nothing here is believed: a study that a frame names in vain reaches an agent that checks the whole
message again and refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.frames import Frame, MalformedFrame
from protocol.ids import SLUG

KINDS: Final = frozenset(
    {
        *("join", "call", "prepare", "train", "endorse", "unmask", "share", "open"),
        *("deal-key", "take-key", "give-share", "recover-key", "commit-key", "part-key"),
        "join-key",
    }
)
"""The frames that an agent of a study answers."""
WITHIN: Final = ("plan", "commitment", "dealt", "commitments")
"""Where, in a frame's body, the message lies that names the study."""

StudyOf = Callable[[str], str | None]
"""Which study a digest of terms, or the id of a group key, is of."""


@dataclass(frozen=True)
class Route:
    """The study a frame is for, and its round where it has one."""

    study: str
    round: int | None


def route(request: Frame, *, of_terms: StudyOf, of_key: StudyOf) -> Route:
    """Return where a frame goes.

    Raises:
        MalformedFrame: Its kind is unknown, or it names no study.
    """
    if request.kind not in KINDS:
        raise MalformedFrame(f"there is no {request.kind!r}")
    for message in _messages(request.body):
        study, number = message.get("study"), message.get("round")
        if isinstance(study, str) and SLUG.fullmatch(study):
            return Route(study, number if isinstance(number, int) else None)
    for field, study_of in (("terms", of_terms), ("key_id", of_key)):
        value = request.body.get(field)
        found = study_of(value) if isinstance(value, str) else None
        if found is not None:
            return Route(found, None)
    raise MalformedFrame("it names no study of this hospital")


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Any] = [body]
    for name in WITHIN:
        inner = body.get(name)
        found.append(inner[0] if isinstance(inner, list) and inner else inner)
    return [one for one in found if isinstance(one, dict)]
