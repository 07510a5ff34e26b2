"""How much of an amount is due at a second: linear between two instants, in exact integers.

Instants are whole seconds since 1970, UTC; months and years are the calendar's. Division rounds
down, so that what is due never runs ahead of the straight line, and the last second makes it whole.

    >>> begins = second(datetime(2025, 1, 31, tzinfo=UTC))
    >>> ends = add_months(begins, 1)
    >>> datetime.fromtimestamp(ends, UTC).date().isoformat()
    '2025-02-28'
    >>> linear(100, begins, ends, ends - 1), linear(100, begins, ends, ends)
    (99, 100)
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime


def second(now: datetime) -> int:
    """Return the whole second of ``now``, which must name its time zone."""
    assert now.tzinfo is not None
    return calendar.timegm(now.utctimetuple())


def add_months(instant: int, months: int) -> int:
    """Return the same time of day ``months`` later, on the month's last day where there is none."""
    at = datetime.fromtimestamp(instant, UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    day = min(at.day, calendar.monthrange(year, month + 1)[1])
    return second(at.replace(year=year, month=month + 1, day=day))


def linear(amount: int, begins: int, ends: int, at: int) -> int:
    """Return what of ``amount`` is due at ``at``, rounded down; all of it from ``ends`` on."""
    if at >= ends:
        return amount
    if at <= begins:
        return 0
    return amount * (at - begins) // (ends - begins)
