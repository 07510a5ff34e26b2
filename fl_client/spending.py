"""What a study's rounds cost a hospital's patients: set aside before training, spent by answering.

Epsilon is reserved before a record is read and committed once the answer is stored, so that an
agent that was killed neither spends twice nor answers without having paid. It is given back only
where nothing has left.
"""

from __future__ import annotations

import contextlib

from fl_client.cohort import Cohort
from fl_client.store import RoundAlreadyAnswered, SiteStore
from privacy.budget import BudgetConflict, BudgetUnreadable, NotReserved, PrivacyBudget
from privacy.events import for_patients
from privacy.mechanism import round_event
from protocol.canonical import digest
from protocol.messages import RoundPlan
from protocol.terms import StudyTerms


class Spending:
    """One study's part of a hospital's privacy budget.

    Args:
        budget: The hospital's, for the study's data set.
        terms: The study's.
        store: What this hospital has answered.
        cohort: The steward's cohort that pays.
        researcher: For whom it is spent; whoever holds the server's key where empty.
    """

    def __init__(
        self,
        budget: PrivacyBudget,
        terms: StudyTerms,
        store: SiteStore,
        *,
        cohort: str,
        researcher: str,
    ) -> None:
        self._budget, self._terms, self._store = budget, terms, store
        self._cohort, self._researcher = cohort, researcher

    def check_ledger(self) -> None:
        """See that epsilon is counted for the study's data set, at the delta its terms promise.

        Raises:
            BudgetConflict: It is not, and a receipt would promise something else.
            BudgetUnreadable: The ledger is older than what this hospital has sent.
        """
        ledger = (self._budget.dataset, self._budget.delta)
        asked = (self._terms.consent.dataset, self._terms.privacy.delta)
        if ledger != asked:
            raise BudgetConflict(f"study {self._terms.study} (data set, delta)", ledger, asked)
        study = self._terms.study
        held = {one.round for one in self._budget.history() if one.study == study}
        lost = set(self._store.answered(study)) - held
        if lost:
            rounds = ", ".join(map(str, sorted(lost)))
            why = f"it lacks what was answered to study {study}, round {rounds}"
            raise BudgetUnreadable(f"of {self._budget.dataset}", why)

    def reserve(self, plan: RoundPlan, cohort: Cohort) -> None:
        """Set aside what the round costs each of the steward's cohort that pays for it.

        Raises:
            RoundAlreadyAnswered: It was spent already, on an answer that this hospital's memory
                has lost: another one would cost the patients the same again.
        """
        payers = self._cohort
        self._budget.check_members(payers, [patient.id for patient in cohort.patients])
        held = self._budget.reserve(
            plan.study,
            plan.round,
            for_patients(round_event(self._terms)),
            cohort=payers,
            researcher=self._researcher or f"server key {self._terms.server_key.hex()[:16]}",
            plan=digest(plan),
            study_limit=self._terms.privacy.epsilon,
        )
        if held.state == "committed":
            raise RoundAlreadyAnswered(plan.round)

    def commit(self, plan: RoundPlan) -> None:
        """Spend what this plan has reserved; again, changes nothing."""
        self._budget.commit(plan.study, plan.round)

    def release(self, plan: RoundPlan) -> None:
        """Give back what this plan has reserved.

        Raises:
            NotReserved: It has reserved nothing.
        """
        self._budget.release(plan.study, plan.round, plan=digest(plan))

    def give_back(self, plan: RoundPlan) -> None:
        """Release what this plan has reserved, where it has.

        Nothing has left: an answer is stored before it leaves, and this plan has none; and what
        left is committed, which no release undoes.
        """
        with contextlib.suppress(NotReserved):
            self.release(plan)

    def of_study(self) -> float:
        """Return the epsilon that this study has spent; of other studies it tells nothing."""
        return self._budget.statement_of(self._terms.study).epsilon
