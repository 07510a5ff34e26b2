"""Units: base units of BTT, days since 1970.

Amounts of BTT are integers in base units everywhere; ``btt_text`` is for people only.
Sources: ECONOMY section 1 (supply, decimals), ZK (day counts in consent terms).
"""

from __future__ import annotations

from datetime import date
from typing import Final

BTT_DECIMALS: Final = 18
BASE_UNITS_PER_BTT: Final = 10**BTT_DECIMALS
TOTAL_SUPPLY: Final = 210_000_000 * BASE_UNITS_PER_BTT
"""Base units minted once at genesis; balances plus burned equal it at all times."""

EPOCH_DAY: Final = date(1970, 1, 1)


def day_number(day: date) -> int:
    """Return the days from 1970-01-01 to ``day``, as consent terms count them.

    Examples:
        >>> day_number(date(2026, 11, 21))
        20778
    """
    return (day - EPOCH_DAY).days


def btt_text(amount: int) -> str:
    """Write base units for a person, exactly, with at most 18 decimals.

    Examples:
        >>> btt_text(1_500_000_000_000_000_000)
        '1.5 BTT'
        >>> btt_text(1)
        '0.000000000000000001 BTT'
    """
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), BASE_UNITS_PER_BTT)
    decimals = f"{fraction:0{BTT_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole:,}{'.' + decimals if decimals else ''} BTT"
