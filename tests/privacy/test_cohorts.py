"""A round on a cohort counts for each of its patients and for nobody else."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import epsilon
from privacy.budget import BudgetConflict, BudgetExceeded, PrivacyBudget
from privacy.cohorts import EVERYONE, Account, CohortUnknown, NotOfCohort, Spending
from privacy.events import DpSgdEvent
from privacy.stewardship import Steward

ROUND = DpSgdEvent(1.0, 1.5, 4)  # costs more than half of the cap
PATIENTS = [f"{number:x}" for number in range(6)]


@pytest.fixture
def path(tmp_path):
    opened(tmp_path / "budget.db")
    return tmp_path / "budget.db"


def opened(path):
    return PrivacyBudget(path, dataset="scans", epsilon_limit=8.0, delta=1e-5, accountant="rdp")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["men", "old", "smokers"]),
        st.frozensets(st.sampled_from(PATIENTS), min_size=1),
    ),
    st.data(),
)
def test_the_dearest_payer_is_the_patient_who_pays_most(cohorts, data):
    names = data.draw(st.lists(st.sampled_from([EVERYONE, *cohorts]), max_size=6))
    account = Account("scans", 1e-5, 8.0, dict(cohorts))
    for number, name in enumerate(names):
        event = DpSgdEvent(1.0, 8.0, number + 1)
        account.held["study", number] = Spending("study", number, event, name, "", 0, "reserved")
    for asked in (EVERYONE, *cohorts):
        of_each = [
            [
                one.event
                for one in account.held.values()
                if one.cohort == EVERYONE or patient in cohorts[one.cohort]
            ]
            for patient in [*PATIENTS, "another"]
            if asked == EVERYONE or patient in cohorts[asked]
        ]
        counted = max(epsilon(events, 1e-5, "rdp") for events in of_each)
        assert max(epsilon(e, 1e-5, "rdp") for e in account.payers(asked)) == counted


def test_disjoint_cohorts_spend_side_by_side_and_everyone_pays_for_all(path):
    steward, budget = Steward(path, "scans"), opened(path)
    steward.fix_cohort("men", ["p1", "p2"])
    steward.fix_cohort("women", ["p3", "p4"])
    budget.reserve("study", 1, ROUND, cohort="men")
    budget.reserve("study", 2, ROUND, cohort="women")
    assert budget.spent("men") == budget.spent("women") == budget.spent()
    with pytest.raises(BudgetExceeded):
        budget.reserve("study", 3, ROUND, cohort="men")
    with pytest.raises(BudgetExceeded):
        budget.reserve("study", 4, ROUND)


def test_a_patient_of_two_cohorts_pays_for_both(path):
    steward, budget = Steward(path, "scans"), opened(path)
    steward.fix_cohort("men", ["p1", "p2"])
    steward.fix_cohort("old", ["p2", "p3"])
    budget.reserve("study", 1, ROUND, cohort="men")
    with pytest.raises(BudgetExceeded):
        budget.reserve("study", 2, ROUND, cohort="old")


def test_a_cohort_fixed_later_has_paid_what_its_patients_paid(path):
    steward, budget = Steward(path, "scans"), opened(path)
    steward.fix_cohort("men", ["p1", "p2"])
    budget.reserve("study", 1, ROUND, cohort="men")
    steward.fix_cohort("first", ["p1"])
    assert budget.spent("first") == budget.spent("men")


def test_another_cohort_for_a_held_round_is_refused(path):
    steward, budget = Steward(path, "scans"), opened(path)
    steward.fix_cohort("men", ["p1"])
    budget.reserve("study", 1, ROUND, cohort="men")
    with pytest.raises(BudgetConflict):
        budget.reserve("study", 1, ROUND)


def test_spending_on_a_cohort_nobody_fixed_is_refused(path):
    budget = opened(path)
    for ask in (
        lambda: budget.reserve("study", 1, ROUND, cohort="men"),
        lambda: budget.spent("men"),
        lambda: budget.check_members("men", []),
    ):
        with pytest.raises(CohortUnknown):
            ask()


def test_reading_patients_outside_the_cohort_that_pays_is_refused_by_number(path):
    Steward(path, "scans").fix_cohort("men", ["p1", "p2"])
    budget = opened(path)
    budget.check_members("men", ["p1"])
    budget.check_members(EVERYONE, ["anybody"])
    with pytest.raises(NotOfCohort) as refusal:
        budget.check_members("men", ["p2", "p3", "p4"])
    assert refusal.value.patients == 2
    assert "p3" not in str(refusal.value)


def test_the_same_patients_in_any_order_are_the_same_cohort(path):
    steward = Steward(path, "scans")
    for order in itertools.permutations(["p1", "p2", "p3"]):
        steward.fix_cohort("men", order)
    assert opened(path).cohorts() == {"men": 3}
