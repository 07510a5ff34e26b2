"""The audit commands: whoever has the log's key needs neither its folder nor its word."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from audit.cosignatures import Cosignatures
from audit.notes import NoteKeyMalformed
from audit.verification import WitnessesTooFew
from audit.witness import HistoryForked, HistoryRolledBack, LogUnknown, Witness
from portal.audit_api import audit_app, audit_server
from portal.audit_cli import app
from portal.audit_client import LogUnreachable
from portal.audit_folder import NoLogHere, known_witnesses, make_folder, open_folder, writers_token
from privacy.signatures import signing_key
from storage.merkle import HistoryDisagrees

run = CliRunner()


def asked(*words, error=None):
    """Run a command; return what it printed, or see that it was refused."""
    done = run.invoke(app, [str(word) for word in words])
    if error is not None:
        assert isinstance(done.exception, error), done.output
        return ""
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "log"
    log = make_folder(folder)
    log.append_batch([("paid", {"n": number}) for number in range(300)])
    log.close()
    return folder


@contextmanager
def served(folder):
    """Serve a log's folder on a free port."""
    log = open_folder(folder)
    cosignatures = Cosignatures(log, known_witnesses(folder))
    server = audit_server(
        audit_app(log, cosignatures, token=writers_token(folder)), host="127.0.0.1", port=0
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    log.close()


def test_a_copy_is_verified_with_the_key_alone(folder, tmp_path):
    head = json.loads(asked("head", "--folder", folder, "--json"))
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "audit.db"
    shutil.copy(folder / "audit.db", copy)
    found = json.loads(asked("verify", "--log", copy, "--key", head["key"], "--json"))
    assert (found["size"], found["root"]) == (300, head["root"])
    assert "sound" in asked("verify", "--folder", folder)
    other = asked("head", "--folder", folder, "--json").replace("bithive/audit", "x")
    asked("verify", "--log", copy, "--key", json.loads(other)["key"], error=NoteKeyMalformed)


def test_a_head_that_was_kept_is_held_against_the_log(folder, tmp_path):
    kept = tmp_path / "head.txt"
    kept.write_text(asked("head", "--folder", folder))
    asked("verify", "--folder", folder, "--since", kept)


def test_a_record_is_proven_and_checked_without_the_log(folder, tmp_path):
    key = json.loads(asked("head", "--folder", folder, "--json"))["key"]
    proof = tmp_path / "proof.json"
    proof.write_text(asked("prove", 17, "--folder", folder))
    assert '"n":17' in asked("check", proof, "--key", key)
    assert json.loads(asked("check", proof, "--key", key, "--json"))["size"] == 300
    proof.write_text(proof.read_text().replace('"position": 17', '"position": 18'))
    asked("check", proof, "--key", key, error=HistoryDisagrees)


def test_a_hospital_witnesses_a_log_and_an_auditor_demands_it(folder, tmp_path):
    key = json.loads(asked("head", "--folder", folder, "--json"))["key"]
    own = tmp_path / "witness"
    options = ("--name", "north.example/witness", "--key", key, "--folder", own)
    with served(folder) as url:
        # The log does not know the witness yet, and the witness was not told of the log.
        asked("witness", url, *options, error=LogUnknown)
        asked("witness", url, *options, "--begin", error=LogUnreachable)
    signing = signing_key(own / "witness.key")
    witness = Witness(own / "witness.db", "north.example/witness", signing, time.time)
    (folder / "witnesses").write_text(witness.key.text() + "\n")
    demanded = ("--folder", folder, "--witness-key", witness.key.text())
    asked("verify", *demanded, error=WitnessesTooFew)
    with served(folder) as url:
        assert json.loads(asked("witness", url, *options, "--json"))["size"] == 300
        log = open_folder(folder)
        log.append("paid", {"n": 300})
        log.close()
        assert json.loads(asked("verify", *demanded, "--json"))["cosigned"] == 300
        assert "1 since then" in asked("verify", *demanded)
        assert json.loads(asked("witness", url, *options, "--json"))["size"] == 301
    assert json.loads(asked("verify", *demanded, "--json"))["cosigned"] == 301

    # An older copy of the log in its place, and then another history of the same length.
    for name in ("audit.db", "audit.db-wal", "audit.db-shm"):
        (folder / name).unlink(missing_ok=True)
    log = make_folder(folder)
    log.append_batch([("paid", {"n": number}) for number in range(300)])
    with served(folder) as url:
        asked("witness", url, *options, error=HistoryRolledBack)
        log.append("paid", {"n": 999})
        asked("witness", url, *options, error=HistoryForked)
        log.append("paid", {"n": 301})
        asked("witness", url, *options, error=HistoryDisagrees)
    log.close()
    assert len(witness.evidence()) == 1
    witness.close()


def test_secrets_are_private_and_what_is_no_log_is_refused(folder, tmp_path):
    writers_token(folder)
    for name in ("audit.db", "audit.key", "audit.token"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    asked("verify", "--folder", tmp_path, error=NoLogHere)
    asked("verify", "--log", tmp_path / "none.db", "--key", "k", error=NoLogHere)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "--log", "copy.db"),
        ("verify", "--witnesses", "1"),
    ],
)
def test_options_that_do_not_fit_together_are_misuse(words):
    assert run.invoke(app, list(words)).exit_code == 2
