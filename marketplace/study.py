"""What a study pays and who pays it; the money is put up before the first round.

    >>> study = Study(StudyId("busi-2026"), AccountId("wallet:buyer"), budget=10, rounds=3)
    >>> study.round_budget(1), study.round_budget(3)
    (4, 3)

What holds, each line a test in tests/marketplace/test_study.py:

1. Terms that cannot be paid exactly as written cannot be made.
2. The rounds' budgets sum to the study's.
3. Funding twice moves the money once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger import chart, escrow
from ledger.books import Ledger
from ledger.journal import Transfer
from marketplace.valuation import round_budgets
from protocol.canonical import ROUNDS_MAX
from protocol.errors import MarketError
from protocol.ids import SLUG, AccountId, StudyId

PATIENT_SHARE_PERCENT: Final = 30
"""Of each payout, for the consenting patients; the hospital receives the rest (ECONOMY 4.6)."""


class StudyRefused(MarketError):
    """The terms contradict themselves, so the study cannot be offered."""

    code = "study-refused"

    def __init__(self, study: str, why: str) -> None:
        self.study = study
        self.why = why
        super().__init__(f"study {study!r} cannot be offered: {why}")


@dataclass(frozen=True)
class Study:
    """The money side of a study: base units for all rounds, and whose.

    Args:
        study: The id that the rounds carry.
        funder: The account that pays and that gets back what no round earned.
        budget: Base units for the whole study, at least one for each round.
        rounds: How many rounds share the budget.
        patient_share_percent: Of each payout, 0 to 100, rounded down to the base unit.

    Raises:
        StudyRefused: One of them is out of range.
    """

    study: StudyId
    funder: AccountId
    budget: int
    rounds: int
    patient_share_percent: int = PATIENT_SHARE_PERCENT

    def __post_init__(self) -> None:
        if not SLUG.fullmatch(self.study):
            raise StudyRefused(self.study, "an id is 1 to 40 lower-case letters, digits and dashes")
        if not 1 <= self.rounds <= ROUNDS_MAX:
            raise StudyRefused(self.study, f"{self.rounds} rounds are not 1 to {ROUNDS_MAX}")
        if self.budget < self.rounds:
            raise StudyRefused(
                self.study, f"a budget of {self.budget} base units leaves a round with nothing"
            )
        if not 0 <= self.patient_share_percent <= 100:
            raise StudyRefused(self.study, f"{self.patient_share_percent} % is not a share")
        chart.check_account(self.funder)

    def round_budget(self, number: int) -> int:
        """Return the base units of round ``number``, counted from 1."""
        assert 1 <= number <= self.rounds
        return round_budgets(self.budget, self.rounds)[number - 1]


def fund(ledger: Ledger, study: Study, *, now: datetime) -> Transfer:
    """Put the study's whole budget in escrow, out of the funder's account, once.

    Raises:
        InsufficientFunds: The funder holds less than the budget.
        UnknownAccount: The funder has no account.
        IdempotencyConflict: The study was funded before on other terms.
    """
    key = f"fund:{study.study}"
    return escrow.open_escrow(ledger, key, study.funder, study.study, study.budget, now=now)
