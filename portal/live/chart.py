"""A curve over rounds as an SVG's numbers; ``static/fold.js`` computes the same for the script.

>>> chart = chart_of([(1, 0.91), (2, 0.94), (3, 0.95)], total=4, from_zero=False)
>>> [text for _, text in chart.values]
['0.90', '0.92', '0.94', '0.96']
>>> [text for _, text in chart.rounds]
['1', '2', '3', '4']
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 360
HEIGHT: Final = 190
LEFT: Final = 44
RIGHT: Final = 14
TOP: Final = 12
BOTTOM: Final = 26
STEPS: Final = tuple(float(f"{digit}e{power}") for power in range(-4, 10) for digit in (1, 2, 5))
TICKS: Final = 3
ROUND_STEPS: Final = (1, 2, 5, 10, 20, 50, 100, 200)
ROUND_TICKS: Final = 7
DOTS_MAX: Final = 30


@dataclass(frozen=True)
class Chart:
    """Where things are in a drawing of ``WIDTH`` by ``HEIGHT``."""

    line: str
    area: str
    dots: tuple[tuple[float, float], ...]
    last: tuple[float, float] | None
    values: tuple[tuple[float, str], ...]
    """Height and text of each line across."""
    rounds: tuple[tuple[float, str], ...]


def chart_of(points: Sequence[tuple[int, float]], *, total: int, from_zero: bool) -> Chart:
    """Return the drawing of (round, value) points, in order, of a study of ``total`` rounds."""
    found = [value for _, value in points]
    least = 0.0 if from_zero else min(found, default=0.0)
    most = max(found, default=1.0)
    # A curve of one height gets room around it; else three steps or so hold it.
    room, steps = (abs(most), 10) if most == least else (most - least, TICKS)
    step = next((one for one in STEPS if one * steps >= room), STEPS[-1])
    low = math.floor(least / step)
    high = max(math.ceil(most / step), low + 1)
    rounds = max(total, points[-1][0] if points else 1)

    def across(number: float) -> float:
        share = 0.5 if rounds == 1 else (number - 1) / (rounds - 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        share = (value / step - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    places = tuple((across(number), up(value)) for number, value in points)
    line = " ".join(f"{x},{y}" for x, y in places)
    floor = HEIGHT - BOTTOM
    area = f"{places[0][0]},{floor} {line} {places[-1][0]},{floor}" if places else ""
    every = next((one for one in ROUND_STEPS if rounds / one <= ROUND_TICKS), ROUND_STEPS[-1])
    shown = [one for one in range(1, rounds + 1) if one % every == 0]
    return Chart(
        line,
        area,
        places if len(places) <= DOTS_MAX else (),
        places[-1] if places else None,
        tuple((up(one * step), _text(one * step, step)) for one in range(low, high + 1)),
        tuple((across(one), str(one)) for one in shown),
    )


def _text(value: float, step: float) -> str:
    decimals = next(count for count in range(6) if step * 10**count >= 1 - 1e-9)
    return f"{value:.{decimals}f}"
