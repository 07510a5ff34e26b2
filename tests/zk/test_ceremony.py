"""A ceremony accepts what its sites made in their turns, and nothing else.

The fast tests replay a rehearsal that snarkjs computed once (tests/vectors/zk/rehearsal); the slow
ones run snarkjs, the last of them a genuine ceremony of three sites for ``cover8``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocol.canonical import canonical
from protocol.errors import DiskFull, StorageError
from tests.zk import rehearsal
from tests.zk.rehearsal import (
    BEACONS,
    FIRST,
    HOUR,
    KEYS,
    SECOND,
    SITES,
    SOURCE,
    STRANGER,
    VALUES,
    VECTORS,
    Clock,
    Replay,
    perform,
    workplace,
)
from zk import fast, groth16, public_powers
from zk.ceremony import CeremonyInputInvalid, announcement, apply_beacon, begin, contribute
from zk.ceremony_check import verify
from zk.ceremony_folder import CeremonyNotSound, load_transcript
from zk.circuit import circuit
from zk.groth16 import ProofInvalid
from zk.keys import CeremonyNotAllowed, check_allowed, locked
from zk.prover import Prover
from zk.public_powers import Phase1Refused, power_of
from zk.setup_files import SetupFileMalformed
from zk.snarkjs import Snarkjs, SnarkjsFailed, SnarkjsMissing
from zk.transcript import (
    BeaconNotAnnounced,
    CeremonyOutOfTurn,
    Transcript,
    TranscriptRefused,
)
from zk.transcript_lines import Contribution

EAST, NORTH, SOUTH = SITES


@pytest.fixture(scope="session")
def product(tmp_path_factory):
    return rehearsal.circuit(tmp_path_factory.mktemp("circuit"))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def at(tmp_path, product):
    return workplace(tmp_path / "ceremony", product, Replay())


@pytest.fixture
def finished(at, product):
    """The recorded ceremony, as its last site left it."""
    shutil.copytree(VECTORS, at.folder)
    return at


def began(at, clock, *sites):
    begin(at, KEYS, BEACONS, phase_1=None, now=clock())
    for site in sites:
        contribute(at, site, clock=clock)


def lines_of(at):
    return (at.folder / "transcript.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(at, change, *, index=-1):
    """Change the fields of a line of the transcript."""
    lines = lines_of(at)
    fields = json.loads(lines[index])
    change(fields)
    lines[index] = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    (at.folder / "transcript.jsonl").write_bytes(b"".join(lines))


def test_a_ceremony_runs_through_both_phases(at, clock):
    perform(at, clock)
    assert at.tools.steps == [
        *("begin 1", "contribute 1 east", "contribute 1 north", "contribute 1 south", "beacon 1"),
        *("prepare", "begin 2", "contribute 2 east", "contribute 2 north", "contribute 2 south"),
        "beacon 2",
    ]
    assert load_transcript(at.folder) == Transcript.read(
        (VECTORS / "transcript.jsonl").read_bytes()
    )
    done = verify(at, VALUES, phase_1=None)
    assert at.tools.steps[-2:] == ["check 1", "check 2"]
    assert done.verification_key.transcript == done.transcript.sha256
    assert done.proving_key.name == "0008.zkey"


def test_a_server_accepts_the_key_only_with_its_transcript(finished):
    done = verify(finished, VALUES, phase_1=None)
    key, listed = done.verification_key, {done.verification_key.hash}
    check_allowed(
        key, listed, allow_development=False, allowed_transcripts={done.transcript.sha256}
    )
    with pytest.raises(CeremonyNotAllowed):
        check_allowed(key, listed, allow_development=False)


def test_nothing_is_left_beside_the_files_of_the_transcript(at, clock):
    perform(at, clock)
    assert {path.name for path in at.folder.iterdir()} == {
        *(path.name for path in VECTORS.iterdir()),
        ".lock",
    }


def test_a_ceremony_does_not_begin_where_there_is_one(at, clock):
    began(at, clock)
    with pytest.raises(CeremonyOutOfTurn, match="has begun"):
        began(at, clock)


def test_a_stranger_cannot_contribute(at, clock):
    began(at, clock)
    with pytest.raises(CeremonyOutOfTurn):
        contribute(at, STRANGER, clock=clock)
    assert at.tools.steps == ["begin 1"]


def test_a_site_contributes_once(at, clock):
    began(at, clock, EAST)
    with pytest.raises(CeremonyOutOfTurn):
        contribute(at, EAST, clock=clock)


def test_a_site_is_too_late_once_the_beacon_is_public(at, clock):
    began(at, clock, EAST, NORTH)
    clock.reach(FIRST)
    with pytest.raises(CeremonyOutOfTurn):
        contribute(at, SOUTH, clock=clock)


def test_a_contribution_that_is_ready_too_late_is_not_kept(at, clock, monkeypatch):
    began(at, clock)

    def slow(self, old, new, name):
        self._give("slow", new)
        clock.reach(FIRST)

    monkeypatch.setattr(Replay, "contribute_phase_1", slow)
    with pytest.raises(TranscriptRefused, match="public since"):
        contribute(at, EAST, clock=clock)
    assert len(lines_of(at)) == 1
    assert not (at.folder / "0001.ptau").exists()


def test_a_beacon_that_was_not_announced_is_refused(at, clock):
    began(at, clock, EAST, NORTH)
    clock.reach(FIRST)
    with pytest.raises(BeaconNotAnnounced):
        apply_beacon(at, SOURCE, SECOND.round, VALUES[1], clock=clock)
    with pytest.raises(BeaconNotAnnounced):
        apply_beacon(at, "a coin of mine", FIRST.round, VALUES[0], clock=clock)


def test_a_beacon_before_its_time_is_refused(at, clock):
    began(at, clock, EAST, NORTH)
    with pytest.raises(CeremonyOutOfTurn, match="is published at"):
        apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)


def test_a_beacon_after_one_site_is_refused(at, clock):
    began(at, clock, EAST)
    clock.reach(FIRST)
    with pytest.raises(CeremonyOutOfTurn, match="1 of at least 2"):
        apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)


@pytest.mark.parametrize("value", [b"", bytes(15), bytes(65)])
def test_a_beacon_has_16_to_64_bytes(at, clock, value):
    began(at, clock, EAST, NORTH)
    clock.reach(FIRST)
    with pytest.raises(CeremonyInputInvalid):
        apply_beacon(at, SOURCE, FIRST.round, value, clock=clock)


@pytest.mark.parametrize(
    "sites", [{}, {EAST.name: EAST.signing_public}, {**KEYS, "East": b""}, {**KEYS, "west": b"1"}]
)
def test_sites_that_cannot_be_meant_are_refused(at, clock, sites):
    with pytest.raises(CeremonyInputInvalid):
        begin(at, sites, BEACONS, phase_1=None, now=clock())
    assert not at.folder.exists()


@pytest.mark.parametrize(
    "parts", [("", 1, "2026-12-01T12:00:00Z"), ("drand", -1, "2026-12-01T12:00:00Z"), ("d", 1, "x")]
)
def test_a_beacon_that_cannot_be_meant_is_refused(parts):
    with pytest.raises(CeremonyInputInvalid):
        announcement(*parts)


def test_a_beacon_that_is_public_already_cannot_be_announced(at, clock):
    clock.now += 3 * HOUR
    with pytest.raises(CeremonyInputInvalid, match="public already"):
        begin(at, KEYS, BEACONS, phase_1=None, now=clock())


def test_a_changed_file_is_not_contributed_to(at, clock):
    began(at, clock, EAST)
    changed = bytearray((at.folder / "0001.ptau").read_bytes())
    changed[200] ^= 1
    (at.folder / "0001.ptau").write_bytes(changed)
    with pytest.raises(CeremonyNotSound, match="not the file"):
        contribute(at, NORTH, clock=clock)


def test_another_contribution_under_the_name_is_noticed(at, clock):
    began(at, clock, EAST)
    shutil.copy(VECTORS / "0002.ptau", at.folder / "0001.ptau")
    with pytest.raises(CeremonyNotSound, match="has 2 contributions"):
        contribute(at, NORTH, clock=clock)


def test_a_missing_file_is_named(at, clock):
    began(at, clock, EAST)
    (at.folder / "0001.ptau").unlink()
    with pytest.raises(StorageError, match=r"0001\.ptau"):
        contribute(at, NORTH, clock=clock)


def test_a_folder_without_a_ceremony_is_refused(at, clock):
    with pytest.raises(StorageError, match=r"transcript\.jsonl"):
        contribute(at, EAST, clock=clock)


@pytest.mark.parametrize(
    "step", ["contribute_phase_1", "apply_beacon_phase_1", "prepare_phase_2", "begin_phase_2"]
)
def test_an_interrupted_step_can_be_repeated(at, clock, monkeypatch, step):
    began(at, clock)
    with monkeypatch.context() as interrupted:

        def interrupt(_self, *arguments):
            new = next(one for one in arguments if isinstance(one, Path) and "draft" in one.name)
            new.write_bytes(b"half a file")
            raise KeyboardInterrupt

        interrupted.setattr(Replay, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            for site in SITES:
                contribute(at, site, clock=clock)
            clock.reach(FIRST)
            apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)
    assert not list(at.folder.glob(".*.draft"))
    if step == "contribute_phase_1":
        for site in SITES:
            contribute(at, site, clock=clock)
        clock.reach(FIRST)
    apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)
    assert at.tools.steps.count("prepare") == 1
    assert load_transcript(at.folder).turn.phase == 2


def test_powers_of_another_ceremony_are_not_taken_for_prepared(at, clock):
    began(at, clock, *SITES)
    shutil.copy(VECTORS / "0003.ptau", at.folder / "phase-1.ptau")
    clock.reach(FIRST)
    apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)
    assert "prepare" in at.tools.steps


def test_a_full_disk_leaves_the_ceremony_where_it_was(at, clock, monkeypatch):
    began(at, clock)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(Replay, "contribute_phase_1", full)
        with pytest.raises(DiskFull):
            contribute(at, EAST, clock=clock)
    contribute(at, EAST, clock=clock)


def test_one_process_at_a_time_takes_a_step(at, clock):
    began(at, clock)
    with ThreadPoolExecutor(1) as other:
        with locked(at.folder / ".lock"):
            waiting = other.submit(contribute, at, EAST, clock=clock)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=120).site == "east"


# Verifying: everything a dishonest site or coordinator could leave behind.


def test_an_unfinished_ceremony_gives_no_key(at, clock):
    began(at, clock, EAST, NORTH)
    with pytest.raises(CeremonyOutOfTurn, match="has not ended"):
        verify(at, VALUES, phase_1=None)


@pytest.mark.parametrize("values", [(), VALUES[:1], VALUES[::-1], (*VALUES, VALUES[0])])
def test_a_beacon_of_another_value_is_refused(finished, values):
    with pytest.raises(CeremonyNotSound, match="beacon"):
        verify(finished, values, phase_1=None)


def test_another_circuit_is_refused(finished, tmp_path):
    other = rehearsal.circuit(tmp_path / "other", factor=2)
    with pytest.raises(CeremonyNotSound, match="it is for constraints"):
        verify(workplace(finished.folder, other, Replay()), VALUES, phase_1=None)


@pytest.mark.parametrize("index", range(1, 8))
def test_a_dropped_contribution_is_refused(finished, index):
    lines = lines_of(finished)
    (finished.folder / "transcript.jsonl").write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
    with pytest.raises(TranscriptRefused):
        verify(finished, VALUES, phase_1=None)


def test_reordered_contributions_are_refused(finished):
    lines = lines_of(finished)
    lines[5], lines[6] = lines[6], lines[5]
    (finished.folder / "transcript.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(TranscriptRefused):
        verify(finished, VALUES, phase_1=None)


@pytest.mark.parametrize("field", ["contribution", "file_sha256", "at", "site", "signature"])
def test_a_changed_contribution_is_refused(finished, field):
    other = {"at": "2026-11-21T10:00:01Z", "site": "north"}

    def change(fields):
        fields[field] = other.get(field, "00" * (len(fields[field]) // 2))

    rewrite(finished, change, index=5)
    with pytest.raises(TranscriptRefused):
        verify(finished, VALUES, phase_1=None)


@pytest.mark.parametrize("field", ["contribution", "file_sha256"])
def test_the_last_line_is_compared_with_the_file(finished, field):
    rewrite(finished, lambda fields: fields.update({field: "00" * (len(fields[field]) // 2)}))
    with pytest.raises(CeremonyNotSound, match=r"0008\.zkey"):
        verify(finished, VALUES, phase_1=None)


@pytest.mark.parametrize("file", ["0003.ptau", "0004.zkey"])
def test_another_phase_1_is_refused(finished, file):
    shutil.copy(finished.folder / file, finished.folder / "phase-1.ptau")
    with pytest.raises((CeremonyNotSound, SetupFileMalformed)):
        verify(finished, VALUES, phase_1=None)


# A public phase 1.


@pytest.fixture
def public(tmp_path, monkeypatch):
    """The rehearsal's phase 1, as if it were known to be made by many."""
    path = tmp_path / "public.ptau"
    shutil.copy(VECTORS / "phase-1.ptau", path)
    known = {4: public_powers.file_hash(path, "blake2b")}
    monkeypatch.setattr(public_powers, "POWERS", known)
    return path


