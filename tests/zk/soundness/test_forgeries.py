"""No forged witness is accepted: not by the constraints, not by the calculator, not as a proof.

Each false statement has a name. Those named like a family of constraints (system.py) are what that
family alone refuses; test_mutants.py shows that they would pass without it.
"""

from __future__ import annotations

import pytest

from protocol.errors import ProofError
from tests.zk.soundness.attacks import Attack, Forged, is_false
from tests.zk.soundness.system import FAMILIES, wtns
from tests.zk.test_cover import CHEATS
from zk import fast, groth16
from zk.cover import CoverStatement
from zk.groth16 import ProofInvalid
from zk.prover import _key
from zk.witness import WitnessRefused, witness

pytestmark = pytest.mark.slow

ABOUT_OUTPUTS = ("one more is counted", "one less is counted", "a commitment to other records")
OTHERS = (
    *CHEATS,
    *ABOUT_OUTPUTS,
    "two halves of a patient",
    "one leaf in two slots",
    "two leaves change places",
)
FORGERIES = (*FAMILIES, *OTHERS)

# Lies about wires inside the circuit: the calculator computes those itself, and so makes a true
# statement of the same signals.
ABOUT_WIRES = (
    "only a used slot gives its subject",
    "only a used slot gives its record",
    "the commitment folds every slot",
    "the commitment begins with blind and context",
    *ABOUT_OUTPUTS,
)


def check_refused(system, forged):
    """What the named tests check; test_mutants.py runs it against circuits that lack a family."""
    assert system.broken(forged.wires)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_witness_breaks_a_constraint(whole, forge, name):
    forged = forge(name)
    assert is_false(forged.attack.signals, forged.wires)
    check_refused(whole, forged)


def test_at_least_17_kinds_of_forged_witness_are_tried():
    assert len(FORGERIES) == len(set(FORGERIES)) == 52


@pytest.mark.parametrize("name", [name for name in FORGERIES if name not in ABOUT_WIRES])
def test_the_calculator_refuses_the_signals_of_a_forgery(cover8, forge, name):
    with pytest.raises(WitnessRefused):
        witness(cover8, forge(name).attack.signals)


def prove(keys, forged, tmp_path):
    """What the library makes of a witness it does not check."""
    library, key = _key(keys[0])
    path = tmp_path / "wtns"
    path.write_bytes(wtns(forged.wires))
    return bytes(library.prove_wtns(key, str(path)))


def test_the_same_steps_with_the_honest_witness_make_a_good_proof(whole, keys, chunk, tmp_path):
    attack = Attack("nothing is false", chunk.inputs())
    honest = Forged(attack, attack.wires(whole, whole))
    fast.verify(keys[1], chunk.statement, prove(keys, honest, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGERIES)
def test_a_proof_made_of_a_forged_witness_is_refused(keys, forge, name, tmp_path):
    forged = forge(name)
    proof = prove(keys, forged, tmp_path)
    with pytest.raises(ProofError) as refused:
        fast.verify(keys[1], CoverStatement.from_public_inputs(forged.public), proof)
    assert refused.value.code in {
        "proof-invalid",
        "statement-malformed",
        "proof-field-out-of-range",
    }
    # Numbers that are no statement never reach the pairing; it would refuse them too.
    assert not raw_verdict(keys[1], forged.public, proof)


def raw_verdict(vk, numbers, proof):
    """The library's own word about any numbers, statement or not."""
    import groth16py

    key = groth16py.VerifyingKey.from_snarkjs(vk.snarkjs())
    return groth16py.Verifier(key).verify(proof, numbers)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a used slot is allowed", "the root is chunkRoot", "a commitment to other records"]
)
def test_the_reference_refuses_it_for_the_same_reason(keys, forge, name, tmp_path):
    forged = forge(name)
    proof = prove(keys, forged, tmp_path)
    with pytest.raises(ProofInvalid, match="pairing"):
        groth16.verify(keys[1], CoverStatement.from_public_inputs(forged.public), proof)
