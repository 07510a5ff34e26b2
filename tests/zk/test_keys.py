"""A key counts only if it is canonical, checked, on the list and made by more than one machine."""

from __future__ import annotations

import json
import multiprocessing
import stat

import pytest
from py_ecc import optimized_bn128 as bn

from zk.circuit import Circuit, circuit
from zk.keys import (
    CeremonyNotAllowed,
    DevelopmentKeyRefused,
    KeyMalformed,
    KeyNotAllowed,
    ProverMissing,
    SetupFailed,
    VerificationKey,
    check_allowed,
    development_key,
)

pytestmark = pytest.mark.slow

MODULUS = bn.field_modulus


def test_a_key_is_read_back_as_it_was_written(vk, tmp_path):
    vk.save(tmp_path / "vk.json")
    assert VerificationKey.load(tmp_path / "vk.json") == vk
    assert [path.name for path in tmp_path.iterdir()] == ["vk.json"]


def test_a_relabelled_key_is_another_key(vk):
    relabelled = json.loads(vk.to_json()) | {"status": "ceremony"}
    assert VerificationKey.from_json(json.dumps(relabelled)).hash != vk.hash


def test_layout_and_unused_fields_do_not_change_the_hash(vk):
    fields = json.loads(vk.to_json()) | {"vk_alphabeta_12": []}
    assert VerificationKey.from_json(json.dumps(fields, indent=4)).hash == vk.hash


def outside_subgroup():
    """A point of the twist that is not in the subgroup: almost any point is."""
    for k in range(1, 100):
        x = bn.FQ2([k, 0])
        a, b = (int(c) for c in (x * x * x + bn.b2).coeffs)
        norm_root = pow(a * a + b * b, (MODULUS + 1) // 4, MODULUS)
        for sign in (1, -1):
            half = (a + sign * norm_root) * pow(2, -1, MODULUS) % MODULUS
            real = pow(half, (MODULUS + 1) // 4, MODULUS)
            if real == 0:
                continue
            y = bn.FQ2([real, b * pow(2 * real, -1, MODULUS) % MODULUS])
            point = (x, y, bn.FQ2.one())
            if bn.is_on_curve(point, bn.b2) and not bn.is_inf(bn.multiply(point, bn.curve_order)):
                return [[str(int(c)) for c in f.coeffs] for f in point]
    raise AssertionError


def changed(name, value):
    def change(fields):
        fields[name] = value(fields) if callable(value) else value

    return change


def first_coordinate(make):
    def change(fields):
        fields["vk_alpha_1"][0] = make(fields["vk_alpha_1"][0])

    return change


BAD_FIELDS = {
    "another protocol": changed("protocol", "plonk"),
    "another curve": changed("curve", "bls12381"),
    "no status": lambda fields: fields.pop("status"),
    "an unknown status": changed("status", "trusted"),
    "a status that is no text": changed("status", ["ceremony"]),
    "a transcript of a development key": changed("transcript", "ab" * 32),
    "a transcript that is no hash": lambda fields: fields.update(
        status="ceremony", transcript="AB" * 32
    ),
    "a transcript that is no text": lambda fields: fields.update(status="ceremony", transcript=7),
    "a wrong number of inputs": changed("nPublic", 9),
    "no IC": lambda fields: fields.pop("IC"),
    "IC of one": lambda fields: fields.update(IC=fields["IC"][:1], nPublic=0),
    "too many IC": lambda fields: fields.update(IC=fields["IC"] * 9, nPublic=98),
    "no alpha": lambda fields: fields.pop("vk_alpha_1"),
    "a number instead of text": first_coordinate(int),
    "leading zeros": first_coordinate(lambda text: "0" + text),
    "other digits": first_coordinate(lambda text: text[:-1] + "٣"),
    "a coordinate that is not reduced": first_coordinate(lambda text: str(int(text) + MODULUS)),
    "a point off the curve": first_coordinate(lambda text: str(int(text) ^ 1)),
    "infinity": changed("vk_alpha_1", ["0", "1", "0"]),
    "beta that is no point": changed("vk_beta_2", [["1"], ["2"], ["1", "0"]]),
    "beta at infinity": changed("vk_beta_2", [["0", "0"], ["1", "0"], ["0", "0"]]),
    "delta off the curve": changed("vk_delta_2", [["1", "2"], ["3", "4"], ["1", "0"]]),
    "gamma outside the subgroup": changed("vk_gamma_2", lambda _: outside_subgroup()),
    "a skipped second phase": changed("vk_delta_2", lambda fields: fields["vk_gamma_2"]),
}


@pytest.mark.parametrize("bad", BAD_FIELDS)
def test_a_malformed_key_is_refused(vk, bad):
    fields = json.loads(vk.to_json())
    BAD_FIELDS[bad](fields)
    with pytest.raises(KeyMalformed):
        VerificationKey.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 9000, " " * 70_000, '{"protocol":'])
