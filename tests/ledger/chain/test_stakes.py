"""A party's stake on the chain leaves her account once, and comes back once, after its time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ledger.chain.outbox import Intent, Outbox
from ledger.chain.sender import CallWouldRevert, Sender
from ledger.chain.signer import LocalSigner
from ledger.chain.stakes import ChainStake, StakeOfCustody, Staker, stake_of
from ledger.contracts.tree import keccak256
from ledger.store import open_tables
from tests.ledger.chain.world import NOW

PARTY = LocalSigner(keccak256(b"a party that stakes"))
ETHER = 10**18

pytestmark = pytest.mark.slow


@pytest.fixture
def party(evm, tmp_path):
    """A party with 1,000 base units and gas, paid by whoever settles."""
    for to, value, data in (
        (PARTY.address, ETHER, b""),
        (evm.deployment.address("BTT"), 0, paying(PARTY.address, 1_000)),
    ):
        send(evm, to, value, data)
    return Outbox(open_tables(tmp_path / "party.db"))


def paying(to, amount):
    from ledger.chain.calls import encoded

    return encoded("BTT", "transfer", to, amount)


def send(world, to, value, data):
    """Send from the settlement account."""
    from eth_account import Account

    nonce = world.node.nonce(world.signer.address)
    fields = {
        "to": to,
        "value": value,
        "data": data,
        "nonce": nonce,
        "chainId": world.node.chain_id,
        "gas": 100_000,
        "maxFeePerGas": 100 * 10**9,
        "maxPriorityFeePerGas": 10**9,
        "type": 2,
    }
    signed = Account.sign_transaction(fields, keccak256(b"the settlement account"))
    world.node.send(bytes(signed.raw_transaction))
    world.chain.mine()


def staker(world, outbox, signer=PARTY):
    sender = Sender(world.node, signer, outbox, world.limits)
    return Staker(
        sender, world.deployment, clock=lambda: NOW, sleep=lambda _seconds: world.chain.mine()
    )


def stake(world):
    return stake_of(world.node, world.deployment, PARTY.address)


def test_a_stake_goes_its_way(evm, party):
    assert stake(evm) == ChainStake("none", 0, 0, 0, 0)
    assert staker(evm, party).bond(600)
    assert stake(evm) == ChainStake("bonded", 600, 0, 0, 600)
    assert evm.balance(PARTY.address) == 400
    assert staker(evm, party).unbond(250)
    found = stake(evm)
    assert (found.state, found.bonded, found.unbonding, found.slashable) == (
        "unbonding",
        350,
        250,
        600,
    )
    with pytest.raises(CallWouldRevert, match="UnbondingStill"):
        staker(evm, party).withdraw()
    assert not party.undone()
    evm.chain.tester.time_travel(found.free_at + timedelta(minutes=1).seconds)
    evm.chain.mine()
    assert stake(evm).state == "free"
    assert staker(evm, party).withdraw()
    assert evm.balance(PARTY.address) == 650
    assert stake(evm).bonded == 350


def test_more_than_the_party_has_is_not_sent_and_stops_nothing(evm, party):
    with pytest.raises(CallWouldRevert):
        staker(evm, party).bond(1_001)
    assert staker(evm, party).bond(1_000)
    assert stake(evm).bonded == 1_000
    with pytest.raises(CallWouldRevert):
        staker(evm, party).unbond(1_001)


def test_what_was_begun_is_finished_and_nothing_is_bonded_beside_it(evm, party):
    from ledger.chain.calls import encoded

    manager = evm.deployment.address("StakeManager")
    token = evm.deployment.address("BTT")
    party.plan(
        [Intent("chain:stake:000001:approve", 0, token, encoded("BTT", "approve", manager, 500))],
        now=NOW,
    )
    staker(evm, party)._finish()
    begun = Intent("chain:stake:000002:bond", 0, manager, encoded("StakeManager", "bond", 500))
    party.plan([begun], now=NOW)
    assert not staker(evm, party).bond(500)
    assert stake(evm).bonded == 500
    assert staker(evm, party).bond(100)
    assert stake(evm).bonded == 600


def test_an_approval_that_was_begun_is_no_stake(evm, party):
    from ledger.chain.calls import encoded

    manager = evm.deployment.address("StakeManager")
    data = encoded("BTT", "approve", manager, 7)
    name = "chain:stake:000001:approve"
    party.plan([Intent(name, 0, evm.deployment.address("BTT"), data)], now=NOW)
    assert staker(evm, party).bond(100)
    assert stake(evm).bonded == 100


def test_the_custody_account_stakes_nothing(evm, party):
    with pytest.raises(StakeOfCustody):
        staker(evm, party, evm.signer)
