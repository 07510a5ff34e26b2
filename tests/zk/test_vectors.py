"""The committed proofs verify, or do not, with py_ecc alone, as they did when they were made.

The vectors were written once by ``PYTHONPATH=. python tests/zk/test_vectors.py``; running it again
makes a new key and new proofs. Only that needs the prover.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

from protocol.errors import ProofError
from zk import groth16
from zk.cover import CoverStatement
from zk.keys import VerificationKey

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "cover8.json"
VECTORS = json.loads(FILE.read_text()) if FILE.exists() else {"cases": []}


@pytest.fixture(scope="module")
def published():
    return VerificationKey.from_json(json.dumps(VECTORS["verification_key"]))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["desc"])
def test_a_vector_verifies_exactly_if_it_is_valid(published, case):
    def check():
        numbers = [int(number) for number in case["public_inputs"]]
        statement = CoverStatement.from_public_inputs(numbers)
        assert statement.digest() == case["digest"]
        groth16.verify(published, statement, bytes.fromhex(case["proof"]))

    if case["valid"]:
        check()
    else:
        with pytest.raises(ProofError) as refused:
            check()
        assert refused.value.code == case["code"]


def test_there_are_vectors_of_both_kinds_and_the_key_has_its_hash(published):
    assert {case["valid"] for case in VECTORS["cases"]} == {True, False}
    assert published.hash == VECTORS["verification_key_hash"]


def make() -> None:
    """Prove one chunk and write it with everything that must be refused beside it."""
    from tests.zk.conftest import BLIND, SCOPE, opened_slot
    from tests.zk.test_groth16 import Q, R, malleated, packed, words
    from zk.circuit import circuit
    from zk.cover import closed_slot
    from zk.keys import development_key
    from zk.prover import Prover

    cover8 = circuit("cover8")
    slots = [opened_slot(number) for number in range(8)]
    slots[2], slots[5] = closed_slot(slots[2].leaf), closed_slot(0)
    with tempfile.TemporaryDirectory() as folder:
        proving_key, vk = development_key(cover8, Path(folder))
        with Prover(cover8, proving_key, vk) as prover:
            statement, proof = prover.prove(slots, SCOPE, BLIND)
    public, numbers = statement.public_inputs(), words(proof)

    def replaced(values, position, value):
        return [value if i == position else old for i, old in enumerate(values)]

    cases = [
        ("six of eight slots used", None, public, proof),
        ("the same proof malleated", None, public, malleated(proof)),
        ("one more slot counted", "proof-invalid", replaced(public, 1, 7), proof),
        ("another chunk root", "proof-invalid", replaced(public, 2, 1), proof),
        ("another study", "proof-invalid", replaced(public, 3, 1), proof),
        ("another site", "proof-invalid", replaced(public, 4, 6), proof),
        ("another context", "proof-invalid", replaced(public, 9, 1), proof),
        ("input plus r", "statement-malformed", replaced(public, 0, public[0] + R), proof),
        ("site of 33 bits", "proof-field-out-of-range", replaced(public, 4, 1 << 32), proof),
        ("C.x plus q", "proof-invalid", public, packed(replaced(numbers, 6, numbers[6] + Q))),
        ("A off the curve", "proof-invalid", public, packed(replaced(numbers, 0, 1))),
        ("cut short", "proof-invalid", public, proof[:-1]),
        ("empty", "proof-invalid", public, b""),
    ]
    vectors = {
        "desc": "Groth16 proofs of cover8; B has its imaginary parts first, as in EIP-197",
        "circuit_r1cs_sha256": cover8.r1cs_sha256,
        "verification_key": json.loads(vk.to_json()),
        "verification_key_hash": vk.hash,
        "cases": [
            {
                "desc": desc,
                "valid": code is None,
                **({"digest": statement.digest()} if code is None else {"code": code}),
                "public_inputs": [str(number) for number in inputs],
                "proof": bytes(blob).hex(),
            }
            for desc, code, inputs, blob in cases
        ],
    }
    for case, (_desc, _code, inputs, _blob) in zip(vectors["cases"], cases, strict=True):
        if case.get("code") == "proof-invalid":
            case["digest"] = CoverStatement.from_public_inputs(inputs).digest()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    make()
    sys.stdout.write(f"{FILE}\n")
