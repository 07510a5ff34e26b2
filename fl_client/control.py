"""The second door of a hospital's process, for its own operator: how it is, and stop or go on.

Frames again, over a socket and with a token of their own: whoever carries the study's frames cannot
pause the agent, and what is asked here waits for no training.

::

    status  ─▶ one JSON object          metrics ─▶ Prometheus' text
    pause, resume, drain, leave {"actor", "reason"} ─▶ the state after it

What holds, each line a test in tests/fl_client/test_control.py:

1. No answer holds a patient's number, or how many patients there are.
2. The agent is ready when it is on duty and every approved study has its agent.
3. An order names who gives it, and is obeyed only if that one may.

Who holds this door's token is believed when it says who asks: a command, which was started by a
user of this machine, or the officer's page, where somebody has signed in.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast, get_args

from fl_client.duty import DutyState, Order
from fl_client.logs import event
from fl_client.orders import Ordered
from fl_client.refusals import refusal
from fl_client.resident import Resident
from protocol.canonical import read
from protocol.errors import BitHiveError, PrivacyError
from protocol.frames import MalformedFrame, decode, encode

log = logging.getLogger("bithive.resident")
DISK_LOW_BYTES: Final = 2**30
ORDERS: Final = frozenset(get_args(Order))


class Control:
    """The operator's side of a resident process; ``answer`` is its door."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def answer(self, frame: bytes) -> bytes:
        """Answer one frame of the operator's."""
        try:
            request = decode(frame)
            if request.kind == "status":
                return encode("status", self.status())
            if request.kind == "metrics":
                return encode("metrics", {"text": self.metrics()})
            if request.kind in ORDERS:
                order, given = cast("Order", request.kind), read(Ordered, request.body)
                standing = self._resident.duty.order(order, given.by(), reason=given.reason)
                event(log, "ordered", kind=request.kind, state=standing.state)
                return encode("duty", asdict(standing))
            raise MalformedFrame(f"there is no {request.kind!r}")
        except BitHiveError as error:
            return refusal(error)

    def status(self) -> dict[str, Any]:
        """Return how the process is, as plain values."""
        resident = self._resident
        standing = resident.duty.standing()
        studies = self._studies()
        free = shutil.disk_usage(resident.home).free
        now = resident.clock()
        return {
            "site": resident.identity.site,
            "live": True,
            "ready": standing.state == "running" and all(one["served"] for one in studies),
            "state": standing.state,
            "since": standing.since,
            "studies": studies,
            "jobs_pending": sum(job.state(now) == "pending" for job in resident.book.jobs()),
            "last_error": resident.telemetry.last_error,
            "epsilon": [asdict(one) for one in self._spent()],
            "disk_free_bytes": free,
            "disk_low": free < DISK_LOW_BYTES,
            "clock_ahead_seconds": resident.clock_ahead_seconds,
        }

    def metrics(self) -> str:
        """Return the metrics, with the ledger and the state as they are now."""
        self._measure()
        return self._resident.telemetry.text()

    def write_metrics(self, path: Path) -> None:
        """Replace the file that a textfile collector reads.

        Raises:
            StorageError: The disk refused.
        """
        self._measure()
        self._resident.telemetry.write(path)

    def _measure(self) -> None:
        telemetry = self._resident.telemetry
        state = self._resident.duty.standing().state
        telemetry.state({name: name == state for name in get_args(DutyState)})
        telemetry.budget(self._spent())

    def _studies(self) -> list[dict[str, Any]]:
        resident = self._resident
        serving = resident.studies()
        under_way = dict(resident.under_way())
        return [
            {
                "study": study,
                "job": job.hash,
                "served": serving.get(study) == job.hash,
                "error": resident.failed.get(study, ""),
                "rounds": job.manifest.rounds,
                "last_round": max(resident.store.answered(study), default=0),
                "under_way": under_way.get(study, 0),
                "expires": job.manifest.expires,
            }
            for study, job in sorted(resident.book.standing().items())
        ]

    def _spent(self) -> list[Any]:
        try:
            return self._resident.epsilon.spent()
        except (
            PrivacyError
        ) as error:  # a ledger that cannot be trusted: rounds refuse by themselves
            event(log, "ledger-unreadable", logging.ERROR, code=error.code)
            return []
