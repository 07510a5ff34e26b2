"""Burn what governance decided when a milestone was met, once for each year.

``tokenomics.yaml`` says how much a year's milestone burns out of the ecosystem bucket; that it was
met is a decision, and the transfer's memo names it. Nothing is burned by time alone.

What holds, each line a test in tests/ledger/test_burns.py:

1. A year's milestone burns the amount of its row, once, whoever repeats it.
2. No row, no burn; and not before the year has begun.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ledger import chart
from ledger.books import Ledger
from ledger.economy import Economy
from ledger.journal import Transfer
from protocol.errors import LedgerError

BUCKET: Final = "ecosystem"


class MilestoneUnknown(LedgerError):
    """The tokenomics burn nothing for this year's milestone."""

    code = "milestone-unknown"

    def __init__(self, year: int, years: list[int]) -> None:
        self.year = year
        super().__init__(
            f"no milestone of {year} burns anything; there are {', '.join(map(str, years))}"
        )


class MilestoneEarly(LedgerError):
    """A milestone's year has not begun."""

    code = "milestone-early"

    def __init__(self, year: int) -> None:
        self.year = year
        super().__init__(f"the milestone of {year} can be met from that year's first day on")


def burn_milestone(
    ledger: Ledger, economy: Economy, year: int, *, decision: str, now: datetime
) -> Transfer:
    """Burn what the milestone of ``year`` burns, by a decision, once.

    Args:
        ledger: The books.
        economy: Whose rows say how much.
        year: Of the milestone.
        decision: Where governance decided, such as a position of the audit log; never empty.
        now: The time to record.

    Raises:
        MilestoneUnknown, MilestoneEarly: There is nothing to burn, or not yet.
        InsufficientFunds: The bucket's treasury account holds less; release what has vested first.
        IdempotencyConflict: It was burned by another decision.
        AccountFlagged, UnknownAccount: As ``ledger.journal.post``.
    """
    assert decision
    amount = economy.milestone_burns.get(year)
    if not amount:
        raise MilestoneUnknown(year, sorted(economy.milestone_burns))
    if now.astimezone(UTC).year < year:
        raise MilestoneEarly(year)
    memo = f"milestone of {year}: {decision}"
    return ledger.burn(f"burn:milestone:{year}", chart.treasury(BUCKET), amount, memo=memo, now=now)
