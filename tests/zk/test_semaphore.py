"""A Semaphore proof is accepted for its own root, scope and message, in canonical form, only."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_ecc import optimized_bn128 as bn

from protocol.errors import ProofError
from zk import fast, groth16
from zk.artefacts import FOLDER, verification_key
from zk.groth16 import ProofInvalid
from zk.poseidon import FIELD, poseidon
from zk.semaphore import (
    MEMBERS_MAX,
    PROOF_TEXT_MAX,
    GroupFull,
    GroupRootWrong,
    SemaphoreProof,
    SemaphoreProofMalformed,
    check,
    check_members,
    keccak_of,
    number_for,
)

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "semaphore.json"
VECTORS = json.loads(FILE.read_text())
CASES = VECTORS["proofs"]
GOOD = next(case for case in CASES if case["code"] is None)
NODE = FOLDER / "node"


def read(case):
    return SemaphoreProof.from_json(json.dumps(case["proof"]))


def checked(case, verifier):
    asked = {name: int(number) for name, number in case["asked"].items()}
    return check(read(case), **asked, verifier=verifier)


def cases_for(fully):
    return pytest.mark.parametrize("case", fully, ids=lambda case: case["desc"])


@cases_for(CASES)
def test_the_fast_verifier_accepts_a_vector_exactly_if_it_is_valid(case):
    if case["code"] is None:
        assert checked(case, fast.verify) == int(case["proof"]["nullifier"])
    else:
        with pytest.raises(ProofError) as refused:
            checked(case, fast.verify)
        assert refused.value.code == case["code"]


def test_the_reference_accepts_what_npm_made_and_refuses_a_nullifier_written_in():
    assert checked(GOOD, groth16.verify) == int(GOOD["proof"]["nullifier"])
    forged = next(case for case in CASES if case["desc"] == "with another nullifier written in")
    with pytest.raises(ProofInvalid, match="pairing"):
        checked(forged, groth16.verify)


@pytest.mark.slow
@cases_for(CASES)
def test_the_reference_accepts_a_vector_exactly_if_it_is_valid(case):
    if case["code"] is None:
        assert checked(case, groth16.verify) == int(case["proof"]["nullifier"])
    else:
        with pytest.raises(ProofError) as refused:
            checked(case, groth16.verify)
        assert refused.value.code == case["code"]


def test_the_circuit_itself_holds_for_root_0_and_only_the_check_refuses_it():
    """Were this proof refused by the pairing, the rule against root 0 would be idle."""
    forged = next(case for case in CASES if "root 0" in case["desc"])
    proof = read(forged)
    assert proof.root == 0
    for verifier in (fast, groth16):
        verifier.verify(verification_key(), proof, proof.points)
        with pytest.raises(GroupRootWrong):
            checked(forged, verifier.verify)


def test_b_outside_the_subgroup_is_refused():
    """x = 1 is on the twist, whose large cofactor leaves few of its points in the subgroup."""
    real, imaginary = ((bn.FQ2([1, 0]) ** 3) + bn.b2).coeffs
    y = square_root(int(real), int(imaginary))
    point = (bn.FQ2([1, 0]), bn.FQ2(list(y)), bn.FQ2.one())
    assert bn.is_on_curve(point, bn.b2)
    assert not bn.is_inf(bn.multiply(point, FIELD))
    b = b"".join(number.to_bytes(32, "big") for number in (0, 1, y[1], y[0]))
    proof = read(GOOD)
    outside = replace(proof, points=proof.points[:64] + b + proof.points[192:])
    for verifier in (fast, groth16):
        with pytest.raises(ProofInvalid, match="point"):
            verifier.verify(verification_key(), outside, outside.points)


def square_root(real, imaginary):
    """A square root in the quadratic extension, from that of the norm; q is 3 modulo 4."""
    q = bn.field_modulus
    norm = pow(real * real + imaginary * imaginary, (q + 1) // 4, q)
    for root in (norm, -norm):
        half = (real + root) * pow(2, -1, q) % q
        first = pow(half, (q + 1) // 4, q)
        if first * first % q == half:
            return first, imaginary * pow(2 * first, -1, q) % q
    raise AssertionError("not a square")


def test_a_malleated_proof_holds_with_the_same_nullifier():
    """Hence a proof is never known by its bytes, and what is used once is the nullifier."""
    proof = read(GOOD)
    n = [int.from_bytes(proof.points[i : i + 32], "big") for i in range(0, 256, 32)]
    a = bn.normalize(bn.multiply((bn.FQ(n[0]), bn.FQ(n[1]), bn.FQ.one()), 5))
    twisted = (bn.FQ2([n[3], n[2]]), bn.FQ2([n[5], n[4]]), bn.FQ2.one())
    bx, by = bn.normalize(bn.multiply(twisted, pow(5, -1, FIELD)))
    words = [*a, bx.coeffs[1], bx.coeffs[0], by.coeffs[1], by.coeffs[0], n[6], n[7]]
    other = replace(proof, points=b"".join(int(word).to_bytes(32, "big") for word in words))
    assert other != proof
    asked = {name: int(number) for name, number in GOOD["asked"].items()}
    assert check(other, **asked, verifier=fast.verify) == proof.nullifier


def test_a_proof_survives_being_written_and_read():
    proof = read(GOOD)
    assert SemaphoreProof.from_json(proof.to_json()) == proof


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 4000,
        '{"merkleTreeDepth": 16, "merkleTreeDepth": 16}',
        " " * (PROOF_TEXT_MAX + 1),
    ],
)
def test_what_is_no_proof_is_refused(text):
    with pytest.raises(SemaphoreProofMalformed):
        SemaphoreProof.from_json(text)


@given(st.text(max_size=40) | st.binary(max_size=40).map(repr))
def test_any_text_is_a_proof_or_refused(text):
    with pytest.raises(SemaphoreProofMalformed):
        SemaphoreProof.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"root": FIELD},
        {"root": -1},
        {"nullifier": FIELD},
        {"message": 1 << 256},
        {"scope": True},
        {"points": bytes(255)},
    ],
)
def test_a_proof_cannot_be_built_of_what_is_out_of_range(change):
    with pytest.raises(SemaphoreProofMalformed):
        replace(read(GOOD), **change)


def test_numbers_are_those_of_the_page():
    for case in VECTORS["numbers"]:
        assert number_for(*case["parts"]) == int(case["number"])


def test_parts_do_not_run_into_each_other():
    numbers = [case["number"] for case in VECTORS["numbers"]]
    assert len(set(numbers)) == len(numbers)


def test_keccak_is_ethereums():
    """The hash of 32 zero bytes, as every Ethereum client knows it."""
    word = 0x290DECD9548B62A8D60345A988386FC84BA6BC95484008F6362F93160EF3E563
    assert keccak_of(0) == word >> 8


def test_a_group_of_one_has_its_only_commitment_as_root():
    assert GOOD["proof"]["merkleTreeRoot"] == VECTORS["commitments"][0]


def test_nullifiers_of_one_scope_tell_members_apart_and_of_one_member_are_equal():
    by_scope = {}
    for case in CASES:
        if case["code"] is None:
            by_scope.setdefault(case["proof"]["scope"], []).append(case["proof"]["nullifier"])
    small = by_scope["11"]
    assert len(set(small)) == len(small)
    fifth = {case["proof"]["nullifier"] for case in CASES if case["desc"].startswith("with anot")}
    assert small[2] in fifth


def test_a_commitment_is_no_payout_id():
    assert not {*VECTORS["commitments"]} & {*VECTORS["payout_ids"]}
    assert poseidon(1, 2) not in map(int, VECTORS["commitments"])


def test_a_group_may_have_so_many_members_and_no_more():
    check_members(MEMBERS_MAX)
    with pytest.raises(GroupFull):
        check_members(MEMBERS_MAX + 1)


@pytest.mark.slow
def test_a_proof_made_now_by_node_is_accepted():
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("node is not here with `npm ci --ignore-scripts` done in zk/semaphore/node")
    made = subprocess.run(
        ["node", "vectors.mjs", "--one"], cwd=NODE, capture_output=True, check=True, text=True
    )
    fresh = json.loads(made.stdout)["proof"]
    assert set(fresh["points"]).isdisjoint(GOOD["proof"]["points"])
    asked = {"root": fresh["merkleTreeRoot"], "scope": fresh["scope"], "message": fresh["message"]}
    for verifier in (fast.verify, groth16.verify):
        checked({"proof": fresh, "asked": asked}, verifier)
