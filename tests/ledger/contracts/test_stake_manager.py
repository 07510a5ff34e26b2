"""Stake leaves after 21 days of notice or is slashed, half burned and half to victims."""

import pytest

from tests.ledger.contracts.machine import DAY, NOBODY, SUPPLY, address, hexed, reverts
from tests.ledger.contracts.test_order_escrow import calling_back

PARTY, SLASHER, ADMIN = address("party"), address("slasher"), address("admin")
VICTIMS, STRANGER = address("victims"), address("stranger")
EVIDENCE = b"e" * 32
NONE, BONDED, UNBONDING, FREE = range(4)


@pytest.fixture
def stakes(machine, btt, fund):
    stakes = machine.deploy("StakeManager", btt.address, VICTIMS, ADMIN)
    stakes.grantRole(stakes.SLASHER_ROLE(), SLASHER, sender=ADMIN)
    fund("party", 1_000, stakes)
    return stakes


def test_stake_is_bonded_unbonds_for_21_days_and_is_free(machine, btt, stakes):
    assert stakes.stateOf(PARTY) == NONE
    assert stakes.bond(1_000, sender=PARTY).events == [("Bonded", hexed(PARTY), 1_000)]
    assert stakes.stateOf(PARTY) == BONDED
    free_at = machine.now + stakes.UNBONDING_TIME()
    done = stakes.unbond(400, sender=PARTY)
    assert done.events == [("Unbonding", hexed(PARTY), 400, free_at)]
    assert stakes.stakeOf(PARTY) == (600, 400, free_at)
    machine.now = free_at - 1
    assert stakes.stateOf(PARTY) == UNBONDING
    with reverts("UnbondingStill", hexed(PARTY), free_at):
        stakes.withdraw(sender=PARTY)
    machine.now = free_at
    assert stakes.stateOf(PARTY) == FREE
    assert stakes.withdraw(sender=PARTY).events == [("Withdrawn", hexed(PARTY), 400)]
    assert (btt.balanceOf(PARTY), stakes.staked(), stakes.stateOf(PARTY)) == (400, 600, BONDED)
    with reverts("NothingUnbonding", hexed(PARTY)):
        stakes.withdraw(sender=PARTY)


def test_unbonding_more_starts_the_21_days_of_all_anew(machine, stakes):
    stakes.bond(1_000, sender=PARTY)
    stakes.unbond(400, sender=PARTY)
    machine.now += 20 * DAY
    stakes.unbond(100, sender=PARTY)
    assert stakes.stakeOf(PARTY) == (500, 500, machine.now + 21 * DAY)


@pytest.mark.parametrize("amount", [1, 2, 601, 1_000])
def test_slashed_stake_is_half_burned_half_the_victims_also_while_unbonding(btt, stakes, amount):
    stakes.bond(1_000, sender=PARTY)
    stakes.unbond(400, sender=PARTY)
    done = stakes.slash(PARTY, amount, EVIDENCE, sender=SLASHER)
    burned = amount // 2
    assert done.events == [("Slashed", hexed(PARTY), amount, burned, amount - burned, EVIDENCE)]
    assert btt.balanceOf(VICTIMS) == amount - burned
    assert btt.totalSupply() == SUPPLY - burned
    assert stakes.staked() == btt.balanceOf(stakes.address) == 1_000 - amount
    bonded, unbonding, _ = stakes.stakeOf(PARTY)
    assert (bonded, unbonding) == (max(600 - amount, 0), 400 - max(amount - 600, 0))


def test_what_is_free_cannot_be_slashed(machine, stakes):
    stakes.bond(1_000, sender=PARTY)
    stakes.unbond(400, sender=PARTY)
    assert stakes.slashable(PARTY) == 1_000
    machine.now += 21 * DAY
    assert stakes.slashable(PARTY) == 600
    with reverts("AmountOutOfRange", 601, 600):
        stakes.slash(PARTY, 601, EVIDENCE, sender=SLASHER)
    stakes.slash(PARTY, 600, EVIDENCE, sender=SLASHER)
    stakes.withdraw(sender=PARTY)


def test_only_the_slasher_slashes_and_names_evidence(stakes):
    stakes.bond(1_000, sender=PARTY)
    with reverts("AccessControlUnauthorizedAccount"):
        stakes.slash(PARTY, 1, EVIDENCE, sender=ADMIN)
    with reverts("EvidenceMissing"):
        stakes.slash(PARTY, 1, bytes(32), sender=SLASHER)
    with reverts("AmountOutOfRange", 0, 1_000):
        stakes.slash(PARTY, 0, EVIDENCE, sender=SLASHER)


def test_amounts_out_of_range_are_refused(stakes):
    for amount in (0, 2**96):
        with reverts("AmountOutOfRange", amount, 2**96 - 1):
            stakes.bond(amount, sender=PARTY)
    for amount in (0, 1):
        with reverts("AmountOutOfRange", amount, 0):
            stakes.unbond(amount, sender=PARTY)
    with reverts("ERC20InsufficientBalance"):
        stakes.bond(1_001, sender=PARTY)


def test_a_pool_for_victims_is_needed(machine, btt):
    with reverts("VictimsMalformed"):
        machine.deploy("StakeManager", btt.address, NOBODY, ADMIN)


def test_it_knows_its_token_and_pool(btt, stakes):
    assert (stakes.TOKEN(), stakes.VICTIMS()) == (hexed(btt.address), hexed(VICTIMS))


def test_a_token_that_calls_back_finds_the_door_shut(machine):
    stakes = machine.deploy("StakeManager", address("placed"), VICTIMS, ADMIN)
    (entry,) = [one for one in stakes.abi if one.get("name") == "bond"]
    machine.place(calling_back(stakes.encoded(entry, (1,))))
    with reverts("ReentrancyGuardReentrantCall"):
        stakes.bond(1, sender=PARTY)


def test_a_token_that_says_no_is_heard(machine):
    stakes = machine.deploy("StakeManager", address("placed"), VICTIMS, ADMIN)
    machine.place(bytes.fromhex("5f5f5260205ff3"))  # returns false
    with reverts("SafeERC20FailedOperation"):
        stakes.bond(1, sender=PARTY)
