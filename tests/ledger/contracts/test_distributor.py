"""Batches are paid once; a nullifier gets what the tree owes it, once, where its proof says."""

import json
from pathlib import Path

import pytest

from consent.claims import claim_message
from ledger.contracts.tree import Tree, claim_leaf
from tests.ledger.contracts.machine import NOBODY, address, hexed, reverts
from tests.ledger.contracts.test_order_escrow import calling_back
from zk.semaphore import SemaphoreProof

VECTORS = Path(__file__).parents[2] / "vectors" / "ledger" / "claims.json"
CASES = json.loads(VECTORS.read_text())["claims"]
PROOFS = [SemaphoreProof.from_json(json.dumps(case["proof"])) for case in CASES]
RECIPIENTS = [bytes.fromhex(case["recipient"][2:]) for case in CASES]
SETTLER, PAUSER, ADMIN = address("settler"), address("pauser"), address("admin")
STRANGER = address("stranger")
FUNDS = 10**24
MINE, OTHER = PROOFS[0].nullifier, PROOFS[2].nullifier


def deploy(machine, btt, fund, verifier):
    distributor = machine.deploy("Distributor", btt.address, verifier, ADMIN)
    distributor.grantRole(distributor.SETTLER_ROLE(), SETTLER, sender=ADMIN)
    distributor.grantRole(distributor.PAUSER_ROLE(), PAUSER, sender=ADMIN)
    fund("settler", FUNDS, distributor)
    return distributor


@pytest.fixture
def distributor(machine, btt, fund):
    """With the real verifier: a claim takes half a second."""
    return deploy(machine, btt, fund, machine.deploy("SemaphoreVerifier").address)


@pytest.fixture
def trusting(machine, btt, fund):
    """With a verifier that accepts everything: for the rules about money."""
    return deploy(machine, btt, fund, machine.place(b"\x00", "accepts all"))


@pytest.fixture
def refusing(machine, btt, fund):
    return deploy(machine, btt, fund, machine.place(b"\x5f\x5f\xfd", "refuses all"))


def claim_of(i, cumulative, **changed):
    proof = PROOFS[i]
    points = [int.from_bytes(proof.points[j : j + 32], "big") for j in range(0, 256, 32)]
    fields = {
        "nullifier": proof.nullifier,
        "cumulative": cumulative,
        "recipient": RECIPIENTS[i],
        "group": proof.root,
        "scope": proof.scope,
        "proof": points,
    } | changed
    return tuple(fields.values())


def settle(distributor, epoch, owed):
    """Settle a tree of {nullifier: cumulative}; return the path of each."""
    nullifiers = list(owed)
    tree = Tree([claim_leaf(one, owed[one]) for one in nullifiers])
    done = distributor.settle(epoch, tree.root, sum(owed.values()), sender=SETTLER)
    return done, {one: tree.path(i) for i, one in enumerate(nullifiers)}, tree.root


# Batches.


def test_a_batch_is_paid_once_by_its_id(btt, distributor):
    payouts = [(address(f"site {i}"), i + 1) for i in range(10)]
    done = distributor.payBatch(b"b" * 32, payouts, sender=SETTLER)
    assert done.events == [("BatchPaid", b"b" * 32, hexed(SETTLER), 10, 55)]
    assert [btt.balanceOf(one) for one, _ in payouts] == list(range(1, 11))
    assert btt.balanceOf(distributor.address) == 0
    assert distributor.batchPaid(b"b" * 32)
    with reverts("BatchPaidAlready", b"b" * 32):
        distributor.payBatch(b"b" * 32, payouts, sender=SETTLER)


@pytest.mark.parametrize("count", [0, 251])
def test_a_batch_has_one_to_250_payouts(distributor, count):
    with reverts("CountOutOfRange", count, distributor.BATCH_MAX()):
        distributor.payBatch(b"b" * 32, [(STRANGER, 1)] * count, sender=SETTLER)


def test_a_malformed_payout_stops_its_batch(btt, distributor):
    for bad in [(NOBODY, 1), (STRANGER, 0), (distributor.address, 1)]:
        with reverts("PayoutMalformed", 1):
            distributor.payBatch(b"b" * 32, [(STRANGER, 1), bad], sender=SETTLER)
    assert btt.balanceOf(STRANGER) == 0


