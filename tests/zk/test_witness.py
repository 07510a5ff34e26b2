"""A witness is computed only for inputs that satisfy the circuit, and leaves no trace."""

from __future__ import annotations

import stat

import pytest

from protocol.errors import StorageFailed
from zk.poseidon import FIELD
from zk.witness import WitnessRefused, _name_hash, witness, witness_file


def test_the_outputs_and_public_inputs_of_a_witness_are_the_statement(cover8, chunk):
    content = witness(cover8, chunk.inputs())
    numbers = [int.from_bytes(content[76 + 32 * i : 108 + 32 * i], "little") for i in range(11)]
    assert numbers == [1, *chunk.statement.public_inputs()]


def test_a_witness_file_begins_as_the_format_says(cover8, chunk):
    content = witness(cover8, chunk.inputs())
    assert content[:12] == b"wtns" + bytes([2, 0, 0, 0, 2, 0, 0, 0])
    assert int.from_bytes(content[28:60], "little") == FIELD
    assert len(content) == 76 + 32 * int.from_bytes(content[60:64], "little")


def test_a_witness_file_is_private_and_gone_after_use(cover8, chunk):
    with witness_file(cover8, chunk.inputs()) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == witness(cover8, chunk.inputs())
    assert not path.exists()


def test_a_witness_file_is_gone_after_an_error(cover8, chunk):
    with pytest.raises(RuntimeError), witness_file(cover8, chunk.inputs()) as path:
        raise RuntimeError
    assert not path.exists()


def test_a_folder_that_takes_no_file_is_a_storage_error(cover8, chunk, monkeypatch):
    def full(**_options):
        raise OSError("no")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(StorageFailed), witness_file(cover8, chunk.inputs()):
        pass


def test_one_refusal_does_not_spoil_the_next_witness(cover8, chunk):
    bad = chunk.inputs() | {"chunkRoot": 1}
    good = witness(cover8, chunk.inputs())
    with pytest.raises(WitnessRefused):
        witness(cover8, bad)
    assert witness(cover8, chunk.inputs()) == good


def test_a_refusal_names_a_line_of_the_circuit_and_no_value(cover8, chunk):
    bad = chunk.inputs()
    bad["expiry"][0] = 20800
    with pytest.raises(WitnessRefused, match="line") as refused:
        witness(cover8, bad)
    assert str(chunk.slots[0].subject) not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: inputs.pop("blind"),
        lambda inputs: inputs.update(other=1),
        lambda inputs: inputs["leaf"].append(0),
        lambda inputs: inputs["salt"].pop(),
    ],
    ids=["missing", "unknown", "too many", "too few"],
)
def test_signals_that_the_circuit_does_not_take_are_refused(cover8, chunk, change):
    inputs = chunk.inputs()
    change(inputs)
    with pytest.raises(WitnessRefused, match="signal"):
        witness(cover8, inputs)


def test_names_are_hashed_by_fnv_1a():
    # Published test values of FNV-1a: the empty string and "a".
    assert _name_hash("") == (0xCBF29CE4 - 2**32, 0x84222325 - 2**32)
    assert _name_hash("a") == (0xAF63DC4C - 2**32, 0x8601EC8C - 2**32)
