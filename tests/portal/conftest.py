"""What the tests of the command share: starting it as a user does, and one finished small run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.portal.patient_browser import address, devtools, tab  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("--data", "phantom", "--sites", "3", "--patients", "12", "--rounds", "3"),
    *("--circuit", "cover8", "--seed", "1", "--json"),
)
"""A run of seconds in which the careless site (north) has a patient who withdraws."""


@dataclass(frozen=True)
class Finished:
    """A run that ended: where it lives, what it printed, what its report says."""

    home: Path
    printed: dict[str, Any]
    report: dict[str, Any]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "portal", *map(str, arguments)]


def run_command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )


def run_small(home: Path) -> Finished:
    done = run_command("demo", "--home", home, *SMALL)
    assert done.returncode == 0, done.stderr
    return finished_in(home, json.loads(done.stdout))


def finished_in(home: Path, printed: dict[str, Any]) -> Finished:
    return Finished(home, printed, json.loads((home / "report.json").read_text()))


@pytest.fixture(scope="session")
def bithive():
    """Run the command with arguments, to its end."""
    return run_command


@pytest.fixture(scope="session")
def start():
    """Start a run in a home, the small one where no options are given, and go on without it."""
    started = []

    def begin(home: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("demo", "--home", home, *(options or SMALL)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def small():
    """Return the options of the small run."""
    return SMALL


@pytest.fixture(scope="session")
def again(tmp_path_factory):
    """Run the small run to its end in a home, which is new where none is given."""
    return lambda home=None: run_small(home or tmp_path_factory.mktemp("run") / "home")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One small run, made once for all tests that only look: by whichever worker is first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (shared / "printed.json").is_file():
            made = run_small(shared / "home")
            (shared / "printed.json").write_text(json.dumps(made.printed))
    return finished_in(shared / "home", json.loads((shared / "printed.json").read_text()))


@pytest.fixture(scope="session")
def real():
    """Return the path of a folder of real data, or skip."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("BITHIVE_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (base / name).is_dir():
            pytest.skip(f"no real data at {base / name}; set BITHIVE_TEST_DATA to have it tested")
        return base / name

    return find
