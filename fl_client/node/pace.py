"""How often the node asks, so that rounds are quick and a server with many sites is left alone.

After an answer was brought the next message is expected when about as much time has passed as last
time: the first pause is half of that, the others a quarter of the silence so far, within two
bounds. A message then waits at most about a quarter of the silence before it, whatever the scale,
and an idle site asks every two seconds; one that works asks every second. Every pause is spread by
a fifth, so that sites that were started together do not ask together.

    >>> generator = random.Random(1)
    >>> 0.04 <= pause_seconds(0.0, 0.0, generator) <= 0.06
    True
    >>> 0.24 <= pause_seconds(0.0, 0.6, generator) <= 0.36
    True
    >>> 0.8 <= pause_seconds(4.0, 0.6, generator) <= 1.2
    True
    >>> pause_seconds(3600.0, 0.6, generator) <= IDLE_SECONDS_MAX * 1.2
    True
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

PAUSE_SECONDS_MIN: Final = 0.05
BUSY_SECONDS: Final = 1.0
"""While a message is being answered another is rare: the question of health, say."""
IDLE_SECONDS_MAX: Final = 2.0
"""Below the 5 s after which servers close an idle connection, so TLS is set up once."""
EXPECTED_SECONDS_MAX: Final = 0.5
"""However long the last silence was, the first question comes after this."""
SHARE: Final = 4
SPREAD: Final = 0.2
RETRY_SECONDS_FIRST: Final = 0.5
RETRY_SECONDS_MAX: Final = 10.0


def pause_seconds(
    idle_seconds: float | None, expected_seconds: float, generator: random.Random
) -> float:
    """Return how long to wait before asking again.

    Args:
        idle_seconds: Since the last answer was brought; None while one is being made.
        expected_seconds: What passed last time between an answer and the next message.
        generator: Spreads the pauses.
    """
    pause = BUSY_SECONDS
    if idle_seconds is not None:
        pause = min(max(idle_seconds / SHARE, PAUSE_SECONDS_MIN), IDLE_SECONDS_MAX)
        pause = max(pause, min(expected_seconds / 2, EXPECTED_SECONDS_MAX) - idle_seconds)
    return pause * generator.uniform(1 - SPREAD, 1 + SPREAD)


def retry_pauses(
    generator: random.Random, first_seconds: float = RETRY_SECONDS_FIRST
) -> Iterator[float]:
    """Yield the pauses after a first, second, ... failure in a row: doubled, bounded, spread."""
    pause = first_seconds
    while True:
        yield pause * generator.uniform(1 - SPREAD, 1 + SPREAD)
        pause = min(2 * pause, RETRY_SECONDS_MAX)
