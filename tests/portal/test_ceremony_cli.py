"""The ceremony's commands print results alone on stdout, refuse by code, and never a secret.

The ceremony is the recorded rehearsal (tests/zk/rehearsal.py), so no test here needs node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from portal import ceremony_cli
from privacy.keys import SiteKeys
from tests.zk import rehearsal
from tests.zk.rehearsal import FIRST, KEYS, SECOND, SITES, SOURCE, STRANGER, VALUES, VECTORS
from zk.ceremony import CeremonyInputInvalid
from zk.ceremony_folder import CeremonyNotSound
from zk.circuit import CircuitUnknown
from zk.keys import VerificationKey
from zk.public_powers import Phase1Refused
from zk.snarkjs import SnarkjsMissing
from zk.transcript import BeaconNotAnnounced, CeremonyOutOfTurn

ROOT = Path(__file__).resolve().parents[2]
BEACONS = [f"{one.source}/{one.round}/{one.published_at}" for one in (FIRST, SECOND)]
INVITED = [option for name, key in KEYS.items() for option in ("--site", f"{name}={key.hex()}")]


class Ceremony:
    """Runs the commands in one process, on the recorded files and a settable clock."""

    def __init__(self, folder: Path, clock: rehearsal.Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.keys = {}
        for one in (*SITES, STRANGER):
            self.keys[one.name] = folder.parent / f"{one.name}.json"
            SiteKeys(one.key, SiteKeys.generate().agreement).save(self.keys[one.name])

    def run(self, command, *options, json_too=True):
        arguments = [command, str(self.folder), *options, *(["--json"] if json_too else [])]
        return CliRunner().invoke(ceremony_cli.app, [str(one) for one in arguments])

    def done(self, *arguments):
        result = self.run(*arguments)
        assert result.exit_code == 0, (result.stderr, result.exception)
        return json.loads(result.stdout)

    def refused(self, error, *arguments):
        result = self.run(*arguments)
        assert isinstance(result.exception, error), (result.stderr, result.exception)
        assert result.stdout == ""
        return str(result.exception)

    def begin(self):
        options = [option for beacon in BEACONS for option in ("--beacon", beacon)]
        return self.done("init", "--own-phase-1", "--circuit", "product", *INVITED, *options)

    def contribute(self, one):
        return self.done("contribute", "--keys", self.keys[one.name])

    def end(self, beacon, value):
        self.clock.reach(beacon)
        options = ("--source", beacon.source, "--round", beacon.round, "--value", value.hex())
        return self.done("beacon", *options)


@pytest.fixture
def ceremony(tmp_path, monkeypatch):
    clock = rehearsal.Clock()
    product = rehearsal.circuit(tmp_path / "circuit")

    def circuit(name):
        if name != product.name:
            raise CircuitUnknown(name)
        return product

    monkeypatch.setattr("zk.circuit.circuit", circuit)
    monkeypatch.setattr("zk.snarkjs.Snarkjs.find", rehearsal.Replay)
    monkeypatch.setattr(ceremony_cli, "_now", clock)
    return Ceremony(tmp_path / "ceremony", clock)


@pytest.fixture
def finished(ceremony):
    shutil.copytree(VECTORS, ceremony.folder)
    return ceremony


def beacon_values(*values):
    return [option for value in values for option in ("--beacon-value", value.hex())]


def test_a_ceremony_goes_through_all_its_commands(ceremony):
    opened = ceremony.begin()
    assert opened["sites"] == list(KEYS)
    assert (opened["phase_1"], opened["power"]) == ("own", 4)
    for phase, beacon, value in ((1, FIRST, VALUES[0]), (2, SECOND, VALUES[1])):
        for one in SITES:
            printed = ceremony.contribute(one)
            assert (printed["site"], printed["phase"]) == (one.name, phase)
            assert len(printed["contribution"]) == 128
        assert ceremony.end(beacon, value)["phase"] == phase
    verified = ceremony.done("verify", *beacon_values(*VALUES))
    key = VerificationKey.load(Path(verified["verification_key"]))
    assert key.hash == verified["key_hash"]
    assert (key.status, key.transcript) == ("ceremony", verified["transcript_sha256"])
    assert verified["contributed"] == {"phase_1": list(KEYS), "phase_2": list(KEYS)}
    assert Path(verified["proving_key"]).read_bytes() == (VECTORS / "0008.zkey").read_bytes()


def test_progress_goes_to_standard_error(ceremony):
    ceremony.begin()
    result = ceremony.run("contribute", "--keys", ceremony.keys["east"])
    assert result.stderr == "contributing to phase 1 for east\n"


def test_words_for_people_name_the_hash_to_publish(ceremony):
    ceremony.begin()
    printed = ceremony.run("contribute", "--keys", ceremony.keys["east"], json_too=False).stdout
    line = json.loads((VECTORS / "transcript.jsonl").read_text().splitlines()[1])
    assert line["contribution"] in printed.splitlines()


def test_no_output_or_file_holds_a_private_key(ceremony):
    ceremony.begin()
    result = ceremony.run("contribute", "--keys", ceremony.keys["east"])
    secret = SITES[0].key.private_bytes_raw()
    written = [path.read_bytes() for path in ceremony.folder.iterdir()]
    for text in (result.stdout.encode(), result.stderr.encode(), *written):
        assert secret not in text
        assert secret.hex().encode() not in text


def test_a_hospitals_public_key_is_printed_and_made_if_need_be(tmp_path):
    keys = tmp_path / "keys.json"
    printed = [
        CliRunner().invoke(ceremony_cli.app, ["key", "--keys", str(keys), "--json"]).stdout
        for _ in range(2)
    ]
    assert printed[0] == printed[1]
    assert json.loads(printed[0]) == {"signing_key": SiteKeys.load(keys).signing_public.hex()}
    assert keys.stat().st_mode & 0o777 == 0o600


def test_a_stranger_is_refused(ceremony):
    ceremony.begin()
    ceremony.refused(CeremonyOutOfTurn, "contribute", "--keys", ceremony.keys["stranger"])


def test_a_beacon_that_was_not_announced_is_refused(ceremony):
    ceremony.begin()
    value = VALUES[0].hex()
    wrong = ("--source", SOURCE, "--round", 1001, "--value", value)
    ceremony.refused(BeaconNotAnnounced, "beacon", *wrong)


def test_another_beacons_value_is_refused(finished):
    finished.refused(CeremonyNotSound, "verify", *beacon_values(VALUES[1], VALUES[0]))
    assert not (finished.folder / "verification_key.json").exists()


def test_test_material_is_refused(ceremony):
    powers = VECTORS / "0001.ptau"
    options = ("--circuit", "product", *INVITED, "--beacon", BEACONS[0], "--phase-1", powers)
    assert "test material" in ceremony.refused(Phase1Refused, "init", *options)


@pytest.mark.parametrize(
    "options",
    [
        ("--beacon", BEACONS[0], *INVITED),
        ("--own-phase-1", "--phase-1", "x.ptau", "--beacon", BEACONS[0], *INVITED),
        ("--own-phase-1", "--beacon", BEACONS[0], *INVITED),
        ("--own-phase-1", "--beacon", BEACONS[1], "--beacon", BEACONS[0], *INVITED),
        ("--own-phase-1", "--beacon", "drand 5", *INVITED),
        ("--own-phase-1", "--beacon", f"drand/five/{FIRST.published_at}", *INVITED),
        ("--own-phase-1", "--beacon", "drand/5/tomorrow", *INVITED),
        ("--own-phase-1", "--beacon", BEACONS[0], "--beacon", BEACONS[1], "--site", "east=xyz"),
        ("--own-phase-1", "--beacon", BEACONS[0], "--beacon", BEACONS[1], *INVITED, *INVITED),
        ("--own-phase-1", "--beacon", BEACONS[0], "--beacon", BEACONS[1], *INVITED[:2]),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(ceremony, options):
    ceremony.refused(CeremonyInputInvalid, "init", "--circuit", "product", *options)
    assert not ceremony.folder.exists()


def test_an_unknown_circuit_is_refused(ceremony):
    options = ("--own-phase-1", "--beacon", BEACONS[0], *INVITED)
    ceremony.refused(CircuitUnknown, "init", "--circuit", "cover9", *options)


@pytest.mark.parametrize(
    "misuse", [["init"], ["contribute", "f"], ["beacon", "f"], ["verify", "f"], ["nonsense"]]
)
def test_misuse_is_told_from_refusal(misuse):
    assert CliRunner().invoke(ceremony_cli.app, misuse).exit_code == 2


@pytest.mark.parametrize("command", ["init", "key", "contribute", "beacon", "verify"])
def test_help_shows_an_example(command):
    shown = CliRunner().invoke(ceremony_cli.app, [command, "--help"]).stdout
    assert "Example:" in shown
    assert f"bithive ceremony {command}" in shown


def test_without_snarkjs_the_way_out_is_named(ceremony, monkeypatch, tmp_path):
    ceremony.begin()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("zk.circuit.circuit", lambda name: name)
    sentence = ceremony.refused(SnarkjsMissing, "contribute", "--keys", ceremony.keys["east"])
    assert "npm ci" in sentence


def test_the_commands_tell_the_time_in_utc():
    now = ceremony_cli._now()
    assert now.utcoffset() == datetime.now().astimezone(now.tzinfo).utcoffset()
    assert now.tzname() == "UTC"


def test_help_loads_neither_curves_nor_networks():
    code = (
        "import sys; from portal import ceremony_cli\n"
        "print({'torch', 'py_ecc', 'groth16py', 'zk.curve'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_commands_fit_under_the_main_one():
    main = typer.Typer()
    main.add_typer(ceremony_cli.app, name="ceremony")
    assert CliRunner().invoke(main, ["ceremony", "--help"]).exit_code == 0
