"""snarkjs is believed only where it ended well, and agrees with the other provers and verifiers.

Tests that need node and snarkjs skip where they are missing.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import StorageError
from tests.zk import rehearsal
from tests.zk.rehearsal import SITES, VALUES, VECTORS
from zk import fast, groth16, prover, snarkjs
from zk.cover import CoverStatement
from zk.groth16 import ProofInvalid
from zk.keys import VerificationKey
from zk.prover import ProverFailed
from zk.setup_files import contributions, verification_key
from zk.snarkjs import Snarkjs, SnarkjsFailed, SnarkjsMissing, proof_bytes, proof_json

pytestmark = pytest.mark.slow

ZKEY = VECTORS / "0008.zkey"


@pytest.fixture(scope="module")
def tools():
    try:
        return Snarkjs.find()
    except SnarkjsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def pretender(tmp_path):
    """A program in snarkjs's place that says and does what a test wants."""

    def make(*lines):
        program = tmp_path / "program.py"
        program.write_text("\n".join(["import sys, pathlib", *lines]))
        return Snarkjs(tmp_path / "node", program)

    (tmp_path / "node").symlink_to(sys.executable)
    return make


def test_without_node_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SnarkjsMissing, match=r"node is missing.*npm ci --ignore-scripts"):
        Snarkjs.find()
    assert not snarkjs.available()


@pytest.mark.parametrize("package", [None, "{", "[]", '{"version":"0.7.5"}', '{"version":"0.7.6"}'])
def test_another_snarkjs_will_not_do(tmp_path, monkeypatch, package):
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if package is not None:
        (tmp_path / "snarkjs").mkdir()
        (tmp_path / "snarkjs" / "package.json").write_text(package)
    with pytest.raises(SnarkjsMissing, match=r"snarkjs 0\.7\.6"):
        Snarkjs.find(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "sys.exit(1)",
        r"print('\x1b[31;22m[ERROR] \x1b[39;1msnarkJS\x1b[0m: Powers of tau is not prepared.')",
        "print('INVALID(0): Inconsistent transcript ')",
        "print('Error: ENOENT', file=sys.stderr)",
    ],
)
def test_a_step_that_did_not_end_well_has_failed(pretender, tmp_path, line):
    with pytest.raises(SnarkjsFailed, match="could not prepare phase 2"):
        pretender(line).prepare_phase_2(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["print('[INFO]  snarkJS: ZKey Ok!')", "sys.exit(1)"],
        ["print('[INFO]  snarkJS: ZKey Ok!')", "print('[ERROR] snarkJS: but no')"],
        ["print('[INFO]  snarkJS: contribution #1 ZKey Ok!:')"],
        ["print('[INFO]  snarkJS: ZKey Ok!')", "print('something else')"],
        ["print('[INFO]  snarkJS: ZKey Ok!', file=sys.stderr)"],
    ],
)
def test_without_its_verdict_as_the_last_line_nothing_is_verified(pretender, tmp_path, lines):
    with pytest.raises(SnarkjsFailed):
        pretender(*lines).check_phase_2(tmp_path / "r1cs", tmp_path / "ptau", tmp_path / "zkey")


def test_a_verdict_is_believed(pretender, tmp_path):
    said = r"print('\x1b[32;22m[INFO]  \x1b[39;1msnarkJS\x1b[0m: ZKey Ok!')"
    pretender(said).check_phase_2(tmp_path / "r1cs", tmp_path / "ptau", tmp_path / "zkey")


def test_secrets_go_through_a_pipe_and_differ(pretender, tmp_path):
    told = tmp_path / "told"
    tools = pretender(
        f"out = pathlib.Path({str(told)!r}).open('a')",
        "out.write(repr(sys.argv) + '|' + sys.stdin.read())",
    )
    tools.contribute_phase_2(tmp_path / "old", tmp_path / "new", "north")
    tools.contribute_phase_1(tmp_path / "old", tmp_path / "new", "north")
    arguments, typed = zip(*(one.split("|") for one in told.read_text().splitlines()), strict=True)
    assert all(len(bytes.fromhex(one)) == 32 for one in typed)
    assert typed[0] != typed[1]
    assert not any(one in said for one in typed for said in arguments)


def test_a_node_that_cannot_start_is_an_error_of_its_own(tmp_path):
    with pytest.raises(StorageError, match="absent"):
        Snarkjs(tmp_path / "absent", tmp_path).prepare_phase_2(tmp_path, tmp_path)


@given(st.binary(min_size=256, max_size=256))
def test_a_proof_written_for_snarkjs_is_read_back_the_same(proof):
    assert proof_bytes(json.loads(json.dumps(proof_json(proof)))) == proof


# With node.