@pytest.fixture
def on_public(tmp_path, product):
    return workplace(tmp_path / "ceremony", product, Replay(skipped=4))


def test_a_public_phase_1_is_taken_by_its_hash(on_public, clock, public):
    transcript = begin(on_public, KEYS, BEACONS[:1], phase_1=public, now=clock())
    assert transcript.turn.phase == 2
    assert transcript.opening.phase_1.blake2b == public_powers.POWERS[4]
    assert on_public.tools.steps == ["begin 2"]


def test_a_changed_public_phase_1_is_refused(at, clock, public):
    content = bytearray(public.read_bytes())
    content[-1] ^= 1
    public.write_bytes(content)
    with pytest.raises(Phase1Refused, match="not among the known"):
        begin(at, KEYS, BEACONS[:1], phase_1=public, now=clock())
    assert not at.folder.exists()


def test_test_material_of_one_contributor_is_refused(at, clock):
    with pytest.raises(Phase1Refused, match="test material, 2\\^4 powers of 1 contributor"):
        begin(at, KEYS, BEACONS[:1], phase_1=VECTORS / "0001.ptau", now=clock())


def test_a_public_phase_1_that_is_too_small_is_refused(tmp_path, clock, public):
    at = workplace(tmp_path / "ceremony", circuit("cover8"), Replay())
    with pytest.raises(Phase1Refused, match=r"circuit needs 2\^13"):
        begin(at, KEYS, BEACONS[:1], phase_1=public, now=clock())


