"""Vesting wallets release what the schedule says, at every second, and everything in the end."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.contracts.machine import DAY, NOBODY, START, address, hexed, reverts

OWNER, STRANGER, JUDGE = address("beneficiary"), address("stranger"), address("judge")
MONTH = 30 * DAY
INSIDE, BEFORE = 0, 1
AMOUNT = 21_000_000 * 10**18 + 1


def expected(amount, now, cliff, duration, mode):
    """The slow obvious twin."""
    begin = START
    if mode == BEFORE:
        begin, cliff = begin + cliff, 0
    if now < begin + cliff:
        return 0
    return amount if now >= begin + duration else amount * (now - begin) // duration


@pytest.fixture
def vesting(machine, btt):
    def deploy(cliff, duration, mode, amount=AMOUNT):
        wallet = machine.deploy("Vesting", OWNER, START, cliff, duration, mode)
        btt.transfer(wallet.address, amount, sender=address("treasury"))
        return wallet

    return deploy


@settings(
    deadline=None,
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    terms=st.tuples(
        st.integers(0, 12 * MONTH), st.integers(0, 48 * MONTH), st.sampled_from([INSIDE, BEFORE])
    ),
    amount=st.integers(1, AMOUNT),
    times=st.lists(st.integers(0, 80 * MONTH), min_size=1, max_size=5),
)
def test_it_releases_what_the_schedule_says_at_every_second(btt, vesting, terms, amount, times):
    cliff, more, mode = terms
    machine = btt.machine
    machine.now = START
    wallet = vesting(cliff, cliff + more, mode, amount)
    before = btt.balanceOf(OWNER)
    for time in sorted(times):
        machine.now = START + time
        wallet.release(btt.address)
        due = expected(amount, machine.now, cliff, cliff + more, mode)
        assert btt.balanceOf(OWNER) - before == due == wallet.released(btt.address)
        assert wallet.vestedAmount(btt.address, machine.now) == due


@pytest.mark.parametrize(("mode", "end"), [(INSIDE, 36), (BEFORE, 42)])
def test_the_cliff_counts_inside_the_duration_or_before_it(machine, btt, vesting, mode, end):
    wallet = vesting(6 * MONTH, 36 * MONTH, mode)
    assert wallet.MODE() == mode
    assert wallet.duration() == 36 * MONTH
    assert wallet.end() == START + end * MONTH
    assert wallet.start() == START + (end - 36) * MONTH
    assert wallet.cliff() == START + 6 * MONTH
    machine.now = START + 6 * MONTH - 1
    assert wallet.releasable(btt.address) == 0
    machine.now += 1
    assert wallet.releasable(btt.address) == (AMOUNT * 6 // 36 if mode == INSIDE else 0)
    machine.now = START + end * MONTH
    assert wallet.releasable(btt.address) == AMOUNT


def test_anybody_may_release_and_the_beneficiary_is_paid(machine, btt, vesting):
    wallet = vesting(0, MONTH, INSIDE)
    machine.now += MONTH
    done = wallet.release(btt.address, sender=STRANGER)
    assert done.events == [("ERC20Released", hexed(btt.address), AMOUNT)]
    assert btt.balanceOf(OWNER) == AMOUNT


def test_ether_that_went_astray_is_released_alike(machine, vesting):
    wallet = vesting(0, MONTH, INSIDE)
    machine.vm.state.set_balance(wallet.address, 10)
    machine.now += MONTH
    assert (wallet.vestedAmount(machine.now), wallet.releasable()) == (10, 10)
    assert wallet.release().events == [("EtherReleased", 10)]
    assert wallet.released() == 10


def test_a_cliff_longer_than_the_duration_fits_only_before_it(machine):
    with reverts("InvalidCliffDuration"):
        machine.deploy("Vesting", OWNER, START, 2, 1, INSIDE)
    machine.deploy("Vesting", OWNER, START, 2, 1, BEFORE)


def test_a_wallet_always_has_a_beneficiary(machine, vesting):
    wallet = vesting(0, MONTH, INSIDE)
    with reverts("OwnableInvalidOwner"):
        machine.deploy("Vesting", NOBODY, START, 0, 1, INSIDE)
    with reverts("BeneficiaryNeeded"):
        wallet.renounceOwnership(sender=OWNER)
    with reverts("OwnableUnauthorizedAccount"):
        wallet.transferOwnership(STRANGER, sender=STRANGER)
    with reverts("OwnableInvalidOwner"):
        wallet.transferOwnership(NOBODY, sender=OWNER)
    done = wallet.transferOwnership(STRANGER, sender=OWNER)
    assert done.events == [("OwnershipTransferred", hexed(OWNER), hexed(STRANGER))]
    assert wallet.owner() == hexed(STRANGER)


# Milestones.

WEIGHTS = [5, 3, 2]
DATES = [START, START + MONTH, START + 2 * MONTH]


@pytest.fixture
def milestones(machine, btt):
    wallet = machine.deploy("MilestoneVesting", OWNER, JUDGE, WEIGHTS, DATES)
    btt.transfer(wallet.address, 10, sender=address("treasury"))
    return wallet


def test_a_tranche_is_released_once_its_milestone_was_reached(machine, btt, milestones):
    assert (milestones.JUDGE(), milestones.WEIGHTS(), milestones.TRANCHES_MAX()) == (
        hexed(JUDGE),
        10,
        64,
    )
    machine.now += MONTH
    assert milestones.releasable(btt.address) == 0
    done = milestones.reach(1, b"e" * 32, sender=JUDGE)
    assert done.events == [("MilestoneReached", 1, b"e" * 32)]
    assert milestones.tranches()[1] == (3, DATES[1], machine.now)
    assert milestones.releasable(btt.address) == 3
    assert milestones.vestedAmount(btt.address, machine.now - 1) == 0
    milestones.release(btt.address)
    milestones.reach(0, b"e" * 32, sender=JUDGE)
    machine.now += MONTH
    milestones.reach(2, b"e" * 32, sender=JUDGE)
    milestones.release(btt.address)
    assert btt.balanceOf(OWNER) == 10


def test_what_the_judge_may_not_decide_is_refused(machine, milestones):
    with reverts("NotTheJudge", hexed(STRANGER)):
        milestones.reach(0, b"e" * 32, sender=STRANGER)
    with reverts("EvidenceMissing"):
        milestones.reach(0, bytes(32), sender=JUDGE)
    with reverts("UnknownTranche", 3):
        milestones.reach(3, b"e" * 32, sender=JUDGE)
    with reverts("TrancheTooEarly", 1, DATES[1]):
        milestones.reach(1, b"e" * 32, sender=JUDGE)
    milestones.reach(0, b"e" * 32, sender=JUDGE)
    with reverts("ReachedAlready", 0):
        milestones.reach(0, b"e" * 32, sender=JUDGE)


@pytest.mark.parametrize(
    ("weights", "dates"), [([], []), ([1], []), ([0], [1]), ([1] * 65, [1] * 65)]
)
def test_malformed_tranches_are_refused(machine, weights, dates):
    with reverts("TranchesMalformed"):
        machine.deploy("MilestoneVesting", OWNER, JUDGE, weights, dates)


def test_a_wallet_of_milestones_always_has_a_beneficiary(milestones):
    with reverts("BeneficiaryNeeded"):
        milestones.renounceOwnership(sender=OWNER)
