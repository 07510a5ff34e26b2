"""Mining emission: the mining bucket is released in steps, linear inside each.

The reward for work is never minted: it comes out of ``treasury:mining`` into ``rewards:mining``, no
faster than the steps allow, and what is paid to whom is divided from there.

What holds, each line a property of tests/ledger/test_vesting.py:

1. At every second what was emitted is at most the schedule, which never falls.
2. At the end of each step exactly its sum and those before it are out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ledger import chart, journal
from ledger.books import Ledger
from ledger.journal import Leg, Transfer
from ledger.schedule import add_months, linear, second


@dataclass(frozen=True)
class Step:
    """Base units that are emitted between two seconds."""

    begins: int
    ends: int
    amount: int


@dataclass(frozen=True)
class Emission:
    """Steps that follow one another."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Check what every maker of an emission owes."""
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            assert before.ends == after.begins

    @property
    def amount(self) -> int:
        """Base units of all steps."""
        return sum(step.amount for step in self.steps)


def emission_of(begins: int, steps: list[tuple[int, int]]) -> Emission:
    """Return the emission of ``steps``, pairs of calendar years and base units."""
    made = []
    for years, amount in steps:
        ends = add_months(begins, 12 * years)
        made.append(Step(begins, ends, amount))
        begins = ends
    return Emission(tuple(made))


def emitted(emission: Emission, at: int) -> int:
    """Return the most that may have been emitted at the second ``at``, in base units."""
    return sum(linear(step.amount, step.begins, step.ends, at) for step in emission.steps)


def emit(ledger: Ledger, emission: Emission, *, now: datetime) -> Transfer | None:
    """Move what is due and was not emitted yet into ``rewards:mining``; None if that is nothing.

    Raises:
        UnknownAccount, InsufficientFunds: The bucket is not there, or was spent otherwise.
    """
    bucket, rewards = chart.treasury("mining"), chart.rewards("mining")
    with ledger.begin() as connection:
        journal.open_accounts(connection, [rewards])
        due = emitted(emission, second(now))
        out = journal.flows_of(connection, [bucket])
        # All that ever left the bucket counts: another use of it must not be emitted again.
        spent = out[bucket].debits if bucket in out else 0
        if due <= spent:
            return None
        legs = [Leg(bucket, rewards, due - spent)]
        return journal.post(connection, f"emission:{due}", legs, memo="mining emission", now=now)
