"""The privacy ledger of a hospital's data sets: epsilon is reserved before it can be spent.

A round reserves its event, trains, and commits before the update leaves. Whatever was reserved
counts as spent until it is released, so a crash between the steps errs on the patients' side. The
cap is the data steward's and covers all studies, rounds and researchers together.

    >>> from privacy.events import DpSgdEvent
    >>> folder = getfixture("tmp_path")
    >>> budget = PrivacyBudget(folder / "b.db", dataset="scans", epsilon_limit=8.0, delta=1e-5)
    >>> event = DpSgdEvent(sampling_rate=1.0, noise_multiplier=4.0, steps=10)
    >>> reservation = budget.reserve("lesions", 1, event, researcher="radiology")
    >>> budget.commit("lesions", 1)
    >>> print(budget.statement().text())
    epsilon 3.36 (delta 1e-05, unit: patient, sampling: none, accountant: PRV)

The unit of privacy is the patient. An event on a cohort counts for each of its patients
(privacy/cohorts.py), and every decision is an entry of the journal (privacy/journal.py). Caps and
cohorts are the steward's alone (privacy/stewardship.py).

What holds, each line a test in tests/privacy/test_budget.py or test_budget_crashes.py:

1. The composed epsilon of no patient ever passes the cap, whatever the order of calls and whichever
   process stops between any two of their steps; and nothing is counted twice or given back twice.
2. Asking again for the same study, round, event and plan changes nothing; another event or plan is
   refused, so that two studies of one name, or a round planned twice, never share a reservation.
3. A committed event is never taken back, and no setting of a study raises the cap.
4. A file that cannot be read or was changed, or a clock that went back, refuses every reservation.

States of one (study, round)::

    (none) --reserve--> reserved --commit--> committed
                        reserved --release--> (none)      only if nothing left the hospital
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from privacy.accounting import Accountant, UnitsMixed
from privacy.cohorts import EVERYONE, State, replay
from privacy.events import Event, ImpossibleEvent, event_fields
from privacy.journal import BudgetUnreadable as BudgetUnreadable  # noqa: PLC0414 - for callers
from privacy.journal import Journal
from privacy.ledger_view import LedgerView
from protocol.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from privacy.statement import PrivacyStatement

_ROUNDING: Final = 1e-9  # a cap written as 8.0 is not missed by the last bit of a float


class BudgetExceeded(PrivacyError):
    """The round would cost more epsilon than the data steward, or the study, allows."""

    code = "privacy-budget-exceeded"

    def __init__(self, whose: str, would_be: PrivacyStatement, limit: float) -> None:
        self.whose = whose
        self.would_be = would_be.epsilon
        self.limit = limit
        super().__init__(
            f"this round would bring {whose} to {would_be.text(3)}, above the limit of epsilon "
            f"{limit:g} at the same terms; train with more noise or fewer steps, or ask the data "
            "steward"
        )


class BudgetConflict(PrivacyError):
    """A round was reserved once and is now asked for with another event, plan or delta."""

    code = "privacy-budget-conflict"

    def __init__(self, what: str, stored: object, asked: object) -> None:
        self.stored = stored
        self.asked = asked
        super().__init__(
            f"the privacy ledger already holds {stored} for {what} and {asked} was asked for; "
            "repeat the same request or choose another round"
        )


class NotReserved(PrivacyError):
    """A round was committed or released that holds no reservation."""

    code = "privacy-not-reserved"

    def __init__(self, study: str, number: int, state: str) -> None:
        self.study = study
        self.round = number
        super().__init__(
            f"round {number} of study {study} is {state} in the privacy ledger; reserve it before "
            "training, and release it only while nothing has left the hospital"
        )


class DatasetUnknown(PrivacyError):
    """The ledger has no cap for this data set."""

    code = "privacy-dataset-unknown"

    def __init__(self, dataset: str, name: str) -> None:
        self.dataset = dataset
        super().__init__(
            f"the privacy ledger {name} knows no data set {dataset}, so nothing may be spent on "
            "it; check its name, or let the data steward open it: bithive site budget SITE "
            f"--dataset {dataset} --cap EPSILON --delta DELTA"
        )


@dataclass(frozen=True)
class Reservation:
    """Epsilon set aside for one round.

    Attributes:
        study: The study's id.
        round: Its round, numbered from 1.
        event: What may be run.
        epsilon_spent: Composed epsilon of the patient who pays most, with this event included.
        state: ``"committed"`` if the round had been finished before.
    """

    study: str
    round: int
    event: Event
    epsilon_spent: float
    state: State


class PrivacyBudget(LedgerView):
    """The ledger of one data set; several share a file, and several processes may open it.

    Args:
        path: The file; created with mode 0600 where there is none.
        dataset: The hospital's name for the data.
        epsilon_limit: The steward's cap, for a data set that the ledger does not know yet; a known
            one keeps its own, so that a changed setting cannot spend more.
        delta: The same for the life of the data set; None for one that is known.
        accountant: How events are added up.
        clock: Seconds since 1970.

    Raises:
        BudgetUnreadable: The file is there and cannot be trusted.
        BudgetConflict: The stored delta differs.
        DatasetUnknown: No cap or delta was given for a new data set.
        ImpossibleEvent: The cap or delta cannot be meant.
    """

    def __init__(
        self,
        path: Path,
        *,
        dataset: str,
        epsilon_limit: float | None = None,
        delta: float | None = None,
        accountant: Accountant = "prv",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if epsilon_limit is not None:
            _check_limit(epsilon_limit)
        if delta is not None and not 0.0 < delta < 1.0:
            raise ImpossibleEvent("delta", delta, "above 0 and below 1")
        journal = Journal(path, clock)
        with journal.write() as pages:
            account = replay(pages.entries, path.name).get(dataset)
            if account is None:
                if epsilon_limit is None or delta is None:
                    raise DatasetUnknown(dataset, path.name)
                body = {"limit": float(epsilon_limit), "delta": float(delta)}
                pages.add(dataset, "open", body)
            elif delta is not None and account.delta != delta:
                raise BudgetConflict(f"data set {dataset}", f"delta {account.delta}", delta)
        super().__init__(journal, dataset, accountant)

    def reserve(
        self,
        study: str,
        round: int,  # noqa: A002 - the project's word for it
        event: Event,
        *,
        cohort: str = EVERYONE,
        researcher: str = "",
        plan: str = "",
        study_limit: float = math.inf,
    ) -> Reservation:
        """Set the event's epsilon aside, or refuse; call it before any patient is read.

        Args:
            study: The study's id.
            round: Its number, from 1.
            event: What the round is going to run; its unit is the patient.
            cohort: Whose records it reads.
            researcher: For whom, as the hospital knows them.
            plan: Digest of the signed plan that is going to be followed.
            study_limit: What the study's own events may cost together, beside the steward's cap.

        Returns:
            The reservation; the stored one if the same request was made before.

        Raises:
            BudgetExceeded: With this event a limit would be passed. Nothing was stored.
            BudgetConflict: The round is held with another event, cohort, researcher or plan.
            CohortUnknown: The steward fixed no such cohort.
            UnitsMixed: The event protects another unit than the patient.
            ClockBackwards: The clock stands before the last entry.
            BudgetUnreadable: The ledger cannot be trusted.
        """
        assert round >= 1
        if event.unit != "patient":
            raise UnitsMixed(["patient", event.unit])
        with self._journal.write() as pages:
            account = self._account(pages)
            account.check_cohort(cohort)
            held = account.held.get((study, round))
            if held is not None:
                asked = (event, cohort, researcher, plan)
                stored = (held.event, held.cohort, held.researcher, held.plan)
                if stored != asked:
                    raise BudgetConflict(f"round {round} of study {study}", stored, asked)
                spent = self._dearest(account, cohort).epsilon
                return Reservation(study, round, event, spent, held.state)
            pages.check_clock()
            would_be = self._dearest(account, cohort, event)
            # Written so that a cost that is not a number is refused too.
            if not would_be.epsilon <= account.limit + _ROUNDING:
                raise BudgetExceeded(f"data set {self.dataset}", would_be, account.limit)
            of_study = [one.event for one in account.held.values() if one.study == study]
            by_study = self._stated([*of_study, event])
            if not by_study.epsilon <= study_limit + _ROUNDING:
                raise BudgetExceeded(f"study {study}", by_study, study_limit)
            body = {
                "study": study,
                "round": round,
                "cohort": cohort,
                "researcher": researcher,
                "event": event_fields(event),
            } | ({"plan": plan} if plan else {})
            pages.add(self.dataset, "reserve", body)
            return Reservation(study, round, event, would_be.epsilon, "reserved")

    def commit(self, study: str, round: int) -> None:  # noqa: A002 - the project's word for it
        """Mark the round as spent for good, before anything leaves; repeating it changes nothing.

        Raises:
            NotReserved: The round was never reserved, or was released.
        """
        with self._journal.write() as pages:
            held = self._account(pages).held.get((study, round))
            if held is None:
                raise NotReserved(study, round, "absent")
            if held.state == "reserved":
                pages.add(self.dataset, "commit", {"study": study, "round": round})

    def release(
        self,
        study: str,
        round: int,  # noqa: A002 - the project's word for it
        *,
        plan: str | None = None,
    ) -> None:
        """Give a reservation back; the caller vouches that nothing left the hospital.

        Args:
            study: The study's id.
            round: Its number.
            plan: Digest of the plan it was reserved for; None for whatever plan.

        Raises:
            NotReserved: The round holds no reservation, or another plan's, or was committed.
        """
        with self._journal.write() as pages:
            held = self._account(pages).held.get((study, round))
            if held is None:
                raise NotReserved(study, round, "absent")
            if held.state == "committed":
                raise NotReserved(study, round, "already spent")
            if plan not in {None, held.plan}:
                raise NotReserved(study, round, "reserved for another plan")
            pages.add(self.dataset, "release", {"study": study, "round": round})


def _check_limit(epsilon_limit: float) -> None:
    if not (epsilon_limit > 0.0 and math.isfinite(epsilon_limit)):
        raise ImpossibleEvent("epsilon_limit", epsilon_limit, "positive and finite")
