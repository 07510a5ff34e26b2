"""Sizes, times and numbers as a person reads them, in both languages; ``live.js`` writes alike.

Nothing is rounded to even and nothing depends on a locale, so that Python's page and the script's
are the same, letter for letter (tests/portal/test_live_page.py compares them).
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Final

KILO: Final = 1000
MINUTE: Final = 60
HOUR: Final = 3600
LANGUAGES: Final = ("en", "zh")


@lru_cache(maxsize=1)
def texts() -> dict[str, dict[str, str]]:
    """Return every text of the live view by key, then by language."""
    found: dict[str, dict[str, str]] = json.loads(
        (Path(__file__).parent / "texts.json").read_bytes()
    )
    return found


def say(key: str, language: str, **values: object) -> str:
    """Return a text with its values filled in."""
    return texts()[key][language].format(**values)


def size_text(octets: int) -> str:
    """Write a number of bytes.

    Examples:
        >>> size_text(812), size_text(67_193), size_text(4_250_000)
        ('812 B', '67.1 kB', '4.2 MB')
    """
    for unit, power in (("GB", 3), ("MB", 2), ("kB", 1)):
        if octets >= KILO**power:
            tenths = octets * 10 // KILO**power
            return f"{tenths // 10}.{tenths % 10} {unit}"
    return f"{octets} B"


def duration_text(seconds: float, language: str) -> str:
    """Write how long something takes.

    Examples:
        >>> duration_text(4.26, "en"), duration_text(200, "en"), duration_text(7500, "zh")
        ('4.2 s', '3 min 20 s', '2 小时 5 分')
    """
    whole = int(seconds)
    if whole >= HOUR:
        return say("hours", language, hours=whole // HOUR, minutes=whole % HOUR // MINUTE)
    if whole >= MINUTE:
        return say("minutes", language, minutes=whole // MINUTE, seconds=whole % MINUTE)
    tenths = int(seconds * 10)
    number = str(whole) if whole >= 10 else f"{tenths // 10}.{tenths % 10}"
    return say("seconds", language, seconds=number)


def measure_text(value: float) -> str:
    """Write a measure with three decimals.

    Examples:
        >>> measure_text(0.9584999), measure_text(-1.25)
        ('0.958', '-1.250')
    """
    thousandths = math.floor(abs(value) * 1000 + 0.5)
    sign = "-" if value < 0 and thousandths else ""
    return f"{sign}{thousandths // 1000}.{thousandths % 1000:03d}"
