"""Run the demonstration on a real Flower SuperLink, with a node and an agent per site.

::

    bithive demo ──▶ SuperLink (TLS, registered node keys) ◀── node ──▶ agent   (unix socket)
         │                  └─▶ ServerApp (the engine, its own process)
         └── watches the server's store; settles each closed round

A node is ours, resident (``bithive site node``). With the engine ``supernode`` it is Flower's
SuperNode, which starts a process with the ClientApp for every message (``fl_client/app.py``).

Every process listens on loopback only. Keys and certificates are made for this run and live in its
home. The apps are the very files of this repository, bundled by Flower's builder from the
allow-list in ``pyproject.toml``.

References:
    Flower 1.41 documentation: "Run Flower with the Deployment Engine", "Enable TLS connections",
    "Authenticate SuperNodes".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portal.agent_sockets import remove_sockets, socket_of
from portal.certificates import make_node_key
from portal.deployment import loopback
from portal.jobs import decide_for_demonstration
from portal.site_control import token_at
from protocol.errors import FederationError
from protocol.ids import SiteId
from protocol.progress import Step

if TYPE_CHECKING:
    from portal.demo import Run

ROOT: Final = loopback.ROOT
START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.25


class ServerFailed(FederationError):
    """A Flower process did not start, or ended before the run did."""

    code = "server-failed"

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        super().__init__(f"{name} ended or did not start; its log is {log}; run again to resume")


@dataclass
class Processes:
    """The processes of a run, their logs, and one way to stop them all.

    ``folder`` is the SuperLink's, ``port`` is where it listens on loopback.
    """

    folder: Path
    port: int
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a process in its own group; its words go to ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603  # our own commands
                command,
                cwd=ROOT,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """See that all are alive.

        Raises:
            ServerFailed: One is not.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                raise ServerFailed(name, self.folder / f"{name}.log")

    def stop(self) -> None:
        """Ask all to end, then end them."""
        for process in self.running.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Door:
    """Where a site's agent answers, and the file with the token of its door."""

    socket: Path
    token: Path


def run_on_superlink(run: Run) -> None:
    """Bring the servers up, start the Flower run, and settle rounds until the last is closed.

    Raises:
        ServerFailed: A process ended early.
    """
    if run.store.rounds_closed() == run.terms.rounds:
        return
    decide_for_demonstration(run.home, run.terms)
    with servers(run) as processes:
        _start_run(run, processes)
        _watch(run, processes)


@contextlib.contextmanager
def servers(run: Run) -> Iterator[Processes]:
    """Start SuperLink, agents and SuperNodes; stop them all at the end."""
    folder = run.home.path / "flower"
    shutil.rmtree(folder, ignore_errors=True)  # each start is a new Flower run
    folder.mkdir(mode=0o700)
    processes = Processes(folder, free_port(), environment(folder))
    try:
        start_superlink(processes)
        places = {one.site: _start_agent(run, processes, one.site) for one in run.terms.sites}
        _wait_for_agents(processes, places)  # a SuperNode asks its agent once
        for site, place in places.items():
            door = Door(place, token_at(run.home.site(site)).resolve())
            start_node(processes, site, door, flower=run.settings.engine == "supernode")
        yield processes
    finally:
        processes.stop()
        remove_sockets(run.home.path)


def start_superlink(processes: Processes) -> None:
    """Start a SuperLink on loopback, with certificates and a secret of its own; await its port."""
    loopback.make_trust(processes.folder)
    processes.start("superlink", *loopback.superlink_command(processes.folder, processes.port))
    wait_for_superlink(processes)


def _start_agent(run: Run, processes: Processes, site: str) -> Path:
    place = socket_of(run.home.path, SiteId(site))
    place.unlink(missing_ok=True)
    processes.start(
        f"agent-{site}",
        sys.executable,
        "-m",
        "portal.demo_agent",
        str(run.home.path.resolve()),
        site,
        str(place),
    )
    return place


def _wait_for_agents(processes: Processes, places: Mapping[SiteId, Path]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not all(place.exists() for place in places.values()):
        processes.check()
        if time.monotonic() > deadline:
            late = next(site for site, place in places.items() if not place.exists())
            raise ServerFailed(f"agent-{late}", processes.folder / f"agent-{late}.log")
        time.sleep(POLL_SECONDS)


def start_node(processes: Processes, site: str, door: Door, *, flower: bool = False) -> None:
    """Register a site's key with the SuperLink and start its node, ours or Flower's."""
    key = make_node_key(processes.folder / "nodes", site)
    with loopback.control(processes.folder, processes.port) as superlink:
        superlink.register(loopback.node_bytes(key.public.read_bytes()), site)
    ours = [sys.executable, "-m", "portal", "site", "node", site]
    agent = ["--agent", f"unix:{door.socket}", "--agent-token", str(door.token)]
    carried = ["--node-config", f"agent='unix:{door.socket}' token='{door.token}'"]
    own_api = ["--host", "127.0.0.1", "--port", str(free_port())]
    processes.start(
        f"node-{site}",
        *([_tool("flower-supernode")] if flower else ours),
        "--superlink",
        f"127.0.0.1:{processes.port}",
        "--root-certificates",
        str(processes.folder / "certificates" / "ca.pem"),
        "--auth-supernode-private-key",
        str(key.private),
        *(carried + own_api if flower else agent),
        *([] if flower else ["--state", str(processes.folder / "nodes" / f"{site}-state")]),
    )


def _start_run(run: Run, processes: Processes) -> None:
    home = run.home.server.resolve()
    loopback.start_run(processes.folder, processes.port, {"home": str(home)})


def _watch(run: Run, processes: Processes) -> None:
    """Show and settle what the ServerApp closes, until the last round is settled."""
    from portal.demo import after_close  # noqa: PLC0415  # the demonstration calls us

    seen: set[tuple[int, str]] = set()
    settled = 0
    while settled < run.terms.rounds:
        processes.check()
        number = settled + 1
        stored = run.store.round(number)
        if stored is not None:
            _show(run, number, seen)
        if stored is not None and stored.closed is not None:
            after_close(run, stored.closed)
            run.store.settled(number)
            run.observe(Step("close", number, None, number, run.terms.rounds))
            settled = number
            continue
        time.sleep(POLL_SECONDS)


def _show(run: Run, number: int, seen: set[tuple[int, str]]) -> None:
    for site in run.store.uploads.sizes(number):
        if (number, site) not in seen:
            seen.add((number, site))
            run.observe(Step("verify", number, SiteId(site)))
    for refusal in run.store.uploads.refusals(number):
        if (number, refusal.site) not in seen:
            seen.add((number, refusal.site))
            note = f"{refusal.code}: {refusal.reason}"
            run.observe(Step("refuse", number, refusal.site, note=note))


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the Flower processes: ours, and what Flower's are told."""
    return {**os.environ, **loopback.environment(folder)}


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_superlink(processes: Processes) -> None:
    """Return when the SuperLink's port is open.

    Raises:
        ServerFailed: It ended, or does not open it.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        processes.check()
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", processes.port), 1),
        ):
            return
        time.sleep(POLL_SECONDS)
    raise ServerFailed("superlink", processes.folder / "superlink.log")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
