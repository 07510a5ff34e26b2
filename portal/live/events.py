"""What a watcher is told: one event of a run, of which every word is from a closed list.

An event is what the server wrote down (``fl_server.live.RunEvent``), looked through once more
before it leaves. On the wire it is one JSON object; what does not apply is left out:

    >>> told = LiveEvent(17, datetime(2026, 11, 21, 15, 3, 22, tzinfo=UTC), "answered", 3,
    ...                  phase="uploads", site=SiteId("north"), bytes=30801, seconds=4.2)
    >>> for part in told.text().split(',"site"'): print(part)
    {"position":17,"at":"2026-11-21T15:03:22.000Z","kind":"answered","round":3,"phase":"uploads"
    :"north","seconds":4.2,"bytes":30801}
    >>> LiveEvent.read(told.text()) == told
    True

What holds (tests/portal/test_live_events.py):

1. ``read(text())`` is the event that ``public`` made.
2. No text of a site's or of an error's own choosing is in an event: phases and names of numbers are
   from the lists here, a code is a code's letters, a site is one of the study's, and counts of
   patients have no name. So no event can carry a patient.
3. What is not an event is refused (``live-event-unreadable``) and never half shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fl_server.live import KINDS, Kind, RunEvent
from protocol.errors import FederationError
from protocol.ids import SLUG, SiteId

PHASES: Final = ("roster", "uploads", "unmasking", "opening", "closing", "scoring")
MEASURES: Final = ("auc", "accuracy", "dice", "loss", "brier", "sensitivity", "specificity")
"""Of a round's model, in the order in which one is chosen for the curve."""
NUMBERS: Final = ("asked", "quorum", "deadline_seconds", *MEASURES)
OTHER: Final = "other"
"""Stands for a phase or code that cannot be shown as it was written."""
CODE: Final = re.compile(r"[a-z]+(?:-[a-z]+)*")
CODE_MAX: Final = 60
COUNT_MAX: Final = 2**53 - 1
"""JavaScript counts exactly so far (ECMA-262, Number.MAX_SAFE_INTEGER)."""
TEXT_MAX: Final = 8192


class LiveEventUnreadable(FederationError):
    """What came in a stream of events is none."""

    code = "live-event-unreadable"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"what came is no event of a run ({why}); give the address of a `bithive live serve` "
            "of the same version"
        )


@dataclass(frozen=True)
class LiveEvent:
    """One event of a run, as ``RunEvent`` describes its fields.

    Where a server began (``run``, ``started``), ``rounds`` and ``sites`` are those of the study.
    """

    position: int
    at: datetime
    kind: Kind
    round: int
    phase: str | None = None
    site: SiteId | None = None
    code: str | None = None
    seconds: float | None = None
    bytes: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None
    sites: tuple[SiteId, ...] = ()

    def body(self) -> dict[str, Any]:
        """Return the event as JSON takes it, in the order of its fields."""
        found: dict[str, Any] = {
            name: value for name, value in vars(self).items() if value not in (None, (), {})
        }
        found["at"] = self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return found

    def text(self) -> str:
        """Return the event as one line."""
        return json.dumps(self.body(), separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> LiveEvent:
        """Return the event of a line.

        Raises:
            LiveEventUnreadable: It is none.
        """
        if len(text) > TEXT_MAX:
            raise LiveEventUnreadable(f"it has more than {TEXT_MAX} letters")
        try:
            found = json.loads(text)
            sites = tuple(found.get("sites", ()))
            event = cls(**found | {"at": datetime.fromisoformat(found["at"]), "sites": sites})
            named = [one for one in (*sites, event.site) if one is not None]
            is_event = event == _clean(event, {one for one in named if SLUG.fullmatch(one)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LiveEventUnreadable(type(error).__name__) from error
        if not is_event or event.kind not in KINDS:
            raise LiveEventUnreadable("a field holds what no event has")
        return event


def public(event: RunEvent, *, rounds: int, sites: Collection[SiteId]) -> LiveEvent:
    """Return what a watcher is told of an event.

    Args:
        event: As the server wrote it.
        rounds: Of the study.
        sites: Of the study; another name is left out.
    """
    begins = event.kind == "run" and event.code == "started"
    told = LiveEvent(
        position=event.position,
        at=datetime.fromisoformat(event.at),
        kind=event.kind,
        round=event.round,
        phase=event.phase or None,
        site=event.site,
        code=event.code or None,
        seconds=event.seconds,
        bytes=event.bytes,
        numbers=event.numbers,
        rounds=rounds if begins else None,
        sites=tuple(sorted(sites)) if begins else (),
    )
    return _clean(told, sites)


def _clean(event: LiveEvent, sites: Collection[SiteId]) -> LiveEvent:
    """Return the event with nothing in it that no event has."""
    numbers = {name: _number(event.numbers.get(name)) for name in NUMBERS}
    return LiveEvent(
        position=_count(event.position) or 0,
        at=_whole_milliseconds(event.at),
        kind=event.kind,
        round=_count(event.round) or 0,
        phase=_word(event.phase, PHASES),
        site=event.site if event.site in sites else None,
        code=_code(event.code),
        seconds=_number(event.seconds),
        bytes=_count(event.bytes),
        numbers={name: value for name, value in numbers.items() if value is not None},
        rounds=_count(event.rounds),
        sites=tuple(one for one in event.sites if one in sites),
    )


def _word(word: str | None, known: tuple[str, ...]) -> str | None:
    return word if word in (None, *known) else OTHER


def _code(code: str | None) -> str | None:
    if code is None:
        return None
    return code if len(code) <= CODE_MAX and CODE.fullmatch(code) else OTHER


def _count(number: object) -> int | None:
    is_count = isinstance(number, int) and not isinstance(number, bool)
    return number if is_count and 0 <= number <= COUNT_MAX else None  # type: ignore[operator,return-value]  # is_count has looked


def _number(number: object) -> float | None:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return float(number) if is_number and math.isfinite(number) else None  # type: ignore[arg-type]  # is_number has looked


def _whole_milliseconds(at: datetime) -> datetime:
    """Return a time in UTC without what is less than a millisecond, as JavaScript keeps time."""
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
