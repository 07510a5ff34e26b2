"""The committed artifacts are what the sources compile to, and a damaged one is refused."""

import hashlib
import json
import shutil

import pytest

from ledger.contracts import artifacts, build
from ledger.contracts.artifacts import CONTRACTS, ContractAltered, ContractUnknown, hash_of, load
from ledger.contracts.build import (
    DEPLOYED_BYTES_MAX,
    HERE,
    ContractRefused,
    ContractsNotReproduced,
)
from zk.solidity import solc
from zk.solidity.solc import SolidityCompilerMissing


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact_states_its_sources_as_they_are(name):
    document = json.loads((artifacts.FOLDER / f"{name}.json").read_text())
    assert document["compiler"].startswith("0.8.37+")
    assert document["settings"]["evmVersion"] == "cancun"
    assert document["deployed_bytes"] <= DEPLOYED_BYTES_MAX
    ours = {path for path in document["sources"] if not path.startswith("@openzeppelin/")}
    assert f"{name}.sol" in ours
    for path in ours:
        assert document["sources"][path] == hashlib.sha256((HERE / path).read_bytes()).hexdigest()
    assert load(name).source_sha256 == hash_of(document["sources"])


def test_every_source_is_compiled_into_something():
    used = set()
    for name in CONTRACTS:
        used |= set(json.loads((artifacts.FOLDER / f"{name}.json").read_text())["sources"])
    assert {path.name for path in HERE.glob("*.sol")} <= used


@pytest.mark.parametrize("name", [path.name for path in sorted(HERE.glob("*.sol"))])
def test_a_source_states_its_licence_and_the_compiler(name):
    lines = (HERE / name).read_text().splitlines()
    assert lines[:2] == ["// SPDX-License-Identifier: Apache-2.0", "pragma solidity 0.8.37;"]


def test_the_lock_file_names_no_host():
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
    assert lock["packages"]["node_modules/solc"]["version"] == "0.8.37"
    assert lock["packages"]["node_modules/@openzeppelin/contracts"]["version"] == "5.7.0"


def test_an_unknown_contract_is_refused():
    with pytest.raises(ContractUnknown):
        load("BTT2")


def test_a_missing_or_altered_artifact_is_refused(tmp_path):
    with pytest.raises(ContractAltered):
        load("BTT", tmp_path)
    document = json.loads((artifacts.FOLDER / "BTT.json").read_text())
    for changed in (
        {"bytecode": "00" + document["bytecode"][2:]},
        {"bytecode": "no hex"},
        {"contract": "Vesting"},
        {"format": "bithive-contract-3"},
        {"sources": {"BTT.sol": "0" * 64}},
        {"sources": None},
    ):
        (tmp_path / "BTT.json").write_text(json.dumps(document | changed))
        with pytest.raises(ContractAltered):
            load("BTT", tmp_path)
    (tmp_path / "BTT.json").write_text("[]")
    with pytest.raises(ContractAltered):
        load("BTT", tmp_path)


@pytest.mark.slow
def test_compiling_gives_the_committed_artifacts():
    try:
        build.check()
    except SolidityCompilerMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
def test_what_does_not_compile_or_warns_is_refused():
    try:
        for text in ("contract {", "pragma solidity 0.8.37;"):
            with pytest.raises(ContractRefused):
                build.compile_contracts({"BTT.sol": text})
    except SolidityCompilerMissing as missing:
        pytest.skip(str(missing))


def test_without_node_the_compiler_is_missing(monkeypatch):
    monkeypatch.setattr(solc.shutil, "which", lambda _name: None)
    with pytest.raises(SolidityCompilerMissing, match="node is missing"):
        build.check()


def test_without_the_npm_packages_the_compiler_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(solc.shutil, "which", lambda _name: "node")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "sources", dict)
    with pytest.raises(SolidityCompilerMissing, match="npm package solc"):
        build.check()


def test_a_difference_is_named_by_its_file(tmp_path, monkeypatch, capsys):
    made = {f"{name}.json": (artifacts.FOLDER / f"{name}.json").read_bytes() for name in CONTRACTS}
    monkeypatch.setattr(build, "compile_contracts", lambda _texts: made)
    folder = tmp_path / "build"
    shutil.copytree(artifacts.FOLDER, folder)
    build.check(folder)
    assert build.main(["--check"]) == 0
    (folder / "BTT.json").write_text("{}")
    (folder / "Vesting.json").unlink()
    with pytest.raises(ContractsNotReproduced) as refusal:
        build.check(folder)
    assert refusal.value.files == ["BTT.json", "Vesting.json"]
    monkeypatch.setattr(build, "compile_contracts", lambda _texts: {"New.json": b""})
    assert build.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("contracts-not-reproduced: ")


def test_building_writes_all_artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "sources", lambda: {"SemaphoreVerifier.sol": "text"})
    monkeypatch.setattr(build, "compile_contracts", lambda _texts: {"BTT.json": b"made"})
    build.build(tmp_path / "build")
    assert (tmp_path / "build" / "BTT.json").read_bytes() == b"made"
    assert (tmp_path / "SemaphoreVerifier.sol").read_text() == "text"
