"""What one data set's privacy ledger says: spent, left, by whom, on whom. It changes nothing.

    >>> from privacy.budget import PrivacyBudget
    >>> path = getfixture("tmp_path") / "b.db"
    >>> budget = PrivacyBudget(path, dataset="scans", epsilon_limit=8.0, delta=1e-5)
    >>> open_ledger(path, "scans").left()
    8.0

What holds, each line a test in tests/privacy/test_budget.py or test_cohorts.py: reservations count
as spent; a cohort's figure is that of the patient in it who pays most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from privacy.accounting import Accountant, statement
from privacy.cohorts import EVERYONE, Account, Spending, open_account, replay
from privacy.journal import BudgetUnreadable, Head, Journal, Pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from privacy.events import Event
    from privacy.statement import PrivacyStatement


class LedgerView:
    """One data set in a journal, to be read.

    Attributes:
        dataset: The hospital's name for the data.
        delta: The same for the life of the data set.

    Raises:
        BudgetUnreadable: The journal cannot be trusted, or is not of this data set.
    """

    def __init__(self, journal: Journal, dataset: str, accountant: Accountant) -> None:
        self.dataset = dataset
        self._journal = journal
        self._accountant: Accountant = accountant
        with journal.read() as pages:
            self.delta = self._account(pages).delta

    def check_members(self, cohort: str, patients: Iterable[str]) -> None:
        """See that ``patients`` all are of ``cohort``, before their records are read.

        Raises:
            CohortUnknown: The steward fixed no such cohort.
            NotOfCohort: Some are not.
        """
        with self._journal.read() as pages:
            self._account(pages).check_members(cohort, patients, pages.salt)

    def spent(self, cohort: str = EVERYONE) -> float:
        """Return the epsilon of the patient of ``cohort`` who pays most, reservations included."""
        return self.statement(cohort).epsilon

    def statement(self, cohort: str = EVERYONE) -> PrivacyStatement:
        """Return ``spent`` with delta, unit, sampling and accountant."""
        with self._journal.read() as pages:
            account = self._account(pages)
        account.check_cohort(cohort)
        return self._dearest(account, cohort)

    def statement_of(self, study: str) -> PrivacyStatement:
        """Return what one study's rounds cost together: all that its receipts need to tell."""
        with self._journal.read() as pages:
            held = self._account(pages).held.values()
        return self._stated([one.event for one in held if one.study == study])

    def statement_after(self, rounds: int) -> PrivacyStatement:
        """Return ``statement`` of the first ``rounds`` of ``history`` alone, for a curve."""
        with self._journal.read() as pages:
            account = self._account(pages)
        account.held = dict(list(account.held.items())[:rounds])
        return self._dearest(account, EVERYONE)

    def left(self, cohort: str = EVERYONE) -> float:
        """Return the cap minus ``spent``, at least 0.

        Epsilon does not add up linearly: whether a round still fits is what ``reserve`` answers.
        """
        return max(0.0, self.limit() - self.spent(cohort))

    def limit(self) -> float:
        """Return the stored cap."""
        with self._journal.read() as pages:
            return self._account(pages).limit

    def events(self) -> list[Event]:
        """Return every event committed or reserved, ordered by study and round."""
        return [one.event for one in sorted(self.history(), key=lambda s: (s.study, s.round))]

    def history(self) -> list[Spending]:
        """Return what is committed or reserved, in order, with study, round and researcher."""
        with self._journal.read() as pages:
            return list(self._account(pages).held.values())

    def cohorts(self) -> dict[str, int]:
        """Return the fixed cohorts and how many patients each has."""
        with self._journal.read() as pages:
            return {name: len(of) for name, of in sorted(self._account(pages).cohorts.items())}

    def head(self) -> Head:
        """Return the number of entries and the link that seals them all."""
        with self._journal.read() as pages:
            return pages.head

    def _dearest(self, account: Account, cohort: str, *more: Event) -> PrivacyStatement:
        """Return what the patient of ``cohort`` who pays most has spent, with ``more`` events."""
        stated = [self._stated([*events, *more]) for events in account.payers(cohort)]
        return max(stated, key=lambda one: one.epsilon)

    def _stated(self, events: Sequence[Event]) -> PrivacyStatement:
        return statement(events, self.delta, self._accountant)

    def _account(self, pages: Pages) -> Account:
        return open_account(pages, self.dataset, self._journal.path.name)


def open_ledger(path: Path, dataset: str, accountant: Accountant = "prv") -> LedgerView:
    """Return one data set of the ledger at ``path``.

    Raises:
        BudgetUnreadable: It is not there, cannot be trusted, or is not of this data set.
    """
    return LedgerView(_open(path), dataset, accountant)


def datasets(path: Path) -> list[str]:
    """Return the data sets that the ledger at ``path`` knows, sorted.

    Raises:
        BudgetUnreadable: It is not there, or cannot be trusted.
    """
    with _open(path).read() as pages:
        return sorted(replay(pages.entries, path.name))


def _open(path: Path) -> Journal:
    if not path.is_file():
        raise BudgetUnreadable(path.name, "it is not there")
    return Journal(path, time.time)
