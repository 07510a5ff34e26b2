"""How long work reports itself: one step at a time, to whoever wants to draw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.ids import SiteId


@dataclass(frozen=True)
class Step:
    """One reported step.

    ``stage`` is a word of the flow (``train``, ``prove``, ``encrypt``, ``verify``, ``add``,
    ``open``, ``refuse``, ``close``, ``settle`` ...), ``done`` of ``total`` says how far it is, and
    ``seconds`` is the processor time the stage took in its thread, once it is done.
    """

    stage: str
    round: int
    site: SiteId | None = None
    done: int = 1
    total: int = 1
    seconds: float = 0.0
    note: str = ""


Progress = Callable[[Step], None]


def silent(_step: Step) -> None:
    """Draw nothing."""
