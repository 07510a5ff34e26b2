"""A built wheel holds every tracked file of the packages, code or not, and nothing besides."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
# What a program reads at run time and no import would miss.
READ = (
    "ledger/tokenomics.yaml",
    "ledger/contracts/build/BTT.json",
    "ledger/contracts/build/ValidatorSet.json",
    "models/weights/sonogram.npz",
    "zk/circuits/build/manifest.json",
)


@pytest.mark.slow
def test_a_wheel_holds_what_the_repository_tracks(tmp_path):
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so there are no tracked files to look for")
    words = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet"]
    built = subprocess.run(
        [*words, "--wheel-dir", str(tmp_path)], capture_output=True, check=False, text=True
    )
    if built.returncode != 0:
        pytest.skip("pip cannot build here: it fetches the build backend")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    assert set(READ) <= inside
    assert tracked <= inside
    assert not [name for name in inside if "node_modules" in name or name.endswith(".key")]
