"""Processor seconds by name, and the least of several: other work on the machine only adds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Collects what each named stage took, in processor seconds of this process alone."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the processor seconds of the block to ``stage``."""
        started = time.process_time()
        yield
        self._taken.setdefault(stage, []).append(time.process_time() - started)

    def least(self, stage: str, *, first: int | None = None) -> float:
        """Return the seconds of the quickest block of ``stage``, of the first few when given."""
        return min(self._taken[stage][:first])
