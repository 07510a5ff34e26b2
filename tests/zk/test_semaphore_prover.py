"""A program proves what a browser proves: the same commitments and nullifiers, or nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from zk import fast, semaphore_prover
from zk.keys import ProverMissing
from zk.lean_imt import LeanIMT
from zk.semaphore import MessageWrong, check, number_for
from zk.semaphore_prover import NotAMember, SemaphoreProverFailed, commitment_of, prove

FOLDER = Path(__file__).parents[1] / "vectors" / "zk"
VECTORS = json.loads((FOLDER / "semaphore.json").read_text())
GRANTS = json.loads((FOLDER / "semaphore_grants.json").read_text())
SCALARS = [int(scalar) for scalar in VECTORS["scalars"]]
COMMITMENTS = [int(commitment) for commitment in VECTORS["commitments"]]


def test_commitments_are_those_of_npm():
    assert [commitment_of(scalar) for scalar in SCALARS] == COMMITMENTS


def test_a_proof_holds_and_its_nullifier_is_that_of_the_browser():
    group = LeanIMT(COMMITMENTS)
    scope = number_for("bithive-grant-scope-1", GRANTS["study"])
    proof = prove(SCALARS[1], group, scope, 22)
    asked = {"root": group.root, "scope": scope, "verifier": fast.verify}
    assert check(proof, message=22, **asked) == int(GRANTS["nullifiers"][1])
    with pytest.raises(MessageWrong):
        check(proof, message=23, **asked)


def test_who_is_no_member_gets_no_proof():
    with pytest.raises(NotAMember):
        prove(SCALARS[3], LeanIMT(COMMITMENTS[:3]), 1, 2)


def test_a_proof_that_does_not_verify_is_not_returned(monkeypatch):
    group = LeanIMT(COMMITMENTS)
    elsewhere = LeanIMT([*COMMITMENTS, 7])
    monkeypatch.setattr(group, "path", elsewhere.path)
    with pytest.raises(SemaphoreProverFailed):
        prove(SCALARS[0], group, 1, 2)


def test_without_the_library_the_prover_says_so(monkeypatch):
    semaphore_prover._key.cache_clear()
    monkeypatch.setitem(sys.modules, "groth16py", None)
    with pytest.raises(ProverMissing):
        prove(SCALARS[0], LeanIMT(COMMITMENTS), 1, 2)
