"""The generated contract accepts a good certificate within 290,000 gas, and reverts for all else.

It runs on py-evm, whose precompiled pairing is py_ecc's. The committed bytecode is tested, so that
no compiler is needed; where there is one, it must give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.zk.test_groth16 import Q, R, malleated, packed, words
from zk.cover import CoverStatement
from zk.groth16 import ProofInvalid, verify
from zk.keys import CeremonyNotAllowed, DevelopmentKeyRefused, KeyMalformed, VerificationKey
from zk.solidity import generate, solc
from zk.solidity.generate import (
    COMMITTED,
    NAME,
    SELECTOR,
    ContractNotCompiled,
    ContractNotReproduced,
    calldata,
    compile_source,
    source,
)
from zk.solidity.solc import SolidityCompilerMissing

pytestmark = pytest.mark.slow

GAS_MAX = 290_000
GAS_OFFERED = 1_000_000
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "zk" / "cover8.json").read_text())
CONTRACT = json.loads((COMMITTED / f"{NAME}.json").read_text())
CASE = VECTORS["cases"][0]
NUMBERS = [int(number) for number in CASE["public_inputs"]]
PROOF = bytes.fromhex(CASE["proof"])
# One coordinate of each point; the others are for the slow run.
WORDS = [pytest.param(i, marks=[] if i in {1, 4, 6} else pytest.mark.slow) for i in range(8)]


@pytest.fixture(scope="module")
def published():
    return VerificationKey.from_json(json.dumps(VECTORS["verification_key"]))


def test_the_committed_source_is_the_generated_one(published):
    text = source(published, allow_development=True)
    assert text == (COMMITTED / f"{NAME}.sol").read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == CONTRACT["source_sha256"]


def test_the_committed_bytecode_has_its_hash():
    code = bytes.fromhex(CONTRACT["bytecode"])
    assert hashlib.sha256(code).hexdigest() == CONTRACT["bytecode_sha256"]
    deployed = code[-CONTRACT["deployed_bytes"] :]
    assert hashlib.sha256(deployed).hexdigest() == CONTRACT["deployed_sha256"]


@pytest.mark.slow
def test_source_and_compiler_give_the_committed_bytecode(published):
    try:
        generate.check(published)
    except SolidityCompilerMissing as missing:
        pytest.skip(str(missing))


def test_another_contract_than_the_committed_one_is_reported(published, tmp_path, monkeypatch):
    for name in ("sol", "json"):
        (tmp_path / f"{NAME}.{name}").write_text((COMMITTED / f"{NAME}.{name}").read_text())
    monkeypatch.setattr(generate, "compile_source", lambda _text: CONTRACT)
    generate.check(published, tmp_path)
    (tmp_path / f"{NAME}.json").write_text("{}")
    with pytest.raises(ContractNotReproduced, match="json"):
        generate.check(published, tmp_path)
    (tmp_path / f"{NAME}.sol").write_text("")
    with pytest.raises(ContractNotReproduced, match="sol"):
        generate.check(published, tmp_path)


def test_a_development_key_gets_no_contract_unless_asked_for(published):
    with pytest.raises(DevelopmentKeyRefused):
        source(published)
    assert "DEVELOPMENT = true" in source(published, allow_development=True)


def test_a_ceremony_key_gets_a_contract_if_its_transcript_was_verified(published):
    transcript = "ab" * 32
    ceremony = replace(published, status="ceremony", transcript=transcript)
    with pytest.raises(CeremonyNotAllowed):
        source(ceremony)
    assert "DEVELOPMENT = false" in source(ceremony, allowed_transcripts=[transcript])


def test_a_key_for_other_statements_gets_no_contract(published):
    with pytest.raises(KeyMalformed, match="takes 9"):
        source(replace(published, ic=published.ic[:-1]), allow_development=True)


@pytest.mark.slow
def test_what_does_not_compile_is_refused():
    try:
        with pytest.raises(ContractNotCompiled):
            compile_source("contract {")
    except SolidityCompilerMissing as missing:
        pytest.skip(str(missing))


def test_without_node_the_generator_says_so(monkeypatch):
    monkeypatch.setattr(solc.shutil, "which", lambda _name: None)
    with pytest.raises(SolidityCompilerMissing, match="node is missing"):
        compile_source("")


def test_the_command_refuses_with_a_code(tmp_path, capsys, published):
    published.save(tmp_path / "key.json")
    assert generate.main([str(tmp_path / "key.json"), str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("development-key-refused: ")


def test_the_command_writes_source_and_bytecode(tmp_path, published, monkeypatch):
    monkeypatch.setattr(generate, "compile_source", lambda _text: CONTRACT)
    published.save(tmp_path / "key.json")
    arguments = [str(tmp_path / "key.json"), str(tmp_path), "--allow-development"]
    assert generate.main(arguments) == 0
    for suffix in ("sol", "json"):
        written = (tmp_path / f"{NAME}.{suffix}").read_text()
        assert written == (COMMITTED / f"{NAME}.{suffix}").read_text()
    assert generate.main([*arguments, "--check"]) == 0


# On the machine.


class Machine:
    """A chain of one account and one contract."""

    def __init__(self) -> None:
        eth = pytest.importorskip("eth", reason="py-evm is not installed (the extra `dev` has it)")
        from eth import constants
        from eth.chains.base import MiningChain
        from eth.consensus.noproof import NoProofConsensus
        from eth.db.atomic import AtomicDB
        from eth.vm.forks.cancun import CancunVM
        from eth_keys import keys

        assert eth is not None
        self.key = keys.PrivateKey(b"\x01" * 32)
        self.owner = self.key.public_key.to_canonical_address()
        machine = CancunVM.configure(consensus_class=NoProofConsensus)
        chain = MiningChain.configure(vm_configuration=((constants.GENESIS_BLOCK_NUMBER, machine),))
        account = {"balance": 10**24, "nonce": 0, "code": b"", "storage": {}}
        genesis = {"difficulty": 0, "gas_limit": 30_000_000, "timestamp": 1}
        self.chain = chain.from_genesis(AtomicDB(), genesis, {self.owner: account})
        created = self._transact(b"", bytes.fromhex(CONTRACT["bytecode"]))[1]
        assert not created.is_error
        self.contract = created.msg.storage_address

    def _transact(self, to, data, gas=GAS_OFFERED):
        vm = self.chain.get_vm()
        transaction = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(self.owner),
            gas_price=10**10,
            gas=gas,
            to=to,
            value=0,
            data=data,
        )
        _, receipt, computation = self.chain.apply_transaction(
            transaction.as_signed_transaction(self.key)
        )
        used = receipt.gas_used
        self.chain.mine_block()
        return used, computation

    def call(self, data):
        """What a transaction to the contract uses of gas and returns, or reverts with."""
        used, computation = self._transact(self.contract, data)
        return used, computation.is_error, bytes(computation.output)

    def error_of(self, data):
        """The name of the error a call reverts with; None if it does not revert."""
        from eth_utils import keccak

        _, failed, output = self.call(data)
        if not failed:
            assert output == b""
            return None
        errors = {
            keccak(signature(one).encode())[:4]: one["name"]
            for one in CONTRACT["abi"]
            if one["type"] == "error"
        }
        return errors[output[:4]]


def signature(entry):
    return f"{entry['name']}({','.join(one['type'] for one in entry['inputs'])})"


@pytest.fixture(scope="module")
def machine():
    return Machine()


def test_the_selector_is_that_of_the_abi(machine):
    from eth_utils import keccak

    (function,) = [one for one in CONTRACT["abi"] if one.get("name") == "verify"]
    assert keccak(signature(function).encode())[:4] == SELECTOR


def test_a_good_certificate_is_accepted_within_the_gas_it_may_cost(machine):
    used, failed, output = machine.call(calldata(NUMBERS, PROOF))
    assert (failed, output) == (False, b"")
    assert used <= GAS_MAX


def test_the_contract_names_its_key_and_says_that_it_is_for_development(machine, published):
    from eth_utils import keccak

    _, _, key_hash = machine.call(keccak(b"KEY_HASH()")[:4])
    assert key_hash.hex() == published.hash
    _, _, development = machine.call(keccak(b"DEVELOPMENT()")[:4])
    assert int.from_bytes(development, "big") == 1


@pytest.mark.slow
def test_a_malleated_proof_is_accepted_which_is_why_callers_count_statements(machine):
    assert machine.error_of(calldata(NUMBERS, malleated(PROOF))) is None


@pytest.mark.slow
@pytest.mark.parametrize("position", range(10))
def test_every_public_input_is_bound(machine, position):
    numbers = list(NUMBERS)
    numbers[position] ^= 1
    assert machine.error_of(calldata(numbers, PROOF)) == "ProofInvalid"


def test_a_changed_public_input_is_refused(machine):
    assert machine.error_of(calldata([*NUMBERS[:-1], NUMBERS[-1] ^ 1], PROOF)) == "ProofInvalid"


@pytest.mark.parametrize("position", range(10))
def test_a_public_input_that_is_not_reduced_is_refused_by_its_position(machine, position):
    numbers = list(NUMBERS)
    numbers[position] += R
    _, failed, output = machine.call(calldata(numbers, PROOF))
    assert failed
    assert int.from_bytes(output[4:], "big") == position
    assert machine.error_of(calldata(numbers, PROOF)) == "NumberNotReduced"


@pytest.mark.parametrize("word", WORDS)
def test_a_coordinate_that_is_not_reduced_is_refused(machine, word):
    numbers = words(PROOF)
    numbers[word] += Q
    assert machine.error_of(calldata(NUMBERS, packed(numbers))) == "PointMalformed"


@pytest.mark.parametrize("word", WORDS)
def test_a_point_off_the_curve_is_refused(machine, word):
    numbers = words(PROOF)
    numbers[word] ^= 1
    assert machine.error_of(calldata(NUMBERS, packed(numbers))) == "PointMalformed"


@pytest.mark.parametrize("zeros", [(0, 1), (2, 3, 4, 5), (6, 7), tuple(range(8))])
def test_infinity_is_refused(machine, zeros):
    numbers = [0 if i in zeros else number for i, number in enumerate(words(PROOF))]
    assert machine.error_of(calldata(NUMBERS, packed(numbers))) == "PointMalformed"


def test_a_point_outside_the_subgroup_is_refused(machine):
    from py_ecc import optimized_bn128 as bn

    from tests.zk.test_second_opinions import on_the_twist

    x, y, _ = on_the_twist(random.Random(1))
    assert not bn.is_inf(bn.multiply((x, y, bn.FQ2.one()), R))
    (x0, x1), (y0, y1) = (tuple(map(int, c.coeffs)) for c in (x, y))
    n = words(PROOF)
    outside = packed([*n[:2], x1, x0, y1, y0, *n[6:]])
    assert machine.error_of(calldata(NUMBERS, outside)) == "PointMalformed"


@pytest.mark.parametrize("length", [0, 3, 4, 100, 4 + 32 * 17])
def test_a_call_cut_short_is_refused(machine, length):
    _, failed, output = machine.call(calldata(NUMBERS, PROOF)[:length])
    assert failed
    assert output == b""


@pytest.mark.slow
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["desc"])
def test_the_contract_agrees_with_the_reference_on_every_vector(machine, published, case):
    numbers = [int(number) for number in case["public_inputs"]]
    proof = bytes.fromhex(case["proof"])
    if len(proof) != 256:
        return  # there is no such call
    accepted = machine.error_of(calldata(numbers, proof)) is None
    assert accepted == case["valid"]
    if accepted:
        verify(published, CoverStatement.from_public_inputs(numbers), proof)
    elif case["code"] == "proof-invalid":
        with pytest.raises(ProofInvalid):
            verify(published, CoverStatement.from_public_inputs(numbers), proof)
