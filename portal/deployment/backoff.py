"""How long to wait before a process that ended is started again, and when to call it a crash loop.

The wait doubles from ``first_seconds`` to ``most_seconds``; a process that stayed up for
``healthy_seconds`` begins anew. After ``limit`` ends in a row the process counts as failed: it is
then tried only every ``failed_seconds``, so that a machine whose disk was full last night comes
back by itself, and a person who looks sees ``failed`` and not a process that is always starting.

    >>> rule = Backoff()
    >>> [rule.wait(ends) for ends in range(1, 10)]
    [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 300.0, 300.0]

What holds, each line a test in tests/portal/deployment/test_supervisor.py:

1. A wait is never shorter than the one before, as long as the process does not stay up.
2. A process that stayed up long enough is started again at once.
3. No process is ever given up for good.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """The rule; all in seconds but ``limit``, which counts ends in a row."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    healthy_seconds: float = 60.0
    failed_seconds: float = 300.0
    limit: int = 8

    def wait(self, ends: int) -> float:
        """Return the seconds to wait after the ``ends``-th end in a row (from 1)."""
        assert ends >= 1
        if self.is_loop(ends):
            return self.failed_seconds
        return min(self.most_seconds, self.first_seconds * 2.0 ** (ends - 1))

    def is_loop(self, ends: int) -> bool:
        """Say whether so many ends in a row are a crash loop."""
        return ends >= self.limit

    def ends_after(self, ends: int, up_seconds: float) -> int:
        """Return the ends in a row, one more having come after ``up_seconds`` of running."""
        return 1 if up_seconds >= self.healthy_seconds else ends + 1
