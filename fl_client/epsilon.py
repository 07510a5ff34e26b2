"""What a hospital's privacy ledger leaves to a job, for the officer who decides on it.

It is a preview. Epsilon does not add up linearly, and the ledger itself decides in every round
(``privacy.budget``): no approval can spend more than the cap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fl_client.telemetry import Spent
from privacy.accounting import statement
from privacy.budget import BudgetConflict, DatasetUnknown
from privacy.ledger_view import LedgerView, datasets, open_ledger
from protocol.jobs import JobManifest


class Epsilon:
    """One hospital's ledger, to be read; ``promised`` are the jobs that are approved now."""

    def __init__(
        self, path: Path, promised: Callable[[], Iterable[JobManifest]] = lambda: ()
    ) -> None:
        self._path = path
        self._promised = promised
        self._spent: dict[str, tuple[object, Spent]] = {}

    def left(self, job: JobManifest) -> float:
        """Return what the caps leave to ``job``, beside other studies.

        What other studies have spent counts, and what they were promised and have not spent yet.

        Raises:
            DatasetUnknown: The data steward has set no cap for a data set of the job.
            BudgetConflict: The ledger counts at another delta than the job's.
            BudgetUnreadable: The ledger cannot be trusted.
        """
        known = set(datasets(self._path)) if self._path.is_file() else set()
        for name in sorted(set(job.datasets) - known):
            raise DatasetUnknown(name, self._path.name)
        return min(self._left(open_ledger(self._path, name), job) for name in job.datasets)

    def spent(self) -> list[Spent]:
        """Return what was spent and is left of every data set; worked out again when it changed.

        Raises:
            BudgetUnreadable: The ledger cannot be trusted.
        """
        if not self._path.is_file():
            return []
        found = []
        for name in datasets(self._path):
            ledger = open_ledger(self._path, name)
            head = ledger.head()
            kept = self._spent.get(name)
            if kept is None or kept[0] != head:
                spent = ledger.spent()
                left = max(0.0, ledger.limit() - spent)
                kept = self._spent[name] = (head, Spent(name, spent, left))
            found.append(kept[1])
        return found

    def _left(self, ledger: LedgerView, job: JobManifest) -> float:
        if ledger.delta != job.delta:
            what = f"data set {ledger.dataset}"
            raise BudgetConflict(what, f"delta {ledger.delta:g}", f"delta {job.delta:g}")
        others = [one.event for one in ledger.history() if one.study != job.study]
        spent = statement(others, ledger.delta, "prv").epsilon if others else 0.0
        promised = sum(
            max(0.0, one.epsilon - ledger.statement_of(one.study).epsilon)
            for one in {one.study: one for one in self._promised()}.values()
            if one.study != job.study and ledger.dataset in one.datasets
        )
        return max(0.0, ledger.limit() - spent - promised)
