"""Semaphore's files are given out as they were committed, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import pytest

from zk import artefacts
from zk.artefacts import FOLDER, KEY_FILE, ArtefactAltered, check_files, read_file, verification_key

MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
NODE = FOLDER / "node"


@pytest.fixture
def copy(tmp_path):
    for name in (*MANIFEST["files"], "manifest.json"):
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def test_the_committed_files_are_those_of_the_manifest():
    assert set(check_files()) == set(MANIFEST["files"])


def test_the_sources_of_the_bundle_are_those_of_the_manifest():
    for name, digest in MANIFEST["sources"].items():
        assert hashlib.sha256((NODE / name).read_bytes()).hexdigest() == digest


def test_what_a_page_downloads_stays_below_seven_megabytes_and_the_bundle_below_600_kb():
    sizes = {name: entry["bytes"] for name, entry in MANIFEST["files"].items()}
    assert sizes["semaphore.js"] <= 600_000
    assert sum(sizes.values()) <= 7_000_000


def test_the_bundle_names_no_other_host():
    assert b"://" not in (FOLDER / "semaphore.js").read_bytes()


def test_the_lock_file_names_no_host():
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]


@pytest.mark.parametrize("name", sorted(MANIFEST["files"]))
def test_an_altered_file_is_refused(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtefactAltered, match="hash"):
        read_file(name, copy)
    with pytest.raises(ArtefactAltered):
        check_files(copy)


def test_a_missing_file_is_named(copy):
    (copy / "semaphore-16.wasm").unlink()
    with pytest.raises(ArtefactAltered, match=r"semaphore-16\.wasm is missing"):
        check_files(copy)


def test_a_manifest_that_is_not_json_is_refused(copy):
    (copy / "manifest.json").write_text("{")
    with pytest.raises(ArtefactAltered, match="not JSON"):
        check_files(copy)


def test_another_key_is_refused_even_if_the_manifest_names_it(copy):
    key = json.loads((copy / KEY_FILE).read_text())
    key["IC"][1], key["IC"][2] = key["IC"][2], key["IC"][1]
    other = json.dumps(key).encode()
    (copy / KEY_FILE).write_bytes(other)
    manifest = MANIFEST | {
        "files": {KEY_FILE: {"bytes": len(other), "sha256": hashlib.sha256(other).hexdigest()}}
    }
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactAltered, match="published"):
        verification_key(copy)


def test_the_published_key_takes_four_public_inputs_and_is_a_ceremonys():
    key = verification_key()
    assert len(key.ic) == 5
    assert key.status == "ceremony"
    assert key.hash == artefacts.KEY_HASH


@pytest.mark.slow
def test_building_again_gives_the_same_bytes():
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("node is not here with `npm ci --ignore-scripts` done in zk/semaphore/node")
    checked = subprocess.run(
        ["node", "build.mjs", "--check"], cwd=NODE, capture_output=True, check=False, text=True
    )
    assert checked.returncode == 0, checked.stderr
