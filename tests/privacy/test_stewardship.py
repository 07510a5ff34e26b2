"""Caps and cohorts change by the steward's word alone, and a cap is raised by saying so twice."""

import math

import pytest

from privacy.budget import (
    BudgetConflict,
    BudgetExceeded,
    BudgetUnreadable,
    DatasetUnknown,
    PrivacyBudget,
)
from privacy.events import DpSgdEvent, ImpossibleEvent
from privacy.stewardship import CapRaiseUnconfirmed, CohortFixed, Steward, open_dataset

ROUND = DpSgdEvent(1.0, 2.0, 4)


@pytest.fixture
def path(tmp_path):
    opened(tmp_path / "budget.db")
    return tmp_path / "budget.db"


def opened(path):
    return PrivacyBudget(path, dataset="scans", epsilon_limit=8.0, delta=1e-5, accountant="rdp")


def test_a_lowered_cap_stays_lowered_until_it_is_raised_and_confirmed(path):
    steward, budget = Steward(path, "scans"), opened(path)
    steward.set_limit(2.0)
    with pytest.raises(BudgetExceeded):
        opened(path).reserve("study", 1, ROUND)
    with pytest.raises(CapRaiseUnconfirmed):
        steward.set_limit(8.0)
    assert budget.limit() == 2.0
    steward.set_limit(8.0, confirm_raise=True)
    budget.reserve("study", 1, ROUND)


def test_a_data_set_has_no_cap_before_the_steward_opens_it(tmp_path):
    path = tmp_path / "budget.db"
    with pytest.raises(DatasetUnknown, match="--cap"):
        PrivacyBudget(path, dataset="scans", delta=1e-5)
    open_dataset(path, "scans", epsilon_limit=2.0, delta=1e-5)
    assert PrivacyBudget(path, dataset="scans", delta=1e-5).limit() == 2.0


def test_opening_a_data_set_again_changes_no_cap_and_no_delta(path):
    Steward(path, "scans").set_limit(2.0)
    open_dataset(path, "scans", epsilon_limit=8.0, delta=1e-5)
    assert opened(path).limit() == 2.0
    with pytest.raises(BudgetConflict):
        open_dataset(path, "scans", epsilon_limit=8.0, delta=1e-6)


def test_a_cap_below_what_was_spent_refuses_everything(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    Steward(path, "scans").set_limit(0.5)
    assert budget.left() == 0.0
    with pytest.raises(BudgetExceeded):
        budget.reserve("study", 2, DpSgdEvent(1.0, 100.0, 1))


def test_the_same_cap_again_is_no_entry(path):
    steward, budget = Steward(path, "scans"), opened(path)
    before = budget.head()
    steward.set_limit(8.0)
    assert budget.head() == before


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_cap_that_limits_nothing_is_refused(path, limit):
    with pytest.raises(ImpossibleEvent):
        Steward(path, "scans").set_limit(limit, confirm_raise=True)


def test_a_cohort_never_changes_and_keeps_no_patients_number(path):
    steward = Steward(path, "scans")
    steward.fix_cohort("men", ["patient-4711", "patient-4712"])
    with pytest.raises(CohortFixed):
        steward.fix_cohort("men", ["patient-4711"])
    for file in path.parent.iterdir():
        assert b"4711" not in file.read_bytes()


@pytest.mark.parametrize(("name", "patients"), [("men", []), ("", ["p1"]), ("No Slug", ["p1"])])
def test_what_cannot_be_a_cohort_is_refused(path, name, patients):
    with pytest.raises(CohortFixed):
        Steward(path, "scans").fix_cohort(name, patients)


def test_a_data_set_that_the_ledger_does_not_know_has_no_steward(path):
    with pytest.raises(BudgetUnreadable):
        Steward(path, "tables")
