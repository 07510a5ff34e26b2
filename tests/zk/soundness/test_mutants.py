"""If a family of constraints were missing, a named test would fail.

A mutant is the compiled circuit less the constraints of one family: what a forgotten line in
``circuits/cover.circom`` would leave. For each there is a forgery that satisfies all that is left,
so that ``test_forgeries.py::test_a_forged_witness_breaks_a_constraint`` with that name fails, and
that breaks this family and no other in the whole circuit, so that nothing else would have noticed.
"""

from __future__ import annotations

import pytest

from tests.zk.soundness import test_forgeries
from tests.zk.soundness.system import FAMILIES, wtns
from tests.zk.soundness.test_forgeries import FORGERIES, check_refused, prove, raw_verdict
from zk.prover import _key

pytestmark = pytest.mark.slow

TEST = "test_a_forged_witness_breaks_a_constraint"

# Family: the names under which the killing test runs, the first of them isolating the family.
KILLED_BY = {
    "used is a bit": ["used is a bit", "a slot used twice", "a slot used minus once"],
    "a used slot is allowed": ["a used slot is allowed", "expired", "not yet valid"],
    "a used slot opens its leaf": ["a used slot opens its leaf"],
    "only a used slot gives its subject": ["only a used slot gives its subject"],
    "only a used slot gives its record": ["only a used slot gives its record"],
    "required purposes are compared": ["required purposes are compared"],
    "from is compared": ["from is compared"],
    "through is compared": ["through is compared"],
    "grants has 32 bits": ["grants has 32 bits", "grants of 33 bits spill into the site"],
    "notBefore has 16 bits": ["notBefore has 16 bits"],
    "expiry has 16 bits": ["expiry has 16 bits", "expiry of 17 bits"],
    "required has 32 bits": ["required has 32 bits"],
    "study has 64 bits": ["study has 64 bits"],
    "site has 32 bits": ["site has 32 bits"],
    "dataset has 32 bits": ["dataset has 32 bits"],
    "from has 16 bits": ["from has 16 bits"],
    "through has 16 bits": ["through has 16 bits"],
    "the leaf is the hash of its opening": ["the leaf is the hash of its opening"],
    "the commitment folds every slot": ["the commitment folds every slot"],
    "the leaves hash to one root": ["the leaves hash to one root"],
    "the root is chunkRoot": ["the root is chunkRoot", "a root of other leaves"],
    "the commitment begins with blind and context": [
        "the commitment begins with blind and context"
    ],
}


def test_every_family_has_a_killing_test_that_exists():
    assert set(KILLED_BY) == set(FAMILIES)
    assert hasattr(test_forgeries, TEST)
    for names in KILLED_BY.values():
        assert set(names) <= set(FORGERIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_family_its_killing_test_fails(whole, forge, family):
    mutant = whole.without(family)
    for name in KILLED_BY[family]:
        with pytest.raises(AssertionError):
            check_refused(mutant, forge(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_the_family_refuses_its_forgery(whole, forge, family):
    assert whole.broken(forge(family).wires) == {family}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mutant_accepts_the_proof_that_the_circuit_refuses(whole, forge, keys, family, tmp_path):
    """The same forgery, as a proof under keys of the mutant and of the circuit."""
    library, _ = _key(keys[0])
    forged = forge(family)
    (tmp_path / "r1cs").write_bytes(whole.without(family).r1cs())
    (tmp_path / "wtns").write_bytes(wtns(forged.wires))
    proving, verifying = library.setup(str(tmp_path / "r1cs"))
    proof = bytes(library.prove_wtns(proving, str(tmp_path / "wtns")))
    assert library.Verifier(verifying).verify(proof, forged.public)
    assert not raw_verdict(keys[1], forged.public, prove(keys, forged, tmp_path))
