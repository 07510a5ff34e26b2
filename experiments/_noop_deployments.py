"""Two deployments of one no-op study, ours and plain Flower's: TLS, registered keys, SQLite.

Both are a SuperLink with its state in SQLite, two nodes, and a ServerApp in a process of its own,
all on loopback. Ours has BitHive's resident nodes, each with an agent behind a Unix socket.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from portal.deployment import loopback
from portal.superlink import (
    Door,
    Processes,
    ServerFailed,
    environment,
    free_port,
    start_node,
    start_superlink,
    wait_for_superlink,
)

HERE: Final = Path(__file__).parent
SITES: Final = ("north", "south")
RUN_SECONDS_MAX: Final = 600.0
BUNDLE: Final = """[project]
name = "noop"
version = "1.0.0"
description = "A study that trains nothing"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "bithive"
[tool.flwr.app.components]
serverapp = "{module}:server"
clientapp = "{module}:client"
[tool.flwr.app.config]
floats = 1
rounds = 1
report = ""
"""


@contextlib.contextmanager
def deployment(folder: Path, *, flower: bool) -> Iterator[Processes]:
    """Start a SuperLink and two nodes below ``folder``; stop them at the end.

    ``folder`` is short: sockets lie in it.
    """
    folder.mkdir(parents=True)
    processes = Processes(folder, free_port(), environment(folder))
    try:
        start_flowers_superlink(processes) if flower else start_superlink(processes)
        for site in SITES:
            door = Door(folder / f"{site}.sock", folder / f"{site}.token")
            if not flower:
                start_agent(processes, site, door)
            start_node(processes, site, door, flower=flower)
        yield processes
    finally:
        processes.stop()


def start_flowers_superlink(processes: Processes) -> None:
    """Start Flower's own program, with what a SuperLink of ours has but for the lock."""
    folder = processes.folder
    loopback.make_trust(folder)
    tls = loopback.paths_of(folder)
    processes.start(
        "superlink",
        str(Path(sys.executable).parent / "flower-superlink"),
        *("--ssl-ca-certfile", str(tls.authority)),
        *("--ssl-certfile", str(tls.certificate)),
        *("--ssl-keyfile", str(tls.key)),
        "--enable-supernode-auth",
        *("--database", str(folder / "state.db")),
        *("--host", "127.0.0.1", "--port", str(processes.port)),
        "--disable-runtime-dependency-installation",
    )
    wait_for_superlink(processes)


def start_agent(processes: Processes, site: str, door: Door) -> None:
    """Start an agent that adds one to every float."""
    module = "experiments._noop_resident"
    processes.start(
        f"agent-{site}", sys.executable, "-m", module, str(door.socket), str(door.token)
    )


def run_rounds(processes: Processes, *, flower: bool, floats: int, rounds: int) -> list[float]:
    """Run the no-op study on a deployment and return the seconds of every round.

    Raises:
        ServerFailed: It did not end in ten minutes.
    """
    module = "noop_flower" if flower else "noop_resident"
    app = processes.folder / "app"
    app.mkdir()
    shutil.copy(HERE / f"_{module}.py", app / f"{module}.py")
    (app / "pyproject.toml").write_text(BUNDLE.format(module=module))
    report = processes.folder / "seconds.json"
    settings: dict[str, str | int] = {"floats": floats, "rounds": rounds, "report": str(report)}
    loopback.start_run(processes.folder, processes.port, settings, app=app)
    deadline = time.monotonic() + RUN_SECONDS_MAX
    while not (report.is_file() and report.read_text()):
        processes.check()
        if time.monotonic() > deadline:
            raise ServerFailed("superlink", processes.folder / "superlink.log")
        time.sleep(0.1)
    seconds = json.loads(report.read_text())
    report.unlink()
    shutil.rmtree(app)
    return [float(one) for one in seconds]