def test_only_the_settler_pays_and_settles_and_only_what_there_is(btt, distributor):
    with reverts("AccessControlUnauthorizedAccount"):
        distributor.payBatch(b"b" * 32, [(STRANGER, 1)], sender=ADMIN)
    with reverts("AccessControlUnauthorizedAccount"):
        distributor.settle(1, b"r" * 32, 1, sender=ADMIN)
    with reverts("ERC20InsufficientBalance"):
        distributor.payBatch(b"b" * 32, [(STRANGER, FUNDS + 1)], sender=SETTLER)


def test_a_batch_does_not_touch_what_claims_are_paid_from(btt, trusting):
    settle(trusting, 1, {1: 500})
    trusting.payBatch(b"b" * 32, [(STRANGER, 7)], sender=SETTLER)
    assert btt.balanceOf(trusting.address) == 500


# Roots.


def test_an_epoch_replaces_the_root_and_funds_what_it_adds(btt, trusting):
    done, _, root = settle(trusting, 1, {1: 100, 2: 50})
    assert done.events == [("EpochSettled", 1, root, 150, 150)]
    done, _, root = settle(trusting, 2, {1: 100, 2: 80, 3: 20})
    assert done.events == [("EpochSettled", 2, root, 200, 50)]
    assert (trusting.root(), trusting.epoch(), trusting.total()) == (root, 2, 200)
    assert btt.balanceOf(trusting.address) == 200


def test_what_cannot_be_settled_is_refused(trusting):
    for epoch in (0, 2):
        with reverts("EpochMisplaced", epoch, 0):
            trusting.settle(epoch, b"r" * 32, 1, sender=SETTLER)
    with reverts("RootMissing"):
        trusting.settle(1, bytes(32), 1, sender=SETTLER)
    with reverts("TotalOutOfRange", 2**96, 0):
        trusting.settle(1, b"r" * 32, 2**96, sender=SETTLER)
    trusting.settle(1, b"r" * 32, 10, sender=SETTLER)
    with reverts("TotalOutOfRange", 9, 10):
        trusting.settle(2, b"r" * 32, 9, sender=SETTLER)


# Claims.


def test_a_claim_pays_the_recipient_of_its_proof_whoever_sends_it(btt, distributor):
    _, paths, _ = settle(distributor, 1, {MINE: 100, OTHER: 50})
    done = distributor.claim(claim_of(0, 100), paths[MINE], sender=STRANGER)
    assert done.events == [("Claimed", MINE, hexed(RECIPIENTS[0]), 1, 100)]
    assert btt.balanceOf(RECIPIENTS[0]) == 100
    assert (distributor.claimed(), distributor.claimedBy(MINE)) == (100, 100)


def test_a_proof_cannot_be_turned_to_another_recipient(distributor):
    _, paths, _ = settle(distributor, 1, {MINE: 100, OTHER: 50})
    with reverts("ProofInvalid"):
        distributor.claim(claim_of(0, 100, recipient=STRANGER), paths[MINE])


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"nullifier": OTHER}, {"scope": 1}, {"group": 1}])
def test_a_proof_cannot_be_turned_to_another_nullifier_scope_or_group(distributor, changed):
    _, paths, _ = settle(distributor, 1, {MINE: 100, OTHER: 100})
    with reverts("ProofInvalid"):
        distributor.claim(claim_of(0, 100, **changed), paths[changed.get("nullifier", MINE)])


def test_a_second_recipient_for_one_nullifier_gets_nothing(trusting):
    _, paths, _ = settle(trusting, 1, {MINE: 100, OTHER: 50})
    assert PROOFS[1].nullifier == MINE
    trusting.claim(claim_of(0, 100), paths[MINE])
    with reverts("ClaimedAlready", MINE, 100):
        trusting.claim(claim_of(1, 100), paths[MINE])


def test_a_later_epoch_pays_the_difference_and_missing_one_loses_nothing(btt, trusting):
    _, paths, _ = settle(trusting, 1, {MINE: 100, OTHER: 50})
    trusting.claim(claim_of(0, 100), paths[MINE])
    settle(trusting, 2, {MINE: 100, OTHER: 60})
    _, paths, _ = settle(trusting, 3, {MINE: 130, OTHER: 70})
    trusting.claim(claim_of(0, 130), paths[MINE])
    trusting.claim(claim_of(2, 70), paths[OTHER])
    assert [btt.balanceOf(RECIPIENTS[i]) for i in (0, 2)] == [130, 70]
    assert trusting.claimed() == trusting.total() == 200
    assert btt.balanceOf(trusting.address) == 0


