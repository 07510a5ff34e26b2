"""Serve one site of a home as a resident process: ``bithive site run``.

It listens on two Unix sockets, one for the frames of studies and one for its operator, and on
nothing else; everything it calls, it calls outwards. In the site's folder it leaves ``agent.json``,
which says where the sockets are, and the tokens of both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import Final

from rich.console import Console

from fl_client.control import Control
from fl_client.link import Answer
from fl_client.logs import event
from fl_client.resident import Resident
from fl_client.service import listening, make_token, serve
from portal.books import NoRunHere
from portal.demo import prepare, site_resident
from portal.display import Display
from portal.home import Home, Settings
from portal.site_control import control_token_at, keep_places, token_at
from protocol.errors import BitHiveError, ConfigurationError
from protocol.ids import SiteId
from protocol.progress import Step
from zk.circuit import circuit
from zk.prover import Prover

log = logging.getLogger("bithive.site")
TICK_SECONDS: Final = 1.0
METRICS_SECONDS: Final = 15.0


class SiteUnknown(ConfigurationError):
    """The run has no site of this name."""

    code = "site-unknown"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no site {name!r} here; the sites are {', '.join(known)}")


def serve_site(
    path: Path,
    name: str,
    place: Path | None = None,
    *,
    control: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Answer for site ``name`` of the run at ``path`` until SIGTERM or SIGINT.

    Args:
        path: The home.
        name: The site.
        place: Where frames are answered; ``agent.sock`` in the site's folder.
        control: Where the operator is; beside ``place`` with the suffix ``.control``.
        metrics: A file for Prometheus' textfile collector, rewritten every 15 s.

    Raises:
        NoRunHere: The home holds no founded run.
        SiteUnknown: The run has no such site.
    """
    home = Home(path)
    kept = home.settings()
    if kept is None or not home.is_founded():
        raise NoRunHere(path)
    run = prepare(home, Settings(**kept), Display(Console(stderr=True), quiet=True))
    site = SiteId(name)
    if site not in run.data.sites:
        raise SiteUnknown(name, sorted(run.data.sites))
    run.watch = _log_step
    folder = home.site(site)
    frames = place or folder / "agent.sock"
    with Prover(
        circuit(run.settings.circuit), run.proving_key, run.verification_key, workers=1
    ) as prover:
        resident = site_resident(run, site, prover)
        try:
            serve_resident(
                resident, folder, frames, control or frames.with_suffix(".control"), metrics=metrics
            )
        finally:
            resident.close()


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
