"""A ceremony's file is read as snarkjs wrote it, or refused, whatever its bytes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import StorageError
from tests.zk.rehearsal import VALUES, VECTORS
from zk.keys import KeyMalformed
from zk.setup_files import (
    SetupFileMalformed,
    circuit_hash,
    contributions,
    file_hash,
    power,
    verification_key,
)

PTAU, ZKEY = VECTORS / "0004.ptau", VECTORS / "0008.zkey"
LINES = [json.loads(line) for line in (VECTORS / "transcript.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("path", "phase"), [(PTAU, 1), (VECTORS / "phase-1.ptau", 1), (ZKEY, 2)])
def test_a_file_lists_the_contributions_of_its_phase(path, phase):
    found = contributions(path, "ptau" if phase == 1 else "zkey")
    lines = [line for line in LINES[1:] if line["phase"] == phase]
    assert [one.hash for one in found] == [line["contribution"] for line in lines]
    assert [one.name for one in found] == ["east", "north", "south", "beacon"]
    assert [one.beacon for one in found] == [None] * 3 + [VALUES[phase - 1]]
    assert [one.iterations_exponent for one in found] == [None] * 3 + [10]


def test_a_file_nobody_contributed_to_lists_none():
    assert contributions(VECTORS / "0000.ptau", "ptau") == []
    assert contributions(VECTORS / "0004.zkey", "zkey") == []


def test_the_verification_key_names_its_transcript():
    key = verification_key(ZKEY, "ab" * 32)
    assert (key.status, key.transcript, len(key.ic)) == ("ceremony", "ab" * 32, 3)


def test_a_zkey_nobody_contributed_to_gives_no_key():
    with pytest.raises(KeyMalformed, match="second phase was skipped"):
        verification_key(VECTORS / "0004.zkey", "ab" * 32)


def test_power_and_circuit_are_read():
    assert power(PTAU) == 4
    assert circuit_hash(ZKEY) == circuit_hash(VECTORS / "0004.zkey")


@pytest.mark.parametrize("kind", ["ptau", "zkey"])
def test_a_file_of_another_kind_is_refused(kind):
    with pytest.raises(SetupFileMalformed, match=f"is no {kind} file"):
        contributions(ZKEY if kind == "ptau" else PTAU, kind)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError):
        contributions(tmp_path / "absent.zkey", "zkey")
    with pytest.raises(StorageError):
        file_hash(tmp_path / "absent.zkey", "sha256")


@pytest.mark.parametrize("path", [PTAU, ZKEY], ids=["ptau", "zkey"])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, path, data):
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path_factory.mktemp("damaged") / path.name
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    kind = path.suffix[1:]
    for read in (
        lambda: contributions(damaged, kind),
        lambda: power(damaged) if kind == "ptau" else verification_key(damaged, "ab" * 32),
    ):
        with contextlib.suppress(SetupFileMalformed, KeyMalformed):
            read()


def section_at(content, number):
    """Where the content of a section begins."""
    position = 12
    while int.from_bytes(content[position : position + 4], "little") != number:
        position += 12 + int.from_bytes(content[position + 4 : position + 12], "little")
    return position + 12


def altered(tmp_path, path, change):
    content = bytearray(path.read_bytes())
    change(content)
    (tmp_path / path.name).write_bytes(content)
    return tmp_path / path.name


def test_a_beacon_that_snarkjs_would_not_derive_again_is_refused(tmp_path):
    # The type of the last contribution stands before the length and fields of its description.
    def relabel(content):
        fields = content.rindex(b"beacon") - 2
        assert content[fields - 8 : fields - 4] == (1).to_bytes(4, "little")
        content[fields - 8] = 0

    with pytest.raises(SetupFileMalformed, match="contradicts itself about a beacon"):
        contributions(altered(tmp_path, ZKEY, relabel), "zkey")


def test_a_secret_contribution_cannot_pass_for_a_beacons(tmp_path):
    def relabel(content):
        content[content.rindex(b"south") - 10] = 1

    with pytest.raises(SetupFileMalformed, match="contradicts itself about a beacon"):
        contributions(altered(tmp_path, ZKEY, relabel), "zkey")


def test_a_section_that_is_there_twice_is_refused(tmp_path):
    def repeat(content):
        start = section_at(content, 10) - 12
        content += content[start:]
        content[8] += 1

    with pytest.raises(SetupFileMalformed, match="cannot be"):
        contributions(altered(tmp_path, ZKEY, repeat), "zkey")


def test_another_curve_is_refused(tmp_path):
    def change(content):
        content[section_at(content, 2) + 4] ^= 1

    with pytest.raises(SetupFileMalformed, match="curve"):
        verification_key(altered(tmp_path, ZKEY, change), "ab" * 32)


def test_more_contributions_than_a_ceremony_can_have_are_refused(tmp_path):
    def change(content):
        at = section_at(content, 10) + 64
        content[at : at + 4] = b"\xff\xff\xff\xff"

    with pytest.raises(SetupFileMalformed, match="contributions"):
        contributions(altered(tmp_path, ZKEY, change), "zkey")
