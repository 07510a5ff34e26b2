"""What a check of the doctor finds: a name, how it stands, and one sentence what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Finding:
    """One check's outcome. ``advice`` is empty where there is nothing to do."""

    check: str
    state: State
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return what works and should be seen to."""
    return Finding(check, "warning", found, advice)


def fails(check: str, found: str, advice: str) -> Finding:
    """Return what does not work."""
    return Finding(check, "fails", found, advice)
