"""What the data steward alone decides in the privacy ledger: caps, cohorts, and what time it is.

An agent holds a ``PrivacyBudget``, which can spend within the cap and not change it.

    >>> folder = getfixture("tmp_path")
    >>> open_dataset(folder / "b.db", "scans", epsilon_limit=8.0, delta=1e-5)
    >>> budget = PrivacyBudget(folder / "b.db", dataset="scans")
    >>> steward = Steward(folder / "b.db", "scans")
    >>> steward.set_limit(4.0)
    >>> budget.limit()
    4.0

What holds, each line a test in tests/privacy/test_stewardship.py:

1. A cap is lowered by saying so, and raised only by saying so twice; opening a data set again does
   neither.
2. A cohort never changes once it is fixed, and holds no patient's number.
3. After a clock had been ahead, rounds go on only from the time that the steward confirmed.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from privacy.budget import PrivacyBudget as PrivacyBudget  # noqa: PLC0414 - the example's
from privacy.cohorts import fingerprint, open_account
from privacy.events import ImpossibleEvent
from privacy.journal import Journal
from protocol.errors import PrivacyError
from protocol.ids import SLUG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class CapRaiseUnconfirmed(PrivacyError):
    """A cap was to be raised, which cannot be undone for what is then spent."""

    code = "privacy-cap-raise-unconfirmed"

    def __init__(self, dataset: str, delta: float, stored: float, asked: float) -> None:
        self.stored = stored
        self.asked = asked
        super().__init__(
            f"raising the cap of data set {dataset} from epsilon {stored:g} to {asked:g} (delta "
            f"{delta:g}, unit: patient, sampling: any, accountant: PRV or RDP) lets patients lose "
            "more privacy for good; if the data steward means it, repeat with --confirm-raise"
        )


class CohortFixed(PrivacyError):
    """A cohort was to be fixed again with other patients, or cannot be one."""

    code = "privacy-cohort-fixed"

    def __init__(self, cohort: str, why: str) -> None:
        self.cohort = cohort
        super().__init__(f"{cohort!r} cannot be fixed: {why}; choose another name or its patients")


def open_dataset(
    path: Path,
    dataset: str,
    *,
    epsilon_limit: float,
    delta: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Give a data set its first cap and its delta: no study may use it before.

    Where it has them, its cap stays as it is; ``Steward.set_limit`` changes one.

    Raises:
        BudgetConflict: It is known with another delta.
        ImpossibleEvent: The cap or the delta cannot be meant.
        BudgetUnreadable: The ledger cannot be trusted.
    """
    PrivacyBudget(path, dataset=dataset, epsilon_limit=epsilon_limit, delta=delta, clock=clock)


class Steward:
    """The steward's hold on one data set in the ledger at ``path``.

    Raises:
        BudgetUnreadable: The ledger cannot be trusted, or is not of this data set.
    """

    def __init__(self, path: Path, dataset: str, *, clock: Callable[[], float] = time.time) -> None:
        self.dataset = dataset
        self._journal = Journal(path, clock)
        with self._journal.read() as pages:
            open_account(pages, dataset, path.name)

    def set_limit(self, epsilon_limit: float, *, confirm_raise: bool = False) -> None:
        """Store a new cap.

        Raises:
            CapRaiseUnconfirmed: It is higher than the stored one, and nobody confirmed that.
            ImpossibleEvent: It limits nothing.
        """
        if not 0.0 < epsilon_limit < math.inf:
            raise ImpossibleEvent("epsilon_limit", epsilon_limit, "positive and finite")
        with self._journal.write() as pages:
            account = open_account(pages, self.dataset, self._journal.path.name)
            stored = account.limit
            if epsilon_limit > stored and not confirm_raise:
                raise CapRaiseUnconfirmed(self.dataset, account.delta, stored, epsilon_limit)
            if epsilon_limit != stored:
                pages.add(self.dataset, "limit", {"limit": float(epsilon_limit)})

    def fix_cohort(self, name: str, patients: Iterable[str]) -> None:
        """Name a subset of the patients, once and for all.

        Whether she is in it must follow from the patient herself, and not from others: else
        disjoint cohorts would not be apart.

        Args:
            name: A slug.
            patients: The hospital's own patient numbers; only fingerprints are kept.

        Raises:
            CohortFixed: It was fixed with other patients before, or cannot be one.
        """
        with self._journal.write() as pages:
            members = {fingerprint(pages.salt, patient) for patient in patients}
            if not members or not SLUG.fullmatch(name):
                raise CohortFixed(name, "a cohort has a slug for a name and at least one patient")
            account = open_account(pages, self.dataset, self._journal.path.name)
            stored = account.cohorts.get(name)
            if stored is None:
                pages.add(self.dataset, "cohort", {"cohort": name, "members": sorted(members)})
            elif stored != members:
                raise CohortFixed(name, "it was fixed with other patients before")

    def accept_clock(self) -> None:
        """Go on from the present time although it is before the last entry."""
        with self._journal.write() as pages:
            pages.add(self.dataset, "clock", {}, at=pages.now)
