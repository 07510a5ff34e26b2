"""An escrow pays out at most what was put in, and ends exactly once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import chart
from ledger.escrow import (
    Escrow,
    EscrowEnded,
    EscrowOpenedAlready,
    UnknownEscrow,
    escrow_of,
    open_escrow,
    refund,
    release,
)
from ledger.journal import (
    AccountReserved,
    EmptyTransfer,
    IdempotencyConflict,
    InsufficientFunds,
    NegativeAmount,
    UnknownAccount,
)

FUNDER = chart.wallet("funder")
STRANGER = chart.wallet("stranger")
NORTH = chart.wallet("north")
SOUTH = chart.wallet("south")
ECOSYSTEM = chart.treasury("ecosystem")


@pytest.fixture
def held(ledger, now):
    open_escrow(ledger, "open", FUNDER, "study", 100, now=now)
    return ledger


def test_money_put_up_is_held_apart(held):
    assert escrow_of(held, "study") == Escrow("study", FUNDER, 100, 100, "held")
    assert held.balance(FUNDER) == 900


def test_it_pays_in_parts_and_is_captured_with_the_last(held, now):
    release(held, "r1", "study", {NORTH: 30, SOUTH: 20}, now=now)
    assert escrow_of(held, "study") == Escrow("study", FUNDER, 100, 50, "held")
    release(held, "r2", "study", {NORTH: 50}, now=now)
    assert escrow_of(held, "study").state == "captured"
    assert held.balances("wallet:") == {FUNDER: 900, NORTH: 80, SOUTH: 20, STRANGER: 0}
    held.verify()


def test_what_is_left_returns_to_the_funder(held, now):
    release(held, "r1", "study", {NORTH: 30}, now=now)
    refund(held, "end", "study", now=now)
    assert escrow_of(held, "study") == Escrow("study", FUNDER, 100, 0, "refunded")
    assert held.balance(FUNDER) == 970
    held.verify()


def test_every_step_repeated_makes_the_transfer_it_made(held, now):
    steps = [
        lambda: open_escrow(held, "open", FUNDER, "study", 100, now=now),
        lambda: release(held, "r1", "study", {NORTH: 30}, now=now),
        lambda: refund(held, "end", "study", now=now),
    ]
    first = [step() for step in steps]
    assert [step() for step in steps] == first
    assert held.balances("wallet:") == {FUNDER: 970, NORTH: 30, STRANGER: 0}


def test_the_order_of_the_payouts_does_not_matter(held, now):
    first = release(held, "r", "study", {NORTH: 30, SOUTH: 20}, now=now)
    assert release(held, "r", "study", {SOUTH: 20, NORTH: 30}, now=now) == first


def test_after_a_refund_nothing_more_happens(held, now):
    refund(held, "end", "study", now=now)
    with pytest.raises(EscrowEnded, match="refunded"):
        release(held, "r", "study", {NORTH: 1}, now=now)
    with pytest.raises(EscrowEnded):
        refund(held, "another end", "study", now=now)
    with pytest.raises(EscrowOpenedAlready):
        open_escrow(held, "open again", FUNDER, "study", 5, now=now)


def test_after_the_last_release_nothing_more_happens(held, now):
    release(held, "r", "study", {NORTH: 100}, now=now)
    with pytest.raises(EscrowEnded, match="captured"):
        refund(held, "end", "study", now=now)
    with pytest.raises(EscrowEnded):
        release(held, "r2", "study", {NORTH: 1}, now=now)


def test_a_held_escrow_is_not_opened_again(held, now):
    with pytest.raises(EscrowOpenedAlready):
        open_escrow(held, "other key", FUNDER, "study", 100, now=now)
    with pytest.raises(IdempotencyConflict):
        open_escrow(held, "open", FUNDER, "study", 101, now=now)


def test_a_key_of_another_step_is_refused(held, now):
    release(held, "r", "study", {NORTH: 1}, now=now)
    with pytest.raises(IdempotencyConflict):
        refund(held, "r", "study", now=now)
    with pytest.raises(IdempotencyConflict):
        release(held, "open", "study", {NORTH: 1}, now=now)
    with pytest.raises(IdempotencyConflict):
        release(held, "r", "study", {NORTH: 2}, now=now)


def test_more_than_is_held_is_not_released(held, now):
    with pytest.raises(InsufficientFunds):
        release(held, "r", "study", {NORTH: 60, SOUTH: 41}, now=now)
    assert escrow_of(held, "study").remaining == 100


@pytest.mark.parametrize(
    ("payouts", "refusal"),
    [
        ({NORTH: -1}, NegativeAmount),
        ({NORTH: 0}, EmptyTransfer),
        ({}, EmptyTransfer),
        ({chart.escrow("other"): 1}, AccountReserved),
        ({chart.GENESIS: 1}, AccountReserved),
    ],
)
def test_a_release_that_is_no_payment_is_refused(held, now, payouts, refusal):
    with pytest.raises(refusal):
        release(held, "r", "study", payouts, now=now)
    assert escrow_of(held, "study").remaining == 100


@pytest.mark.parametrize(
    ("funder", "amount", "refusal"),
    [
        (FUNDER, 1001, InsufficientFunds),
        (FUNDER, -5, NegativeAmount),
        (FUNDER, 0, EmptyTransfer),
        (chart.wallet("nobody"), 1, UnknownAccount),
        (chart.escrow("other"), 1, AccountReserved),
    ],
)
def test_what_cannot_be_put_up_opens_no_escrow(ledger, now, funder, amount, refusal):
    with pytest.raises(refusal):
        open_escrow(ledger, "open", funder, "study", amount, now=now)
    with pytest.raises(UnknownEscrow):
        escrow_of(ledger, "study")
    assert "escrow:study" not in ledger.balances()


def test_an_order_nobody_funded_is_unknown(ledger, now):
    for step in (
        lambda: release(ledger, "r", "study", {NORTH: 1}, now=now),
        lambda: refund(ledger, "end", "study", now=now),
        lambda: escrow_of(ledger, "study"),
    ):
        with pytest.raises(UnknownEscrow):
            step()


parts = st.lists(st.integers(1, 60), max_size=5)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=parts)
def test_what_goes_in_comes_out(ledger, now, parts):
    order = f"order-{len(ledger.balances('escrow:'))}"
    before = ledger.balances("wallet:").get(NORTH, 0)
    open_escrow(ledger, f"open:{order}", ECOSYSTEM, order, 100, now=now)
    released = 0
    for step, part in enumerate(parts):
        if escrow_of(ledger, order).state == "held" and released + part <= 100:
            release(ledger, f"{step}:{order}", order, {NORTH: part}, now=now)
            released += part
    if released < 100:
        refund(ledger, f"end:{order}", order, now=now)
    found = escrow_of(ledger, order)
    assert found.remaining == 0
    assert found.state == ("captured" if released == 100 else "refunded")
    assert ledger.balances("wallet:").get(NORTH, 0) - before == released