def test_the_hashes_of_public_files_cover_our_circuits():
    for name in ("cover8", "cover64"):
        assert power_of(circuit(name)) in public_powers.POWERS
    assert all(len(bytes.fromhex(known)) == 64 for known in public_powers.POWERS.values())
    assert len(set(public_powers.POWERS.values())) == len(public_powers.POWERS)


def test_whoever_verifies_gives_the_public_phase_1(on_public, clock, public, monkeypatch):
    begin(on_public, KEYS, BEACONS[:1], phase_1=public, now=clock())
    for site in SITES:
        contribute(on_public, site, clock=clock)
    clock.reach(FIRST)
    # The recorded file was made with the second value, so this beacon is said to have had it.
    apply_beacon(on_public, SOURCE, FIRST.round, VALUES[1], clock=clock)
    with pytest.raises(CeremonyNotSound, match="was not given"):
        verify(on_public, VALUES[1:], phase_1=None)
    done = verify(on_public, VALUES[1:], phase_1=public)
    assert done.transcript.sites_of(2) == list(KEYS)
    another = VECTORS / "0004.ptau"
    monkeypatch.setitem(public_powers.POWERS, 5, public_powers.file_hash(another, "blake2b"))
    with pytest.raises(CeremonyNotSound, match="another public file"):
        verify(on_public, VALUES[1:], phase_1=another)