def test_what_is_not_under_the_present_root_is_refused(trusting):
    _, old, _ = settle(trusting, 1, {MINE: 100, OTHER: 50})
    for cumulative, path in [(101, old[MINE]), (100, old[OTHER]), (100, [])]:
        with reverts("LeafUnproven", MINE):
            trusting.claim(claim_of(0, cumulative), path)
    settle(trusting, 2, {MINE: 120, OTHER: 50})
    with reverts("LeafUnproven", MINE):
        trusting.claim(claim_of(0, 100), old[MINE])


def test_a_tree_that_owes_more_than_was_funded_pays_only_that(btt, trusting):
    tree = Tree([claim_leaf(MINE, 100), claim_leaf(OTHER, 50)])
    trusting.settle(1, tree.root, 120, sender=SETTLER)
    trusting.claim(claim_of(0, 100), tree.path(0))
    with reverts("RootOverspent", 50, 20):
        trusting.claim(claim_of(2, 50), tree.path(1))


def test_an_inner_node_is_no_leaf(trusting):
    """Two leaves side by side are 64 bytes, as a leaf's content is; hashing twice tells them."""
    leaves = [claim_leaf(1, 1), claim_leaf(2, 2)]
    low, high = sorted(leaves)
    settle(trusting, 1, {1: 1, 2: 2})
    forged = claim_of(0, int.from_bytes(high, "big"), nullifier=int.from_bytes(low, "big"))
    with reverts("LeafUnproven"):
        trusting.claim(forged, [])


def test_a_recipient_is_somebody_else(trusting):
    for recipient in (NOBODY, trusting.address):
        with reverts("RecipientMalformed", hexed(recipient)):
            trusting.claim(claim_of(0, 1, recipient=recipient), [])


def test_no_claim_passes_a_verifier_that_refuses(refusing):
    _, paths, _ = settle(refusing, 1, {MINE: 100})
    with reverts(""):
        refusing.claim(claim_of(0, 100), paths[MINE])


def test_the_pauser_stops_claims_alone(btt, trusting):
    _, paths, _ = settle(trusting, 1, {MINE: 100})
    with reverts("AccessControlUnauthorizedAccount"):
        trusting.pause(sender=SETTLER)
    assert trusting.pause(sender=PAUSER).events == [("Paused", hexed(PAUSER))]
    assert trusting.paused()
    with reverts("EnforcedPause"):
        trusting.claim(claim_of(0, 100), paths[MINE])
    with reverts("EnforcedPause"):
        trusting.pause(sender=PAUSER)
    trusting.payBatch(b"b" * 32, [(STRANGER, 1)], sender=SETTLER)
    _, paths, _ = settle(trusting, 2, {MINE: 100, OTHER: 1})
    assert trusting.unpause(sender=PAUSER).events == [("Unpaused", hexed(PAUSER))]
    with reverts("ExpectedPause"):
        trusting.unpause(sender=PAUSER)
    trusting.claim(claim_of(0, 100), paths[MINE])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["recipient"])
def test_the_message_is_that_of_claims_off_chain(trusting, case):
    recipient = bytes.fromhex(case["recipient"][2:])
    assert trusting.messageOf(recipient) == claim_message(case["recipient"])
    assert trusting.messageOf(recipient) == int(case["proof"]["message"])


def test_leaves_are_those_of_the_tree(trusting):
    for nullifier, cumulative in [(0, 0), (MINE, 1), (2**256 - 1, 2**256 - 1)]:
        assert trusting.leafOf(nullifier, cumulative) == claim_leaf(nullifier, cumulative)


def test_it_knows_its_token_and_verifier(btt, trusting):
    assert trusting.TOKEN() == hexed(btt.address)
    assert trusting.VERIFIER() == hexed(address("accepts all"))


def test_a_token_that_calls_back_finds_the_door_shut(machine):
    placed = address("placed")
    distributor = machine.deploy("Distributor", placed, NOBODY, ADMIN)
    distributor.grantRole(distributor.SETTLER_ROLE(), placed, sender=ADMIN)
    distributor.grantRole(distributor.SETTLER_ROLE(), SETTLER, sender=ADMIN)
    (entry,) = [one for one in distributor.abi if one.get("name") == "settle"]
    machine.place(calling_back(distributor.encoded(entry, (2, b"r" * 32, 1))))
    with reverts("ReentrancyGuardReentrantCall"):
        distributor.settle(1, b"r" * 32, 1, sender=SETTLER)
