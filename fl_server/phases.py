"""The phases of a round, how long each waits, and when it has waited long enough.

::

    roster ─▶ uploads ─▶ unmasking ─▶ opening ─▶ closing ─▶ scoring

A phase that asks sites ends when all have answered, or a *grace* after a quorum has, or at its
deadline, whichever comes first. The grace is ``grace`` seconds or, where that is longer,
``patience`` times what the quorum took: who is no more than twice as slow as the quorum is waited
for, and who is gone delays a round by its own length at most.

    >>> wait = Wait(60.0, quorum=2, grace=1.0, clock=iter([0.0, 4.0, 5.0, 7.9, 8.1]).__next__)
    >>> wait.count(2)                # at 4 s two have answered
    >>> wait.is_over(), wait.is_over(), wait.is_over()
    (False, False, True)

Waiting is measured by monotonic clocks: a wall clock that jumps moves no deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from protocol.errors import ConfigurationError

Phase = Literal["roster", "uploads", "unmasking", "opening", "closing", "scoring"]
PHASES: Final[tuple[str, ...]] = get_args(Phase)
DEADLINES_FILE: Final = "deadlines.json"
SECONDS_MAX: Final = 7 * 86400.0
"""No phase waits longer than a week."""


class DeadlinesUnusable(ConfigurationError):
    """The server's deadlines cannot be meant."""

    code = "deadlines-unusable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the server's {DEADLINES_FILE} cannot be used: {why}")


@dataclass(frozen=True)
class Deadlines:
    """How long each step of a phase waits at most, in seconds.

    Attributes:
        join: The roll call when a server starts, and of new nodes before a round.
        call: The call of a round.
        train: The uploads.
        open: Each of endorsing, unmasking, sharing and opening.
        prepare: News between rounds, which no round waits for.
        roster: How long too few sites are called again before the run ends.
        settle: The hand-over of a closed round to the market.
        grace: The least grace after a quorum, in the steps of a few messages.
        train_grace: The same for the uploads.
        patience: The grace as a multiple of what the quorum took.
        attempts: How often a sum that too few sites opened is opened anew before its round closes
            without an update.
    """

    join: float = 120.0
    call: float = 60.0
    train: float = 3600.0
    open: float = 600.0
    prepare: float = 30.0
    roster: float = 600.0
    settle: float = 600.0
    grace: float = 10.0
    train_grace: float = 60.0
    patience: float = 1.0
    attempts: int = 3

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 <= value <= SECONDS_MAX or (one.name == "attempts" and value < 1):
                raise DeadlinesUnusable(f"{one.name} is {value}")

    @classmethod
    def of(cls, folder: Path) -> Deadlines:
        """Return what the server's folder says; the defaults where it says nothing.

        Raises:
            DeadlinesUnusable: The file is no JSON object of these names, or a number is out of
                range.
        """
        path = folder / DEADLINES_FILE
        if not path.is_file():
            return cls()
        try:
            found: dict[str, Any] = _FILE.validate_json(path.read_bytes())
            return cls(**found)
        except ValidationError as error:
            raise DeadlinesUnusable("it is no JSON object of names and numbers") from error
        except TypeError as error:
            known = ", ".join(one.name for one in fields(cls))
            raise DeadlinesUnusable(f"it names something else than {known}") from error


_FILE: Final = TypeAdapter(dict[str, float])


class Wait:
    """How long one step of a phase still waits, and how it ended.

    Args:
        seconds: Its deadline, from now.
        quorum: How many answers are enough to go on after a grace; None to wait for all.
        grace: The least grace.
        patience: The grace as a multiple of what the quorum took.
        clock: Monotonic seconds.
        idle: Called whenever the wait is looked at, between replies too.
    """

    def __init__(
        self,
        seconds: float,
        *,
        quorum: int | None = None,
        grace: float = 10.0,
        patience: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.seconds, self.quorum = seconds, quorum
        self._grace, self._patience, self._clock, self._idle = grace, patience, clock, idle
        self._began = clock()
        self._enough: float | None = None
        self.answered = 0

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    def count(self, answers: int = 1) -> None:
        """Note that answers were accepted."""
        before, self.answered = self.answered, self.answered + answers
        if self.quorum is not None and before < self.quorum <= self.answered:
            self._enough = self._clock()

    def is_over(self) -> bool:
        """Say whether nothing more is waited for, though not all have answered."""
        self._idle()
        now = self._clock()
        if now - self._began > self.seconds:
            return True
        if self._enough is None:
            return False
        grace = max(self._grace, self._patience * (self._enough - self._began))
        return now - self._enough > grace

    def ended(self, asked: int) -> str:
        """Return what ended it: ``all``, ``quorum`` or ``deadline``."""
        if self.answered >= asked:
            return "all"
        return "deadline" if self.elapsed > self.seconds or self._enough is None else "quorum"
