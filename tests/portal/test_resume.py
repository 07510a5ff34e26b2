"""A killed run goes on where it was: finished rounds stay, nothing is paid or opened twice."""

from __future__ import annotations

import json
import time

import pytest

from fl_server.store import ServerStore
from ledger.books import Ledger
from portal.market import BUDGET, RESEARCHER

pytestmark = pytest.mark.slow  # a process a test, and runs of their own

PATIENCE = 300
"""Seconds until a wait is given up."""


def wait_until(process, condition):
    """Wait for ``condition`` while the process works."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended before it was to be killed: {process.communicate()[1]}")
        time.sleep(0.02)
    pytest.fail("the run never came where it was to be killed")


def kill(process):
    process.kill()
    process.communicate()


def rounds(home):
    """Return the server's rounds as they stand, or None before the run is founded."""
    if not (home / "founded").is_file():
        return None
    return ServerStore(home / "server" / "server.db")


def closed(home, number):
    store = rounds(home)
    return store is not None and store.rounds_closed() >= number


def planned(home, number):
    store = rounds(home)
    return store is not None and store.round(number) is not None


def test_a_second_process_is_refused_while_the_first_works(start, bithive, small, tmp_path):
    home = tmp_path / "home"
    first = start(home)
    wait_until(first, (home / "settings.json").is_file)
    second = bithive("demo", "--home", home, *small)
    assert first.poll() is None
    kill(first)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.startswith("home-busy: ")
    assert second.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_never_killed(start, again, finished, tmp_path):
    home = tmp_path / "home"

    founding = start(home)
    wait_until(founding, (home / "server" / "registry.key").is_file)
    kill(founding)
    assert not (home / "founded").is_file(), "killed while it was founded"

    first = start(home)
    wait_until(first, lambda: planned(home, 1))
    kill(first)
    assert rounds(home).rounds_closed() == 0
    study = (home / "server" / "terms.json").read_bytes()

    second = start(home)
    wait_until(second, lambda: closed(home, 1))
    kill(second)
    store = rounds(home)
    kept = store.rounds_closed()
    assert 1 <= kept < 3
    models = {number: store.models.at(number).sha256 for number in range(kept + 1)}
    receipts = store.round(1).closed

    ended = again(home)
    assert (home / "server" / "terms.json").read_bytes() == study
    assert {number: store.models.at(number).sha256 for number in models} == models
    assert store.round(1).closed == receipts

    books = Ledger(home / "market" / "ledger.db")
    books.verify()
    given_back = int(ended.report["balances"][RESEARCHER])
    assert ended.printed["paid_base_units"] + given_back == BUDGET
    assert ended.report["study"]["in_escrow_base_units"] == 0
    assert ended.printed["paid_base_units"] == finished.printed["paid_base_units"]
    assert ended.printed["auc_federated"] == finished.printed["auc_federated"]
    assert ended.printed["epsilon"] == finished.printed["epsilon"]
    assert ended.printed["sum_exact"] is True
    assert ended.printed["receipts"] == finished.printed["receipts"]
    assert json.loads((home / "report.json").read_text()) == ended.report
