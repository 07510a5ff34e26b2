"""The committed circuits are the compiled sources, unaltered, and leave a prover no freedom."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict

import pytest

from zk.circuit import BUILD, CIRCUITS, CircuitAltered, CircuitUnknown, circuit
from zk.circuits import build
from zk.poseidon import FIELD
from zk.witness import witness

MANIFEST = json.loads((BUILD / "manifest.json").read_text())


@pytest.fixture
def copied(tmp_path):
    for name in ("manifest.json", "cover8.r1cs.xz", "cover8.wasm"):
        shutil.copy(BUILD / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CIRCUITS)
def test_a_committed_circuit_is_unaltered(name):
    found = circuit(name)
    assert found.slots == int(name.removeprefix("cover")) == 2**found.depth
    assert hashlib.sha256(found.r1cs_bytes()).hexdigest() == found.r1cs_sha256
    header = build.r1cs_header(found.r1cs_bytes())
    entry = MANIFEST["circuits"][name]
    assert {key: entry[key] for key in header} == header
    assert (header["public_outputs"], header["public_inputs"]) == (2, 8)


def test_a_used_slot_costs_at_most_900_constraints():
    assert circuit("cover64").constraints <= 900 * 64


def test_the_manifest_is_of_the_committed_sources():
    assert MANIFEST["sources"] == {name: build.sha256(build.HERE / name) for name in build.SOURCES}


def test_an_unknown_circuit_is_refused():
    with pytest.raises(CircuitUnknown):
        circuit("cover9")


@pytest.mark.parametrize("name", ["cover8.r1cs.xz", "cover8.wasm"])
def test_a_changed_file_is_refused(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(CircuitAltered, match=name):
        circuit("cover8", build=copied)


@pytest.mark.parametrize("name", ["cover8.r1cs.xz", "cover8.wasm", "manifest.json"])
def test_a_missing_file_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(CircuitAltered, match="is missing"):
        circuit("cover8", build=copied)


def test_a_manifest_that_is_not_json_is_refused(copied):
    (copied / "manifest.json").write_text("{")
    with pytest.raises(CircuitAltered, match="not JSON"):
        circuit("cover8", build=copied)


def test_a_file_changed_after_the_check_is_refused_when_it_is_read(copied):
    found = circuit("cover8", build=copied)
    found.wasm.write_bytes(b"other")
    found.r1cs.write_bytes(b"other")
    with pytest.raises(CircuitAltered):
        found.wasm_bytes()
    with pytest.raises(CircuitAltered):
        found.r1cs_bytes()


# A small reader and evaluator of constraints, independent of the library that proves.


def constraints(r1cs):
    """The constraints as triples of {wire: coefficient}, and the number of wires."""
    sections, position = {}, 12
    while position < len(r1cs):
        kind = int.from_bytes(r1cs[position : position + 4], "little")
        size = int.from_bytes(r1cs[position + 4 : position + 12], "little")
        sections[kind] = r1cs[position + 12 : position + 12 + size]
        position += 12 + size
    body, at, triples = sections[2], 0, []
    for _ in range(build.r1cs_header(r1cs)["constraints"]):
        triple = []
        for _ in range(3):
            terms = int.from_bytes(body[at : at + 4], "little")
            at += 4
            combination = {}
            for _ in range(terms):
                wire = int.from_bytes(body[at : at + 4], "little")
                combination[wire] = int.from_bytes(body[at + 4 : at + 36], "little")
                at += 36
            triple.append(combination)
        triples.append(triple)
    assert at == len(body)
    return triples


def residue(triple, wires):
    a, b, c = (sum(k * wires[w] for w, k in part.items()) for part in triple)
    return (a * b - c) % FIELD


@pytest.fixture(scope="module")
def system(cover8):
    return constraints(cover8.r1cs_bytes())


@pytest.fixture(scope="module")
def wires(cover8, chunk):
    content = witness(cover8, chunk.inputs())[76:]
    return [int.from_bytes(content[i : i + 32], "little") for i in range(0, len(content), 32)]


def test_the_calculated_witness_satisfies_every_constraint(system, wires):
    assert len(wires) == MANIFEST["circuits"]["cover8"]["wires"]
    assert all(residue(triple, wires) == 0 for triple in system)


def test_the_public_wires_are_the_public_inputs(wires, chunk):
    assert wires[:11] == [1, *chunk.statement.public_inputs()]


def test_no_wire_can_be_changed_alone(system, wires):
    """Every wire is held by a constraint, save what a closed slot need not say."""
    uses = defaultdict(list)
    for triple in system:
        for wire in {wire for part in triple for wire in part}:
            uses[wire].append(triple)
    free = []
    for wire in range(1, len(wires)):
        honest = wires[wire]
        wires[wire] = (honest + 1) % FIELD
        if not any(residue(triple, wires) for triple in uses[wire]):
            free.append(honest)
        wires[wire] = honest
    # Slots 2 and 5 are closed: used * subject and used * record hold for any subject and record.
    # (Their salts go through Poseidon, whose inner wires would have to change too.)
    assert free == [0] * len(free)
    assert len(free) <= 4


@pytest.mark.slow
def test_the_sources_compile_to_the_committed_bytes():
    try:
        build.check(MANIFEST)
    except build.CompilerMissing as missing:
        pytest.skip(str(missing))


def test_another_manifest_is_reported_as_not_reproduced(monkeypatch):
    monkeypatch.setattr(build, "compile_circuits", lambda _target: MANIFEST)
    build.check(MANIFEST)
    altered = json.loads(json.dumps(MANIFEST))
    altered["circuits"]["cover8"]["wasm_sha256"] = "00"
    with pytest.raises(build.CircuitNotReproduced, match=r"cover8\.wasm_sha256"):
        build.check(altered)
