"""How far a study is, read from the server's database."""

from __future__ import annotations

import time
from typing import Any, Final

from fl_server.app import open_store
from portal.deployment.plan import Plan
from portal.deployment.study import started_file
from portal.deployment.up import Say

POLL_SECONDS: Final = 0.5


def progress_of(plan: Plan) -> dict[str, Any]:
    """Return rounds wanted, closed and settled, and what was in them.

    Raises:
        ServerFolderIncomplete: The study was not founded.
    """
    store = open_store(plan.server)
    terms = store.terms()
    assert terms is not None
    closed = store.rounds_closed()
    settled, receipts = 0, 0
    for number in range(1, closed + 1):
        stored = store.round(number)
        if stored is not None and stored.closed is not None:
            settled += bool(stored.settled)
            receipts += len(stored.closed.receipts)
    return {
        "study": terms.study,
        "started": started_file(plan).is_file(),
        "rounds": terms.rounds,
        "rounds_closed": closed,
        "rounds_settled": settled,
        "receipts": receipts,
    }


def follow(plan: Plan, *, say: Say) -> None:
    """Return once the study's last round is settled."""
    seen = -1
    while True:
        found = progress_of(plan)
        if found["rounds_closed"] != seen:
            seen = found["rounds_closed"]
            say(f"{seen} of {found['rounds']} rounds closed")
        if found["rounds_settled"] == found["rounds"]:
            return
        time.sleep(POLL_SECONDS)
