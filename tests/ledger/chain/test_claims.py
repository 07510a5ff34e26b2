"""No root promises a nullifier less than the one before it, and a claim's proof pays it once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ledger import chart
from ledger.chain import claims
from ledger.chain.adapter import CustodyShort
from ledger.chain.bookings import CLAIMS
from ledger.chain.claims import LEAVES, ClaimsUnbalanced, LeafFell, LeavesDiffer, claim_call
from ledger.chain.node import NodeRefused
from ledger.chain.signer import Transaction
from ledger.contracts.tree import claim_leaf, climb
from ledger.journal import Leg
from protocol.ids import SiteId, StudyId
from tests.ledger.chain.world import NOW
from tests.ledger.contracts.test_distributor import CASES, PROOFS, RECIPIENTS
from zk.semaphore import check

POOL = chart.pool(StudyId("study"), SiteId("north"))
SOUTH = chart.pool(StudyId("study"), SiteId("south"))
TREES = st.dictionaries(st.integers(1, 2**253), st.integers(1, 2**90), min_size=1, max_size=9)


@given(TREES, TREES)
def test_what_grows_is_accepted_and_what_falls_is_refused(before, added):
    after = dict(before)
    for nullifier, amount in added.items():
        after[nullifier] = after.get(nullifier, 0) + amount
    claims.check(before, after)
    with pytest.raises(LeafFell):
        claims.check(after, before)


def test_a_sum_that_agrees_hides_no_leaf_that_fell():
    with pytest.raises(LeafFell) as refusal:
        claims.check({7: 100, 8: 50}, {7: 149, 8: 1})
    assert (refusal.value.before, refusal.value.now) == (50, 1)
    with pytest.raises(LeafFell):
        claims.check({}, {7: 0})


@given(TREES)
def test_every_path_leads_to_the_root(leaves):
    root = claims.tree_over(leaves).root
    for nullifier, amount in leaves.items():
        path = claims.path_of(leaves, nullifier)
        assert climb(claim_leaf(nullifier, amount), path) == root


def funded(world, *pools):
    world.ledger.open_accounts(pools)
    for one in pools:
        world.ledger.transfer(one, chart.treasury("mining"), one, 1_000, memo="", now=NOW)
    return world.adapter()


def publish(world, owed):
    adapter = world.adapter()
    return adapter.publish(owed, clock=lambda: NOW, sleep=lambda _seconds: world.chain.mine())


def send_claim(world, proof, recipient, leaves):
    """Send a claim as anybody would, and return whether it was paid."""
    path = claims.path_of(leaves, proof.nullifier)
    data = claim_call(
        proof.nullifier,
        leaves[proof.nullifier],
        recipient,
        path,
        group=proof.root,
        scope=proof.scope,
        points=proof.points,
    )
    to, nonce = world.deployment.address("Distributor"), world.node.nonce(world.signer.address)
    made = Transaction(world.node.chain_id, nonce, to, data, 900_000, 100 * 10**9, 10**9)
    signed = world.signer.sign(made)
    try:
        world.node.estimate(world.signer.address, to, data)
    except NodeRefused:
        return False
    world.node.send(signed.raw)
    world.chain.mine()
    return world.node.receipt(signed.hash).succeeded


@pytest.mark.slow
def test_what_was_claimed_is_paid_once_to_the_address_of_the_proof(evm):
    funded(evm, POOL, SOUTH)
    mine, other = PROOFS[0], PROOFS[2]
    check(mine, root=mine.root, scope=mine.scope, message=mine.message)
    owed = {mine.nullifier: Leg(POOL, CLAIMS, 30), other.nullifier: Leg(SOUTH, CLAIMS, 20)}
    assert publish(evm, owed) == 1
    leaves = evm.adapter().leaves()
    assert leaves == {mine.nullifier: 30, other.nullifier: 20}
    assert [evm.ledger.balance(one) for one in (POOL, SOUTH, CLAIMS)] == [970, 980, 50]
    assert send_claim(evm, mine, RECIPIENTS[0], leaves)
    assert evm.balance(RECIPIENTS[0]) == 30
    assert not send_claim(evm, mine, RECIPIENTS[0], leaves)
    # The thief's proof is the same member's, to another address: one nullifier, paid already.
    assert not send_claim(evm, PROOFS[1], RECIPIENTS[1], leaves)
    assert publish(evm, {mine.nullifier: Leg(POOL, CLAIMS, 5)}) == 2
    assert send_claim(evm, mine, RECIPIENTS[0], evm.adapter().leaves())
    assert evm.balance(RECIPIENTS[0]) == 35
    assert send_claim(evm, other, RECIPIENTS[2], evm.adapter().leaves())
    assert evm.reconciled().differences == ()
    evm.ledger.verify()


@pytest.mark.slow
def test_a_root_that_takes_from_a_leaf_is_not_booked(evm):
    adapter = funded(evm, POOL)
    publish(evm, {11: Leg(POOL, CLAIMS, 30), 12: Leg(POOL, CLAIMS, 20)})
    with pytest.raises(LeafFell):
        adapter.plan_claims({11: 55}, [Leg(POOL, CLAIMS, 5)], now=NOW)
    with pytest.raises(ClaimsUnbalanced):
        adapter.plan_claims({11: 35, 12: 20}, [Leg(POOL, CLAIMS, 6)], now=NOW)
    assert evm.ledger.balance(CLAIMS) == 50
    with evm.ledger.begin() as connection:
        connection.execute(sa.update(LEAVES).where(LEAVES.c.root == 1).values(cumulative=1))
    with pytest.raises(LeavesDiffer):
        adapter.plan_claims({11: 35, 12: 20}, [Leg(POOL, CLAIMS, 5)], now=NOW)
    assert evm.ledger.balance(CLAIMS) == 50


@pytest.mark.slow
def test_claims_that_custody_cannot_fund_are_not_booked(evm):
    evm.ledger.open_account(POOL)
    for bucket, amount in evm.ledger.balances("treasury:").items():
        evm.ledger.transfer(bucket, bucket, POOL, amount, memo="", now=NOW)
    everything = evm.ledger.balance(POOL)
    with pytest.raises(CustodyShort):
        publish(evm, {11: Leg(POOL, CLAIMS, everything)})
    assert evm.ledger.balance(POOL) == everything


def test_the_recipients_of_the_vectors_are_as_the_contract_writes_them():
    assert all(case["recipient"] != case["recipient"].lower() for case in CASES)