def test_other_text_is_not_a_key(text):
    with pytest.raises(KeyMalformed):
        VerificationKey.from_json(text)


def test_a_binary_file_is_not_a_key(tmp_path):
    (tmp_path / "vk.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KeyMalformed):
        VerificationKey.load(tmp_path / "vk.json")


def test_a_key_off_the_list_is_refused(vk):
    with pytest.raises(KeyNotAllowed):
        check_allowed(vk, {"00" * 32}, allow_development=True)


def test_a_development_key_is_refused_unless_allowed(vk):
    with pytest.raises(DevelopmentKeyRefused):
        check_allowed(vk, {vk.hash}, allow_development=False)
    check_allowed(vk, {vk.hash}, allow_development=True)


def from_ceremony(vk, **fields):
    return VerificationKey.from_json(
        json.dumps(json.loads(vk.snarkjs()) | {"status": "ceremony"} | fields)
    )


def test_a_ceremony_key_is_allowed_if_its_transcript_is_accepted(vk):
    ceremony = from_ceremony(vk, transcript="ab" * 32)
    assert VerificationKey.from_json(ceremony.to_json()) == ceremony
    check_allowed(
        ceremony, {ceremony.hash}, allow_development=False, allowed_transcripts={"ab" * 32}
    )


@pytest.mark.parametrize("accepted", [(), ("cd" * 32,)])
def test_a_ceremony_key_of_another_transcript_is_refused(vk, accepted):
    ceremony = from_ceremony(vk, transcript="ab" * 32)
    with pytest.raises(CeremonyNotAllowed):
        check_allowed(
            ceremony, {ceremony.hash}, allow_development=True, allowed_transcripts=accepted
        )


def test_a_key_relabelled_as_a_ceremonys_names_no_transcript_and_is_refused(vk):
    relabelled = from_ceremony(vk)
    with pytest.raises(CeremonyNotAllowed):
        check_allowed(
            relabelled, {relabelled.hash}, allow_development=False, allowed_transcripts={"ab" * 32}
        )


def test_the_transcript_is_part_of_the_hash(vk):
    hashes = {from_ceremony(vk, transcript=digit * 64).hash for digit in "ab"}
    assert len(hashes | {from_ceremony(vk).hash}) == 3


def test_a_development_key_says_so_and_is_private(keys):
    proving_key, vk = keys
    assert vk.status == "development"
    assert stat.S_IMODE(proving_key.stat().st_mode) == 0o600


def test_a_development_key_is_made_once(cover8, keys, key_folder):
    proving_key, _vk = keys
    before = proving_key.stat().st_mtime_ns
    assert development_key(cover8, key_folder) == keys
    assert proving_key.stat().st_mtime_ns == before


def _hash_of_key(folder, hashes):
    hashes.put(development_key(circuit("cover8"), folder)[1].hash)


def test_processes_that_race_get_the_same_key(tmp_path):
    context = multiprocessing.get_context("spawn")
    hashes = context.Queue()
    racers = [context.Process(target=_hash_of_key, args=(tmp_path, hashes)) for _ in range(2)]
    for racer in racers:
        racer.start()
    found = {hashes.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert len(found) == 1


def test_a_key_left_half_made_is_made_again(cover8, tmp_path):
    name = f"cover8-{cover8.r1cs_sha256[:16]}"
    (tmp_path / f"{name}.pk").write_bytes(b"left by a process that was killed")
    (tmp_path / f"{name}.setup").mkdir()
    (tmp_path / f"{name}.setup" / "pk").write_bytes(b"also")
    proving_key, _vk = development_key(cover8, tmp_path)
    assert proving_key.stat().st_size > 1_000_000
    assert not (tmp_path / f"{name}.setup").exists()


def test_a_setup_that_fails_leaves_no_key(tmp_path, monkeypatch, cover8):
    monkeypatch.setattr(Circuit, "r1cs_bytes", lambda _self: b"not constraints")
    with pytest.raises(SetupFailed):
        development_key(cover8, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_without_the_prover_package_no_key_is_made(tmp_path, monkeypatch, cover8):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ProverMissing, match=r"bithive\[prover\]"):
        development_key(cover8, tmp_path)
