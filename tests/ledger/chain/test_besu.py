"""A genesis file holds a contract that answers with the first validators before any block."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.chain import besu
from ledger.chain.besu import PLACE, Network, NetworkUnusable, genesis, read_network
from ledger.contracts.artifacts import load
from ledger.contracts.tree import keccak256
from tests.ledger.contracts.machine import Contract, Machine, address, hexed, signature

EXAMPLE = Path(__file__).parents[3] / "deploy/besu/network.example.json"


def network(count):
    members = tuple(
        (address(f"node {i}"), address(f"entity {i}").rjust(32, b"e")) for i in range(count)
    )
    return Network(7, address("governor"), address("oracle"), members)


def started(document):
    """A machine whose state is what the genesis file says."""
    machine = Machine()
    entry = document["alloc"][PLACE.hex()]
    machine.vm.state.set_code(PLACE, bytes.fromhex(entry["code"][2:]))
    for slot, word in entry["storage"].items():
        machine.vm.state.set_storage(PLACE, int(slot, 16), int(word, 16))
    machine.vm.state.lock_changes()
    abi = load("ValidatorSet").abi
    for one in abi:
        if one["type"] == "error":
            machine.errors[keccak256(signature(one).encode())[:4]] = one
    return Contract(machine, "ValidatorSet", abi, PLACE, 0)


@given(st.sampled_from([4, 7, 10, 31]))
@settings(max_examples=4, deadline=None)
def test_the_contract_answers_with_the_first_validators(count):
    made = network(count)
    contract = started(json.loads(besu.written(genesis(made))))
    assert contract.getValidators() == tuple(hexed(node) for node, _ in made.validators)
    assert contract.candidates() == contract.getValidators()
    assert contract.governor() == hexed(made.governor)
    assert contract.oracle() == hexed(made.oracle)
    for node, entity in made.validators:
        assert contract.candidateAt(node) == (entity, 0, 0, 0, 0, True, False)
        assert contract.nodeOf(entity) == hexed(node)


def test_the_file_is_what_besu_documents():
    document = genesis(read_network(EXAMPLE))
    qbft = document["config"]["qbft"]
    assert qbft["blockperiodseconds"] == 3
    assert bytes.fromhex(qbft["validatorcontractaddress"][2:]) == PLACE
    # Its documentation's extra data for contract selection.
    assert document["extraData"] == "0xe5a0" + 64 * "0" + "c0c080c0"
    assert document["config"]["cancunTime"] == 0
    assert set(document["alloc"]) >= {"1" + 38 * "0" + "1", "2" + 38 * "0" + "4"}


def test_the_same_description_gives_the_same_bytes(tmp_path, capsys):
    for name in ("one", "two"):
        assert besu.main([str(EXAMPLE), str(tmp_path / name)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert besu.main([str(tmp_path / "one"), str(tmp_path / "three")]) == 1
    assert capsys.readouterr().err.startswith("chain-network-unusable: ")


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 8])
def test_a_set_that_is_not_3f_and_1_is_refused(count):
    with pytest.raises(NetworkUnusable, match=r"3f \+ 1"):
        network(count)


def test_a_node_or_an_entity_twice_is_refused():
    made = network(4)
    first, second = made.validators[:2]
    for double in ((first[0], second[1]), (second[0], first[1]), (bytes(20), second[1])):
        with pytest.raises(NetworkUnusable, match="of its own"):
            replace(made, validators=(first, double, *made.validators[2:]))


def test_a_network_without_governor_or_number_is_refused():
    with pytest.raises(NetworkUnusable, match="governor"):
        replace(network(4), governor=bytes(20))
    with pytest.raises(NetworkUnusable, match="chain id"):
        replace(network(4), chain_id=0)