# With node: what only snarkjs can find out, and one ceremony in earnest.


@pytest.fixture(scope="module")
def tools():
    try:
        return Snarkjs.find()
    except SnarkjsMissing as missing:
        pytest.skip(str(missing))


def section_at(content, number):
    position = 12
    while int.from_bytes(content[position : position + 4], "little") != number:
        position += 12 + int.from_bytes(content[position + 4 : position + 12], "little")
    return position + 12


DELTA_1 = 12 + 8 + 64 + 2 * 64 + 2 * 128  # in section 2: sizes and moduli, alpha, beta twice, gamma
FORGED = {
    "two points of H exchanged": (9, 0, 64, 64),
    "delta exchanged for alpha": (2, DELTA_1, 12 + 8 + 64, 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("forgery", FORGED)
def test_a_last_file_that_does_not_follow_is_found_by_snarkjs(finished, tools, forgery):
    """The last line is nobody's signature, so whoever sends the folder can name another file."""
    number, one, other, size = FORGED[forgery]
    path = finished.folder / "0008.zkey"
    content = bytearray(path.read_bytes())
    start = section_at(content, number)
    first, second = (slice(start + at, start + at + size) for at in (one, other))
    content[first], content[second] = content[second], content[first]
    path.write_bytes(content)
    named = {"file_sha256": public_powers.file_hash(path, "sha256")}
    rewrite(finished, lambda fields: fields.update(named))
    with pytest.raises(SnarkjsFailed, match="verify phase 2"):
        verify(workplace(finished.folder, finished.circuit, tools), VALUES, phase_1=None)


@pytest.mark.slow
def test_powers_that_do_not_follow_are_found_by_snarkjs(finished, tools):
    path = finished.folder / "phase-1.ptau"
    content = bytearray(path.read_bytes())
    start = section_at(content, 12)
    content[start : start + 64], content[start + 64 : start + 128] = (
        content[start + 64 : start + 128],
        content[start : start + 64],
    )
    path.write_bytes(content)
    with pytest.raises(SnarkjsFailed, match="verify phase 1"):
        verify(workplace(finished.folder, finished.circuit, tools), VALUES, phase_1=None)


def cached_phase_1(cover8, tools):
    """A ceremony whose phase 1 is over, made once on a machine: 245 CPU seconds, then none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bithive"
    base.mkdir(parents=True, exist_ok=True)
    kept = base / f"rehearsal-1-{cover8.name}-{cover8.r1cs_sha256[:16]}"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            made = kept.with_suffix(".draft")
            shutil.rmtree(made, ignore_errors=True)
            clock, at = Clock(), workplace(made, cover8, tools)
            began(at, clock, *SITES)
            clock.reach(FIRST)
            apply_beacon(at, SOURCE, FIRST.round, VALUES[0], clock=clock)
            made.rename(kept)
    return kept


@pytest.mark.slow
def test_three_sites_make_a_key_for_cover8_that_proves(cover8, chunk, keys, tools, tmp_path):
    at = workplace(tmp_path / "ceremony", cover8, tools)
    shutil.copytree(cached_phase_1(cover8, tools), at.folder)
    clock = Clock()
    clock.reach(FIRST)
    for site in SITES:
        contribute(at, site, clock=clock)
    with pytest.raises(BeaconNotAnnounced):
        apply_beacon(at, SOURCE, FIRST.round, VALUES[1], clock=clock)
    clock.reach(SECOND)
    apply_beacon(at, SOURCE, SECOND.round, VALUES[1], clock=clock)
    done = verify(at, VALUES, phase_1=None)
    assert done.transcript.sites_of(1) == done.transcript.sites_of(2) == list(KEYS)

    vk = done.verification_key
    check_allowed(
        vk, {vk.hash}, allow_development=False, allowed_transcripts={done.transcript.sha256}
    )
    with Prover(cover8, done.proving_key, vk) as prover:
        ours = prover.prove(chunk.slots, chunk.scope, chunk.blind)
    theirs = tools.prove(cover8, done.proving_key, vk, chunk.slots, chunk.scope, chunk.blind)
    assert ours[0] == theirs[0] == chunk.statement
    assert ours[1] != theirs[1]
    for statement, proof in (ours, theirs):
        groth16.verify(vk, statement, proof)
        fast.verify(vk, statement, proof)
        tools.verify(vk, statement, proof)
        with pytest.raises(ProofInvalid):
            groth16.verify(keys[1], statement, proof)

    tampered_transcripts_are_refused(at)
    foreign = workplace(at.folder, circuit("cover64"), tools)
    with pytest.raises(CeremonyNotSound, match="it is for constraints"):
        verify(foreign, VALUES, phase_1=None)


def tampered_transcripts_are_refused(at):
    lines = lines_of(at)
    forged = {
        "changed": [*lines[:6], lines[6].replace(b":00:00Z", b":00:01Z"), *lines[7:]],
        "dropped": [*lines[:6], *lines[7:]],
        "reordered": [*lines[:5], lines[6], lines[5], *lines[7:]],
        "signed by another": [*lines[:6], _signed_by_a_stranger(lines[6]), *lines[7:]],
        "ended otherwise": [*lines[:8], lines[8].replace(b'"round":2000', b'"round":2001')],
    }
    for content in forged.values():
        assert content != lines
        (at.folder / "transcript.jsonl").write_bytes(b"".join(content))
        with pytest.raises(TranscriptRefused):
            verify(at, VALUES, phase_1=None)
    (at.folder / "transcript.jsonl").write_bytes(b"".join(lines))


def _signed_by_a_stranger(line):
    entry = Contribution.model_validate_json(line).signed_by(STRANGER.sign)
    return canonical(entry) + b"\n"
