"""Serve one hospital as a resident process: ``bithive site run``.

It opens the hospital's own folder, ``HOME/sites/NAME``, and the records that its ``site.json``
names; nothing else of the home need be there. It listens on two Unix sockets, one for the frames of
studies and one for its operator, and on nothing else; everything it calls, it calls outwards. In
the folder it leaves ``agent.json``, which says where the sockets are, and the tokens of both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from socket import socket
from typing import Final

from fl_client.control import Control
from fl_client.jobs import Job
from fl_client.link import Answer
from fl_client.logs import event
from fl_client.resident import Identity, Resident, StudyAgent
from fl_client.service import listening, make_token, serve
from fl_client.telemetry import Telemetry
from portal.grant_book import BOOK
from portal.site_control import control_token_at, keep_places, token_at
from portal.site_grants import GrantDesk
from portal.site_settings import (
    SiteOwn,
    SiteSettingsDamaged,
    proof_files,
    site_folder,
    site_keys,
)
from portal.site_setup import open_own
from protocol.errors import BitHiveError
from protocol.ids import SiteId
from protocol.progress import Step
from zk.circuit import circuit
from zk.keys import VerificationKey
from zk.prover import Prover

log = logging.getLogger("bithive.site")
TICK_SECONDS: Final = 1.0
METRICS_SECONDS: Final = 15.0


def serve_site(
    path: Path,
    name: str,
    place: Path | None = None,
    *,
    control: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Answer for the hospital ``name``, whose folder is in ``path``, until SIGTERM or SIGINT.

    Args:
        path: The home.
        name: The site.
        place: Where frames are answered; ``agent.sock`` in the site's folder.
        control: Where the operator is; beside ``place`` with the suffix ``.control``.
        metrics: A file for Prometheus' textfile collector, rewritten every 15 s.

    Raises:
        SiteNotSetUp, SiteSettingsDamaged: The hospital's folder does not say what it holds.
        SiteKeysMissing, SiteKeysUnreadable: It holds no keys that can be used.
        RecordError: Its records are not what they were.
    """
    folder = site_folder(path, name)
    own = SiteOwn.load(folder, SiteId(name))
    frames = place or folder / "agent.sock"
    with open_prover(folder, own) as prover:
        resident = open_resident(folder, own, prover)
        try:
            serve_resident(
                resident, folder, frames, control or frames.with_suffix(".control"), metrics=metrics
            )
        finally:
            resident.close()


def open_prover(folder: Path, own: SiteOwn) -> Prover:
    """Return what proves consent with the keys in the hospital's folder.

    Raises:
        SiteSettingsDamaged: The verification key is not the one that was pinned.
        KeyMalformed, StorageError: It cannot be read.
    """
    proving, verifying = proof_files(folder)
    verification_key = VerificationKey.load(verifying)
    if verification_key.hash != own.key_hash:
        raise SiteSettingsDamaged(own.site, "the verification key beside it is another one")
    return Prover(circuit(own.circuit), proving, verification_key, workers=1)


def open_resident(folder: Path, own: SiteOwn, prover: Prover) -> Resident:
    """Return a hospital's resident, which makes an agent for each study its officer approves.

    Raises:
        SiteKeysMissing, SiteKeysUnreadable, RecordError, StorageError: As ``serve_site``.
    """
    keys = site_keys(folder)
    event(log, "opening", site=own.site)
    if (folder / BOOK).is_file():
        GrantDesk(folder, own).tell_agent()
    records = open_own(folder, own)
    telemetry = Telemetry()

    def observe(step: Step) -> None:
        telemetry.step(step)
        _log_step(step)

    def make(job: Job) -> StudyAgent:
        # torch takes seconds to load, and until a job is approved nothing needs it.
        from portal.hospital import agent_of  # noqa: PLC0415 - see above

        return agent_of(folder, own, job.terms, records, prover=prover, progress=observe)

    return Resident(
        Identity(own.site, keys),
        folder,
        make=make,
        clock=lambda: datetime.now(UTC),
        telemetry=telemetry,
    )


def serve_resident(
    resident: Resident,
    folder: Path,
    frames: Path,
    operator: Path,
    *,
    metrics: Path | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Open both doors and serve them until ``stop``, or a signal where none is given.

    Raises:
        StorageError: A socket or token cannot be made.
    """
    stop = stop or _until_signal()
    control = Control(resident)
    site = resident.identity.site
    refresh(resident)
    with (
        listening(operator) as operator_door,
        listening(frames) as frame_door,
        _served(control.answer, operator_door, stop, control_token_at(folder)),
        _served(resident.answer, frame_door, stop, token_at(folder)),
    ):
        keep_places(folder, frames=frames, control=operator)
        event(log, "serving", site=site, pid=os.getpid())
        since = METRICS_SECONDS
        while not stop.wait(TICK_SECONDS):
            refresh(resident)
            since += TICK_SECONDS
            if metrics is not None and since >= METRICS_SECONDS:
                since = 0.0
                _write_metrics(control, metrics)
    event(log, "stopped", site=site)


def refresh(resident: Resident) -> None:
    """Take up what was decided; trouble is logged, and met again by whoever needs it."""
    try:
        resident.duty.standing()
        resident.refresh()
    except BitHiveError as error:
        event(log, "not-refreshed", logging.WARNING, code=error.code)


def _write_metrics(control: Control, path: Path) -> None:
    try:
        control.write_metrics(path)
    except BitHiveError as error:
        event(log, "no-metrics", logging.WARNING, code=error.code)


@contextlib.contextmanager
def _served(answer: Answer, door: socket, stop: threading.Event, token: Path) -> Iterator[None]:
    thread = threading.Thread(
        target=serve, args=(answer, door, stop), kwargs={"token": make_token(token)}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _until_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _log_step(step: Step) -> None:
    if step.seconds:
        event(log, "stage", stage=step.stage, round=step.round, seconds=step.seconds)
