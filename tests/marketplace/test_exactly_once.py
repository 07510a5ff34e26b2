"""A round is paid once, also when the settler is killed or two settlers race."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from ledger.books import Ledger
from ledger.escrow import escrow_of
from marketplace.study import Study, fund
from protocol.ids import StudyId

pytestmark = pytest.mark.slow

ROUNDS = 60

# Settles every round of a folder of closed rounds, first to last, and says after each that it did.
SETTLER = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from ledger.books import Ledger
from marketplace.settlement import settle
from marketplace.study import Study
from protocol.messages import RoundClosed

database, rounds = map(Path, sys.argv[1:3])
told = json.loads((rounds / "study.json").read_text())
keys = {site: bytes.fromhex(key) for site, key in told["site_keys"].items()}
ledger, study = Ledger(database), Study(**told["study"])
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, study.rounds + 1):
    closed = RoundClosed.model_validate_json((rounds / f"{number}.json").read_text())
    server_key = bytes.fromhex(told["server_key"])
    now = datetime.now(UTC)
    settle(ledger, study, closed, site_keys=keys, server_key=server_key, now=now)
    print(number, flush=True)
"""


@pytest.fixture
def rounds(tmp_path, unfunded, signers, now):
    """A funded study of sixty closed rounds, in files."""
    folder = tmp_path / "rounds"
    folder.mkdir()
    study = Study(StudyId("study"), "wallet:buyer", budget=1200, rounds=ROUNDS)
    fund(unfunded, study, now=now)
    told = {
        "study": vars(study),
        "site_keys": {site: key.hex() for site, key in signers.site_keys.items()},
        "server_key": signers.server_key.hex(),
    }
    (folder / "study.json").write_text(json.dumps(told))
    for number in range(1, ROUNDS + 1):
        closed = signers.close({"north": 1, "south": number}, number)
        (folder / f"{number}.json").write_text(closed.model_dump_json())
    return folder


def start(path, rounds):
    settler = subprocess.Popen(
        [sys.executable, "-c", SETTLER, str(path), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert settler.stdout.readline() == "ready\n"
    return settler


def go(settler):
    settler.stdin.write("go\n")
    settler.stdin.flush()


def settlements(ledger):
    found = [ledger.find(f"settle:study:{number}") for number in range(1, ROUNDS + 1)]
    return [transfer for transfer in found if transfer is not None]


def test_a_killed_settler_is_followed_by_another_without_paying_twice(unfunded, path, rounds):
    killed = start(path, rounds)
    go(killed)
    while killed.stdout.readline() != "7\n":
        pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    unfunded.verify()
    paid_before = settlements(unfunded)
    assert 7 <= len(paid_before) < ROUNDS
    assert escrow_of(unfunded, "study").remaining == 1200 - 20 * len(paid_before)

    next_one = start(path, rounds)
    next_one.communicate("go\n")
    assert next_one.returncode == 0
    assert settlements(unfunded)[: len(paid_before)] == paid_before
    check_paid_once(unfunded)


def test_two_settlers_at_once_pay_each_round_once(unfunded, path, rounds):
    settlers = [start(path, rounds) for _ in range(2)]
    for settler in settlers:
        go(settler)
    for settler in settlers:
        said, _ = settler.communicate()
        assert settler.returncode == 0
        assert len(said.split()) == ROUNDS
    check_paid_once(unfunded)


def check_paid_once(ledger: Ledger):
    assert len(settlements(ledger)) == ROUNDS
    assert escrow_of(ledger, "study").state == "captured"
    arrived = {**ledger.balances("wallet:"), **ledger.balances("pool:")}
    assert sum(arrived.values()) - ledger.balance("wallet:buyer") == 1200
    assert ledger.verify().transfers == ROUNDS + 3  # genesis, the buyer's start, the funding