def test_the_hashes_are_those_that_snarkjs_prints(tools, tmp_path):
    said = _said(tools, "zkey", "verify", _r1cs(tmp_path), VECTORS / "phase-1.ptau", ZKEY)
    for one in contributions(ZKEY, "zkey"):
        assert one.hash in said


@pytest.mark.slow
def test_the_challenges_are_those_that_snarkjs_prints(tools):
    said = _said(tools, "powersoftau", "verify", VECTORS / "phase-1.ptau")
    for one in contributions(VECTORS / "phase-1.ptau", "ptau"):
        assert one.hash in said


def _r1cs(folder, factor=1):
    path = folder / f"product-{factor}.r1cs"
    path.write_bytes(rehearsal.r1cs(factor))
    return path


def _said(tools, *arguments):
    command = [tools.node, tools.program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "".join(done.stdout.split())


@pytest.mark.slow
def test_the_recorded_rehearsal_is_verified(tools, tmp_path):
    tools.check_phase_1(VECTORS / "phase-1.ptau")
    tools.check_phase_2(_r1cs(tmp_path), VECTORS / "phase-1.ptau", ZKEY)


@pytest.mark.slow
def test_a_key_for_another_circuit_is_refused(tools, tmp_path):
    with pytest.raises(SnarkjsFailed, match="verify phase 2"):
        tools.check_phase_2(_r1cs(tmp_path, factor=2), VECTORS / "phase-1.ptau", ZKEY)


@pytest.mark.slow
def test_an_unprepared_phase_1_begins_no_phase_2(tools, tmp_path):
    with pytest.raises(SnarkjsFailed, match="not prepared"):
        tools.begin_phase_2(_r1cs(tmp_path), VECTORS / "0004.ptau", tmp_path / "new.zkey")


@pytest.mark.slow
def test_two_contributions_of_one_site_differ(tools, tmp_path):
    made = []
    for name in ("one.zkey", "two.zkey"):
        tools.contribute_phase_2(VECTORS / "0004.zkey", tmp_path / name, SITES[0].name)
        made += contributions(tmp_path / name, "zkey")
    assert len({one.hash for one in made}) == 2
    assert {one.name for one in made} == {SITES[0].name}


@pytest.mark.slow
def test_a_beacon_always_gives_the_same(tools, tmp_path):
    again = tmp_path / "again.zkey"
    tools.apply_beacon_phase_2(VECTORS / "0007.zkey", again, VALUES[1], 10)
    assert again.read_bytes() == ZKEY.read_bytes()


@pytest.fixture
def proven(tmp_path):
    """A proof under the rehearsal's key that 6 * 7 = 42, made by groth16py."""
    pytest.importorskip("groth16py")
    library, key = prover._key(ZKEY)
    wires = tmp_path / "witness.wtns"
    wires.write_bytes(rehearsal.witness(6, 7))
    proof = bytes(library.prove_wtns(key, str(wires)))
    return verification_key(ZKEY, "ab" * 32), rehearsal.product(6, 7), proof


def test_a_proof_with_the_rehearsals_key_holds(proven):
    groth16.verify(*proven)
    fast.verify(*proven)
    vk, _statement, proof = proven
    with pytest.raises(ProofInvalid):
        groth16.verify(vk, rehearsal.product(6, 8), proof)


@pytest.mark.parametrize("length", [4, 12, 100, 2000])
def test_a_cut_proving_key_is_refused(tmp_path, length):
    pytest.importorskip("groth16py")
    (tmp_path / "cut.zkey").write_bytes(ZKEY.read_bytes()[:length])
    with pytest.raises(ProverFailed, match="cannot be read"):
        prover._key(tmp_path / "cut.zkey")


@pytest.mark.slow
def test_snarkjs_accepts_and_refuses_as_the_others_do(tools, proven):
    vk, statement, proof = proven
    tools.verify(vk, statement, proof)
    with pytest.raises(ProofInvalid):
        tools.verify(vk, rehearsal.product(6, 8), proof)
    with pytest.raises(ProofInvalid):
        tools.verify(vk, statement, bytes([proof[0] ^ 1]) + proof[1:])
    with pytest.raises(ProofInvalid):
        tools.verify(vk, statement, proof[:-1])


@pytest.mark.slow
def test_a_recorded_proof_of_cover8_is_accepted(tools):
    vectors = json.loads((VECTORS.parent / "cover8.json").read_text())
    vk = VerificationKey.from_json(json.dumps(vectors["verification_key"]))
    good = next(case for case in vectors["cases"] if case["valid"])
    statement = CoverStatement.from_public_inputs([int(n) for n in good["public_inputs"]])
    tools.verify(vk, statement, bytes.fromhex(good["proof"]))
