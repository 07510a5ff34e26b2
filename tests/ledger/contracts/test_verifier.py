"""The verifier on chain accepts what the reference accepts under Semaphore's key, and no more."""

import json

import pytest

from ledger.contracts import verifier
from tests.ledger.contracts.machine import reverts
from tests.ledger.contracts.test_distributor import PROOFS
from zk.artefacts import KEY_HASH, verification_key
from zk.curve import MODULUS, ORDER
from zk.groth16 import ProofInvalid, verify
from zk.semaphore import SemaphoreProof


@pytest.fixture
def contract(machine):
    return machine.deploy("SemaphoreVerifier")


def points(proof):
    return [int.from_bytes(proof.points[i : i + 32], "big") for i in range(0, 256, 32)]


def test_the_contract_holds_the_published_key(contract):
    assert contract.KEY_HASH().hex() == KEY_HASH
    assert contract.DEVELOPMENT() is False
    assert KEY_HASH in verifier.source()


@pytest.mark.slow
def test_a_good_proof_is_accepted(contract):
    contract.verify(PROOFS[0].public_inputs(), points(PROOFS[0]))


@pytest.mark.slow
@pytest.mark.parametrize("position", range(4))
def test_every_public_input_is_bound_here_as_in_the_reference(contract, position):
    numbers = PROOFS[0].public_inputs()
    numbers[position] ^= 1
    with reverts("ProofInvalid"):
        contract.verify(numbers, points(PROOFS[0]))


@pytest.mark.parametrize("position", range(4))
def test_a_number_that_is_not_reduced_is_refused(contract, position):
    numbers = PROOFS[0].public_inputs()
    numbers[position] += ORDER
    with reverts("NumberNotReduced", position):
        contract.verify(numbers, points(PROOFS[0]))


@pytest.mark.slow
def test_points_that_are_none_are_refused(contract):
    good = points(PROOFS[0])
    for bad in (
        [0, 0, *good[2:]],
        [*good[:6], good[6], good[7] ^ 1],
        [good[0] + MODULUS, *good[1:]],
    ):
        with reverts("PointMalformed"):
            contract.verify(PROOFS[0].public_inputs(), bad)


@pytest.mark.slow
def test_the_reference_agrees():
    key = verification_key()
    for proof in PROOFS:
        verify(key, proof, proof.points)
        changed = SemaphoreProof.from_json(
            json.dumps(json.loads(proof.to_json()) | {"nullifier": str(proof.nullifier ^ 1)})
        )
        with pytest.raises(ProofInvalid):
            verify(key, changed, changed.points)
