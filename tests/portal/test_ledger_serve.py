"""``bithive ledger serve`` answers who has the token; ``bithive ledger burn`` burns once."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ledger import tokenomics
from ledger.books import Ledger
from ledger.chain.keystore import SecretExposed
from portal.cli import app
from portal.home import Home
from portal.ledger_api import TokenTooShort, operator_token
from protocol.units import TOTAL_SUPPLY


@pytest.fixture
def home(tmp_path):
    folder = Home(tmp_path).market
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=datetime(2026, 11, 21, tzinfo=UTC))
    ledger.close()
    return tmp_path


def test_a_milestone_is_burned_once_by_command(home):
    words = ["ledger", "burn", "2025", "--decision", "proposal 12", "--json", "--home", str(home)]
    for _ in range(2):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert json.loads(done.stdout)["burned_base_units"] == str(10**6 * 10**18)
    words = ["ledger", "supply", "--json", "--home", str(home)]
    shown = json.loads(CliRunner().invoke(app, words).stdout)
    assert shown["burned_base_units"] == str(10**6 * 10**18)


def test_a_token_is_made_once_for_its_owner(tmp_path):
    path = tmp_path / "operator.token"
    made = operator_token(path)
    assert operator_token(path) == made
    assert len(made) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_that_is_short_or_exposed_is_refused(tmp_path):
    path = tmp_path / "operator.token"
    path.write_text("t" * 31)
    path.chmod(0o600)
    with pytest.raises(TokenTooShort):
        operator_token(path)
    path.chmod(0o644)
    with pytest.raises(SecretExposed):
        operator_token(path)


@pytest.mark.slow
def test_the_books_are_served_to_who_has_the_token(home):
    token = home / "operator.token"
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = link.getsockname()[1]
    words = [sys.executable, "-m", "portal", "ledger", "serve", "--home", str(home)]
    words += ["--token-file", str(token), "--port", str(port)]
    process = subprocess.Popen(words)
    try:
        assert json.loads(answer(port, token, process))["supply"] == str(TOTAL_SUPPLY)
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(asked(port, "another"), timeout=60)
        assert refusal.value.code == 401
    finally:
        process.terminate()
        process.wait()


def asked(port, token):
    where = f"http://127.0.0.1:{port}/supply"
    return urllib.request.Request(where, headers={"Authorization": f"Bearer {token}"})


def answer(port, token, process):
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(
                asked(port, token.read_text().strip()), timeout=60
            ) as found:
                return found.read()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
