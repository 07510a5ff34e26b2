"""Bring a federation up on this machine, take it down, and say how it is.

``bring_up`` founds the study's world and the consortium where they are missing, lets the sites in,
starts the supervisor and returns when every process is ready. Called again it starts what is
missing, and where nothing is, says so. ``take_down`` ends the supervisor, and with it everything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from portal.agent_sockets import remove_sockets
from portal.deployment import loopback
from portal.deployment.hold import STATE, holder, read_state
from portal.deployment.onboarding import admit_all, make_keys
from portal.deployment.plan import (
    DeploymentDiffers,
    NothingDeployed,
    Plan,
    PortTaken,
    folder_of,
    free_port,
    is_free,
)
from portal.deployment.supervisor import Supervisor, end_marked, mark_of
from portal.deployment.table import nginx_program, units_of, write_configurations
from portal.deployment.workers import remove_scratch, workers_for
from portal.display import Display
from portal.home import Home, Settings
from portal.own_log import own_record
from protocol.errors import FederationError
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from storage.files import PRIVATE, private_folder

READY_SECONDS: Final = 600.0
DOWN_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.2
SERVING: Final = frozenset({"ready", "done"})


class NotReady(FederationError):
    """Processes of the deployment did not become ready."""

    code = "not-ready"

    def __init__(self, names: list[str], logs: Path) -> None:
        self.names = names
        super().__init__(
            f"{', '.join(names)} did not become ready; see `bithive status` and the logs in {logs}"
        )


class StillRunning(FederationError):
    """The supervisor did not end in time."""

    code = "still-running"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        super().__init__(
            f"the supervisor (process {pid}) did not end within {DOWN_SECONDS:.0f} s; run "
            "`bithive down` again"
        )


@dataclass(frozen=True)
class Wanted:
    """What ``bithive up`` was asked for."""

    settings: Settings
    port: int
    approve: bool = False
    listen: str = "127.0.0.1"
    server_name: str = "localhost"


Say = Callable[[str], None]


def bring_up(home: Home, wanted: Wanted, display: Display, *, say: Say) -> bool:
    """Bring everything up; return whether anything had to be started.

    Args:
        home: New, or one that was brought up before.
        wanted: What it is to be.
        display: Shows the founding.
        say: Told of what is done, in a person's words.

    Raises:
        HomeTaken, HomeForeign, DeploymentDiffers: The home is another one's.
        FeaturesDiffer: The study's code was packed anew since it was founded.
        NginxMissing, PortTaken: This machine lacks something.
        NotReady: A process did not become ready.
    """
    folder = folder_of(home.path)
    pid, held = holder(folder)
    if held and pid is not None:
        plan = Plan.load(home.path)
        home.claim(wanted.settings)
        _same(plan, wanted)
        _same_code(home, wanted.settings)
        if wanted.approve:
            _approve(home, say)
        if all(one["state"] in SERVING for one in read_state(folder)["units"]):
            return False
        os.kill(pid, signal.SIGHUP)
        wait_ready(folder, say=say)
        return True
    nginx_program()
    if not is_free(wanted.port, wanted.listen):
        raise PortTaken(wanted.port)
    plan = _prepared(home, wanted, display, say)
    _start_supervisor(plan)
    wait_ready(folder, say=say)
    return True


def plan_server(home: Path, *, server_name: str, listen: str, port: int, superlink: int) -> Plan:
    """Plan a server of its own, without sites, and write what its processes read.

    Args:
        home: The server's; the operator's folder is ``operator`` in it.
        server_name: By which hospitals reach it.
        listen: The front door's address.
        port: The front door's.
        superlink: The SuperLink's port on loopback.
    """
    pages = free_port(), free_port()
    plan = Plan(
        home, (), port, superlink, pages[0], pages[1], listen=listen, server_name=server_name
    )
    loopback.make_trust(plan.flower)
    write_configurations(plan)
    plan.save()
    return plan


def supervise(home: Path) -> None:
    """Be the supervisor of a home until SIGTERM.

    Raises:
        NothingDeployed: There is nothing to supervise.
        AlreadySupervised: Another one does.
    """
    plan = Plan.load(home)
    workers_for(plan.front)  # where a `bithive down` took their folder away
    supervisor = Supervisor(plan.folder, units_of(plan), root=loopback.ROOT)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    signal.signal(signal.SIGHUP, supervisor.hurry)
    supervisor.run()


def take_down(home: Path) -> str:
    """End everything; return what there was to do, in a sentence.

    Raises:
        NothingDeployed: The home holds no deployment.
        StillRunning: The supervisor does not end.
    """
    folder = folder_of(home)
    if not (folder / "deployment.json").is_file():
        raise NothingDeployed(home)
    pid, held = holder(folder)
    if not held:
        if pid is None:
            return "nothing was running"
        for one in read_state(folder)["units"]:
            end_marked(mark_of(folder, one["name"]))
        (folder / "lock").unlink(missing_ok=True)
        _tidy(home)
        return f"the supervisor (process {pid}) had been killed, and its processes ended with it"
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while holder(folder)[1]:
        if time.monotonic() > deadline:
            raise StillRunning(pid)
        time.sleep(POLL_SECONDS)
    _tidy(home)
    return "everything was stopped"


def _tidy(home: Path) -> None:
    """Remove what the processes that ended left outside the home."""
    remove_sockets(home)
    remove_scratch(folder_of(home) / "front")


def status_of(home: Path) -> dict[str, Any]:
    """Return how a deployment is: the supervisor's table, and whether it is kept.

    Raises:
        NothingDeployed: The home holds no deployment.
    """
    plan = Plan.load(home)
    pid, held = holder(plan.folder)
    units = read_state(plan.folder)["units"]
    if not held:
        units = [{**one, "state": "stopped", "pid": None} for one in units]
    return {
        "home": str(plan.home),
        "supervisor": pid if held else None,
        "up": held and bool(units) and all(one["state"] in SERVING for one in units),
        "front_door": f"https://{plan.server_name}:{plan.port}",
        "units": units,
    }


def wait_ready(folder: Path, *, say: Say, seconds: float = READY_SECONDS) -> None:
    """Return once every process is ready.

    Raises:
        NotReady: One is in a crash loop, the supervisor ended, or it takes too long.
    """
    deadline = time.monotonic() + seconds
    told: set[str] = set()
    seen = False
    while True:
        units = read_state(folder)["units"]
        held = holder(folder)[1]
        seen = seen or held
        late = [one["name"] for one in units if one["state"] not in SERVING]
        for one in units:
            if held and one["state"] in SERVING and one["name"] not in told:
                told.add(one["name"])
                say(f"{one['name']} is ready")
        if held and units and not late:
            return
        failed = [one["name"] for one in units if held and one["state"] == "failed"]
        if failed or (seen and not held) or time.monotonic() > deadline:
            raise NotReady(failed or late or ["supervisor"], folder / "logs")
        time.sleep(POLL_SECONDS)


def _prepared(home: Home, wanted: Wanted, display: Display, say: Say) -> Plan:
    """Make or find the world, the consortium and every file that the processes read."""
    from portal.demo import prepare  # noqa: PLC0415  # it brings all that trains

    with home.lock():
        home.claim(wanted.settings)
        _same_code(home, wanted.settings)
        say("founding the study, or finding it founded")
        plan = _plan(home, wanted, _sites_of(home, wanted.settings))
        for site in plan.sites:
            make_keys(plan, site, now=datetime.now(UTC))
        with display.live():
            prepare(home, wanted.settings, display)
        say("letting the sites in")
        admit_all(plan, record=own_record(plan.authority))
        loopback.make_trust(plan.flower)
        write_configurations(plan, workers_for(plan.front))
        plan.save()
    if wanted.approve:
        _approve(home, say)
    return plan


def _approve(home: Home, say: Say) -> None:
    """Approve the study's job in every hospital's name, as a demonstration may."""
    from portal.jobs import decide_for_demonstration  # noqa: PLC0415  # it brings all that trains

    say("approving the study at every hospital")
    terms = StudyTerms.model_validate_json((home.server / "terms.json").read_bytes())
    decide_for_demonstration(home, terms)


def _sites_of(home: Home, settings: Settings) -> tuple[SiteId, ...]:
    from records.sources import open_source  # noqa: PLC0415  # it reads images

    data, _ = open_source(
        settings.data,
        home=home.data,
        seed=settings.seed,
        sites=settings.sites,
        patients_per_site=settings.patients,
        progress=lambda *_: None,
    )
    return tuple(sorted(data.sites))


def _plan(home: Home, wanted: Wanted, sites: tuple[SiteId, ...]) -> Plan:
    ports = [free_port() for _ in range(3 + len(sites))]
    return Plan(
        home=home.path,
        sites=sites,
        port=wanted.port,
        superlink_port=ports[0],
        page_port=ports[1],
        live_port=ports[2],
        listen=wanted.listen,
        server_name=wanted.server_name,
        officer_ports=tuple(ports[3:]),
    )


def _same(plan: Plan, wanted: Wanted) -> None:
    differing = [
        name
        for name in ("port", "listen", "server_name")
        if getattr(plan, name) != getattr(wanted, name)
    ]
    if differing:
        raise DeploymentDiffers(plan.home, differing)


def _same_code(home: Home, settings: Settings) -> None:
    """Return if the study, where it is founded, has the code that was asked for."""
    if settings.features and home.is_founded():
        from portal.features import check_unchanged  # noqa: PLC0415  # it brings NumPy

        check_unchanged(settings.features, home.server)


def _start_supervisor(plan: Plan) -> None:
    logs = private_folder(plan.folder / "logs")
    (plan.folder / STATE).unlink(missing_ok=True)
    descriptor = os.open(logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
    command = (sys.executable, "-m", "portal", "deployment", "supervise", "--home")
    with os.fdopen(descriptor, "ab") as log:
        subprocess.Popen(  # noqa: S603  # our own command
            (*command, str(plan.home.resolve())),
            cwd=loopback.ROOT,
            env={**os.environ, "PYTHONPATH": str(loopback.ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
