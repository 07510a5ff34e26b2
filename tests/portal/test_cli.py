"""The command refuses in one line with a code and exit 1, and prints results alone on stdout."""

from __future__ import annotations

import json
import re
import resource
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from portal.cli import main

pytestmark = pytest.mark.slow  # a process a test, and runs of their own

ONE_LINE = re.compile(r"\A[a-z]+(-[a-z]+)*: [^\n]+\n\Z")
DEMO = ("demo", "--circuit", "cover8", "--rounds", "1", "--sites", "3", "--json")


def refused(done, code):
    """Check that a command ended as an expected refusal does, and return its sentence."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert ONE_LINE.match(done.stderr), done.stderr
    found, _, sentence = done.stderr.partition(": ")
    assert found == code, done.stderr
    return sentence


@pytest.fixture
def said(capsys, monkeypatch):
    """Run the command in this process, which loads its libraries once for all that is refused."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bithive", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        written = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, left.value.code, written.out, written.err)

    return run


@pytest.fixture
def pictures(tmp_path):
    """Return a sound small folder of images with its manifest."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = ["file,label"]
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'malignant' if number % 2 else 'benign'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def allow_files_of(size):
    """Return what a child does so that no file of its may grow beyond ``size`` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_help_shows_examples(bithive):
    assert "Examples:" in bithive("demo", "--help").stdout
    shown = bithive("ledger", "verify", "--help").stdout
    assert shown.count("Example:  bithive ledger verify") == 1
    assert "Usage: bithive ledger verify" in shown


@pytest.mark.parametrize(
    "misuse",
    [
        ("demo", "--rounds", "0"),
        ("demo", "--patients", "many"),
        ("demo", "--nonsense"),
        ("nonsense",),
    ],
)
def test_misuse_ends_with_two(bithive, misuse):
    done = bithive(*misuse)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--engine", "--circuit", "--grants"])
def test_an_option_that_does_not_exist_names_those_that_do(said, tmp_path, option):
    done = said(*DEMO, option, "nonsense", "--home", tmp_path / "home")
    assert "choose one of" in refused(done, "option-unknown")
    assert not (tmp_path / "home").exists()


def test_a_folder_that_is_not_there_is_refused(said, tmp_path):
    done = said(*DEMO, "--data", tmp_path / "absent", "--home", tmp_path / "home")
    refused(done, "source-missing")


def test_a_folder_without_a_manifest_is_refused(said, tmp_path):
    (tmp_path / "empty").mkdir()
    done = said(*DEMO, "--data", tmp_path / "empty", "--home", tmp_path / "home")
    refused(done, "source-unknown")


def test_a_manifest_that_names_an_absent_file_is_refused(said, pictures, tmp_path):
    (pictures / "7.png").unlink()
    done = said(*DEMO, "--data", pictures, "--home", tmp_path / "home")
    refused(done, "manifest-names-absent-file")


def test_a_truncated_image_is_refused(said, pictures, tmp_path):
    whole = (pictures / "7.png").read_bytes()
    (pictures / "7.png").write_bytes(whole[: len(whole) // 2])
    done = said(*DEMO, "--data", pictures, "--home", tmp_path / "home")
    refused(done, "file-truncated")


def test_a_text_named_as_an_image_is_refused(said, pictures, tmp_path):
    (pictures / "7.png").write_text("this is a letter, not a picture\n")
    done = said(*DEMO, "--data", pictures, "--home", tmp_path / "home")
    refused(done, "not-an-image")


def test_a_folder_of_something_else_is_not_taken_as_home(said, tmp_path):
    (tmp_path / "letter.txt").write_text("mine\n")
    refused(said(*DEMO, "--data", "wisconsin", "--home", tmp_path), "home-foreign")
    assert (tmp_path / "letter.txt").read_text() == "mine\n"


def test_a_home_that_cannot_be_made_is_refused(said, tmp_path):
    (tmp_path / "file").write_text("in the way\n")
    home = tmp_path / "file" / "home"
    refused(said(*DEMO, "--data", "wisconsin", "--home", home), "storage-failed")


@pytest.mark.parametrize(
    ("size", "what"), [(100, "settings"), (2_000, "a picture"), (12_000, "a database")]
)
def test_a_write_that_the_disk_refuses_is_named(bithive, tmp_path, finished, size, what):
    # ``finished`` sees to it that the proof keys are on the disk already.
    done = bithive(
        *(*DEMO, "--data", "phantom", "--patients", "10", "--home", tmp_path / "home"),
        preexec_fn=allow_files_of(size),
    )
    assert "could not store" in refused(done, "storage-failed"), what


def test_the_books_of_a_finished_run_verify(bithive, finished):
    done = bithive("ledger", "verify", "--home", finished.home, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["supply_base_units"] == finished.report["supply_base_units"]
    assert found["burned_base_units"] == 0


def test_balances_are_those_of_the_report(bithive, finished):
    done = bithive("ledger", "balance", "wallet:", "--home", finished.home, "--json")
    assert done.returncode == 0, done.stderr
    balances = json.loads(done.stdout)
    assert balances
    assert balances.items() <= finished.report["balances"].items()


def test_the_audit_log_of_a_finished_run_verifies(bithive, finished):
    done = bithive("audit", "verify", "--home", finished.home, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root"] == finished.report["audit"]["root"]


@pytest.mark.parametrize(
    "question", [("ledger", "verify"), ("ledger", "balance"), ("audit", "verify")]
)
def test_a_folder_without_a_run_has_no_books(bithive, tmp_path, question):
    done = bithive(*question, "--home", tmp_path, "--json")
    assert "bithive demo" in refused(done, "no-run-here")
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_another_run_is_not_overwritten(said, finished, small):
    before = (finished.home / "report.json").read_bytes()
    done = said("demo", "--home", finished.home, *small, "--seed", "2")
    assert "seed" in refused(done, "home-taken")
    assert (finished.home / "report.json").read_bytes() == before


def test_books_that_were_changed_do_not_verify(bithive, finished, tmp_path):
    shutil.copytree(finished.home / "market", tmp_path / "home" / "market")
    with sqlite3.connect(tmp_path / "home" / "market" / "ledger.db") as books:
        books.execute(
            "UPDATE accounts SET credits = (SELECT credits FROM accounts WHERE account = "
            "'wallet:north') WHERE account = 'wallet:harbour'"
        )
    refused(bithive("ledger", "verify", "--home", tmp_path / "home", "--json"), "ledger-damaged")
