"""Whatever a node or a chain does to a transaction, it happens once, within its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.chain.adapter import NonceForeign
from ledger.chain.calls import encoded
from ledger.chain.node import NodeUnreachable
from ledger.chain.outbox import Intent
from ledger.chain.sender import (
    CallWouldRevert,
    FeeAboveBound,
    GasAboveBound,
    SettlementUnfinished,
    TransactionReverted,
)
from ledger.chain.signer import Transaction
from tests.ledger.chain.world import NOW, address

pytestmark = pytest.mark.slow
OWED = {"north": 5, "south": 7}


@pytest.fixture(params=["evm", "anvil"])
def world(request):
    made = request.getfixturevalue(request.param)
    made.owe(OWED)
    return made


def paid_once(world):
    assert world.all_held(list(OWED)) == OWED
    assert world.reconciled().differences == ()


def step(world, times=1, transport=None, **limits):
    sender = world.sender(transport)
    sender.limits = replace(sender.limits, **limits)
    for _ in range(times):
        left = sender.step(now=NOW)
    return left


def booked(world):
    """Book an epoch of two batches of one payout."""
    assert world.adapter(batch=1).plan(now=NOW).recipients == 2


def test_a_reorganisation_brings_the_same_bytes_back(world):
    booked(world)
    before = world.chain.snapshot()
    step(world)
    world.chain.mine()
    step(world)
    raws = {one.raw for one in world.outbox().attempts()}
    assert {one.state for one in world.outbox().attempts()} == {"mined"}
    world.chain.revert(before)
    world.chain.drop()
    world.chain.mine()
    step(world)
    assert {one.state for one in world.outbox().attempts()} == {"broadcast"}
    world.settle(batch=1)
    assert {one.raw for one in world.outbox().attempts()} == raws
    paid_once(world)


def test_a_reorganisation_of_anvils_own_brings_them_back(anvil):
    anvil.owe(OWED)
    booked(anvil)
    step(anvil)
    anvil.chain.mine()
    step(anvil)
    assert {one.state for one in anvil.outbox().attempts()} == {"mined"}
    anvil.chain("anvil_reorg", [1, []])
    anvil.chain.drop()
    anvil.settle(batch=1)
    paid_once(anvil)


def test_a_dropped_transaction_is_sent_again(world):
    booked(world)
    step(world)
    world.chain.drop()
    world.settle(batch=1)
    assert len(world.outbox().attempts()) == 2
    paid_once(world)


def test_a_node_that_answers_late_has_it_already(world):
    late = []

    def transport(method, parameters):
        answer = world.chain(method, parameters)
        if method == "eth_sendRawTransaction" and len(late) < 2:
            late.append(parameters)
            raise NodeUnreachable(method, "late")
        return answer

    world.settle(transport, batch=1)
    assert len(late) == 2
    assert len(world.outbox().attempts()) == 2
    paid_once(world)


def test_a_node_that_is_told_everything_twice_does_it_once(world):
    def transport(method, parameters):
        if method == "eth_sendRawTransaction":
            world.chain(method, parameters)
        return world.chain(method, parameters)

    world.settle(transport, batch=1)
    paid_once(world)


def test_a_node_that_is_silent_for_long_is_given_up(world):
    def transport(method, parameters):
        if method == "eth_sendRawTransaction":
            raise NodeUnreachable(method, "silent")
        return world.chain(method, parameters)

    with pytest.raises(NodeUnreachable):
        world.settle(transport)
    world.settle()
    paid_once(world)


def test_a_fee_too_low_is_raised_under_the_same_nonce(world):
    booked(world)
    step(world)
    world.chain.drop()

    def full(method, parameters):
        """A node without room for cheap transactions."""
        return None if method == "eth_sendRawTransaction" else world.chain(method, parameters)

    for _ in range(3):
        world.chain.mine()
        step(world, transport=full, patience=2)
    attempts = world.outbox().attempts()
    assert len(attempts) == 4
    assert len({one.nonce for one in attempts}) == 2
    for nonce in {one.nonce for one in attempts}:
        first, second = (one for one in attempts if one.nonce == nonce)
        assert second.fee >= first.fee * 11 // 10
    world.settle(batch=1)
    states = sorted(one.state for one in world.outbox().attempts())
    assert states == ["final", "final", "replaced", "replaced"]
    paid_once(world)


def foreign(world, nonce):
    """Another program with the same key spends a nonce."""
    fee = (21_000, 100 * 10**9, 50 * 10**9)
    raw = world.signer.sign(Transaction(world.node.chain_id, nonce, address("else"), b"", *fee)).raw
    world.chain.drop()
    world.node.send(raw)
    world.chain.mine(4)


def test_a_nonce_that_went_to_another_is_left_to_it(world):
    booked(world)
    step(world)
    foreign(world, min(one.nonce for one in world.outbox().attempts()))
    world.settle(batch=1)
    paid_once(world)


def test_a_nonce_that_nothing_uses_is_filled(world):
    booked(world)
    step(world)
    first, second = world.outbox().intents("chain:pay:")
    # The first batch is found paid by other means; its transaction is not wanted any more.
    world.chain.drop()
    outbox = world.outbox()
    outbox.done(first.intent, "found paid")
    world.sender().drive(clock=lambda: NOW, sleep=lambda _: world.chain.mine())
    assert [one.state for one in outbox.intents("fill:")] == ["final"]
    assert outbox.intent(second.intent).state == "final"


def test_what_takes_too_much_gas_is_not_signed(world):
    booked(world)
    for limits in ({"gas_per_transaction": 50_000}, {"gas_per_epoch": 150_000}):
        with pytest.raises(GasAboveBound):
            step(world, **limits)
    assert len(world.outbox().attempts()) <= 1
    world.settle(batch=1)
    paid_once(world)


def test_roots_and_releases_never_use_up_a_bound(world):
    sender, token = world.sender(), world.deployment.address("BTT")
    sender.limits = replace(sender.limits, gas_per_epoch=80_000)
    for amount in (1, 2, 3):
        asked = encoded("BTT", "approve", address("else"), amount)
        sender.outbox.plan([Intent(f"outside an epoch:{amount}", 0, token, asked)], now=NOW)
        sender.drive(clock=lambda: NOW, sleep=lambda _seconds: world.chain.mine())
    with pytest.raises(GasAboveBound):
        for amount in (4, 5, 6):
            asked = encoded("BTT", "approve", address("else"), amount)
            sender.outbox.plan([Intent(f"at once:{amount}", 0, token, asked)], now=NOW)
            sender.step(now=NOW)


def test_a_fee_above_the_bound_is_not_signed(world):
    booked(world)
    with pytest.raises(FeeAboveBound):
        step(world, fee_max=1)
    assert world.outbox().attempts() == []


def test_what_the_contract_would_refuse_is_not_sent(world):
    distributor = world.deployment.address("Distributor")
    data = encoded("Distributor", "payBatch", b"b" * 32, [])
    world.outbox().plan([Intent("empty", 1, distributor, data)], now=NOW)
    with pytest.raises(CallWouldRevert, match="CountOutOfRange"):
        step(world)
    assert world.outbox().attempts() == []


def test_what_the_contract_refuses_later_is_reported_and_can_be_tried_again(world):
    booked(world)
    token, distributor = world.deployment.address("BTT"), world.deployment.address("Distributor")
    step(world)
    attempts = world.outbox().attempts()
    # The allowance is taken back in a block before.
    fee = (100_000, 100 * 10**9, 50 * 10**9)
    taken = encoded("BTT", "approve", distributor, 0)
    world.chain.drop()
    place = (world.node.chain_id, attempts[0].nonce, token, taken)
    world.node.send(world.signer.sign(Transaction(*place, *fee)).raw)
    world.chain.mine()
    world.node.send(attempts[1].raw)
    world.chain.mine(3)
    with pytest.raises(TransactionReverted):
        step(world, times=3)
    assert [one.state for one in world.outbox().intents()].count("failed") == 1
    given = encoded("BTT", "approve", distributor, 1 << 200)
    place = (world.node.chain_id, world.node.nonce(world.signer.address), token, given)
    world.chain.drop()
    world.node.send(world.signer.sign(Transaction(*place, *fee)).raw)
    world.chain.mine(3)
    assert len(world.adapter().retry_failed()) == 1
    world.settle(batch=1)
    paid_once(world)


def test_it_ends_when_the_time_is_over(world):
    booked(world)
    sender = world.sender()
    sender.limits = replace(sender.limits, polls=2)
    with pytest.raises(SettlementUnfinished):
        sender.drive(clock=lambda: NOW, sleep=lambda _: None)


def test_a_burn_waits_for_transactions_that_are_not_ours(world):
    world.ledger.burn("b", "treasury:mining", 9, memo="", now=NOW)
    fee = (21_000, 100 * 10**9, 50 * 10**9)
    place = (world.node.chain_id, world.node.nonce(world.signer.address), address("else"), b"")
    world.node.send(world.signer.sign(Transaction(*place, *fee)).raw)
    with pytest.raises(NonceForeign):
        world.adapter().plan(now=NOW)
    world.chain.mine()
    world.settle()
    paid_once(world)
