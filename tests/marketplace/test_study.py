"""A study's terms can be paid exactly as written, and its money is put up once."""

from __future__ import annotations

import pytest

from ledger import chart
from ledger.escrow import escrow_of
from ledger.journal import IdempotencyConflict, InsufficientFunds
from marketplace.study import Study, StudyRefused, fund
from protocol.ids import StudyId

BUYER = chart.wallet("buyer")


@pytest.mark.parametrize(
    "changed",
    [
        {"study": StudyId("Not A Slug")},
        {"study": StudyId("")},
        {"rounds": 0},
        {"rounds": 20_000, "budget": 10**6},
        {"budget": 2},
        {"budget": -1000},
        {"patient_share_percent": 101},
        {"patient_share_percent": -1},
    ],
)
def test_terms_that_cannot_be_paid_cannot_be_made(changed):
    terms = {"study": StudyId("study"), "funder": BUYER, "budget": 1000, "rounds": 3}
    Study(**terms)
    with pytest.raises(StudyRefused):
        Study(**(terms | changed))


def test_the_funder_must_be_an_account_of_the_chart():
    with pytest.raises(chart.AccountMisnamed):
        Study(StudyId("study"), "the buyer", 1000, 3)


def test_the_rounds_share_the_budget_exactly(study):
    assert [study.round_budget(number) for number in (1, 2, 3)] == [334, 333, 333]


def test_funding_twice_moves_the_money_once(unfunded, study, now):
    first = fund(unfunded, study, now=now)
    assert fund(unfunded, study, now=now) == first
    assert unfunded.balance(BUYER) == 500
    assert escrow_of(unfunded, "study").remaining == 1000


def test_a_buyer_without_the_money_funds_nothing(unfunded, now):
    with pytest.raises(InsufficientFunds):
        fund(unfunded, Study(StudyId("study"), BUYER, 1501, 3), now=now)
    assert unfunded.balance(BUYER) == 1500


def test_a_funded_study_keeps_its_budget(ledger, now):
    with pytest.raises(IdempotencyConflict):
        fund(ledger, Study(StudyId("study"), BUYER, 400, 3), now=now)
