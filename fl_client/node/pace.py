"""How often the node asks, so that rounds are quick and a server with many sites is left alone.

The pause before the next question grows with the time since the last message: an eighth of it,
within two bounds. A message then waits at most about an eighth longer than the silence before it,
whatever the scale, and an idle site asks every two seconds. Every pause is spread by a fifth, so
that sites that were started together do not ask together.

    >>> generator = random.Random(1)
    >>> 0.04 <= pause_seconds(0.1, generator) <= 0.06
    True
    >>> 0.8 <= pause_seconds(8.0, generator) <= 1.2
    True
    >>> pause_seconds(3600.0, generator) <= IDLE_SECONDS_MAX * 1.2
    True
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

PAUSE_SECONDS_MIN: Final = 0.05
IDLE_SECONDS_MAX: Final = 2.0
"""Below the 5 s after which servers close an idle connection, so TLS is set up once."""
SHARE: Final = 8
SPREAD: Final = 0.2
RETRY_SECONDS_FIRST: Final = 0.5
RETRY_SECONDS_MAX: Final = 10.0


def pause_seconds(idle_seconds: float, generator: random.Random) -> float:
    """Return how long to wait before asking again, ``idle_seconds`` after the last message."""
    pause = min(max(idle_seconds / SHARE, PAUSE_SECONDS_MIN), IDLE_SECONDS_MAX)
    return pause * generator.uniform(1 - SPREAD, 1 + SPREAD)


def retry_pauses(generator: random.Random) -> Iterator[float]:
    """Yield the pauses after a first, second, ... failure in a row: doubled, bounded, spread."""
    pause = RETRY_SECONDS_FIRST
    while True:
        yield pause * generator.uniform(1 - SPREAD, 1 + SPREAD)
        pause = min(2 * pause, RETRY_SECONDS_MAX)
