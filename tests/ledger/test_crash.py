"""A process killed at any moment loses no committed transfer, and none is made twice."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ledger import chart
from ledger.books import Ledger
from ledger.escrow import escrow_of

pytestmark = pytest.mark.slow

NORTH = chart.wallet("north")

# Pays from an escrow one unit at a time and reports each payment after it was committed.
STREAM = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from ledger import chart
from ledger.books import Ledger
from ledger.escrow import open_escrow, release

now = datetime(2026, 11, 21, tzinfo=UTC)
ledger = Ledger(Path(sys.argv[1]))
open_escrow(ledger, "open", chart.wallet("funder"), "study", 900, now=now)
for number in range(int(sys.argv[2])):
    release(ledger, f"pay:{number}", "study", {chart.wallet("north"): 1}, now=now)
    print(number, flush=True)
"""


def start(path, payments):
    command = [sys.executable, "-c", STREAM, str(path), str(payments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("survived", [0, 17, 60])
def test_a_killed_stream_of_payments_is_finished_without_paying_twice(ledger, path, survived):
    ledger.close()
    stream = start(path, 900)
    reported = -1
    while reported < survived:
        reported = int(stream.stdout.readline())
    stream.send_signal(signal.SIGKILL)
    reported = max([reported, *map(int, stream.stdout.read().split())])
    assert stream.wait() == -signal.SIGKILL

    after = Ledger(path)
    after.verify()
    paid = after.balance(NORTH)
    # What was reported was committed; one more may have been, unreported.
    assert paid in {reported + 1, reported + 2}
    after.close()

    goal = paid + 20
    finished = start(path, goal)
    assert len(finished.stdout.read().split()) == goal
    assert finished.wait() == 0
    after = Ledger(path)
    assert after.balance(NORTH) == goal
    assert escrow_of(after, "study").remaining == 900 - goal
    after.verify()
    after.close()
