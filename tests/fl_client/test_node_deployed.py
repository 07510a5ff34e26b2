"""On a real SuperLink a site's node survives kill -9, its own and the server's."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from portal.deployment.loopback import start_run
from portal.superlink import Door, Processes, environment, free_port, start_node, start_superlink

pytestmark = [pytest.mark.slow, pytest.mark.superlink]
HERE = Path(__file__).parent
SITES = ("north", "south")
WAIT = 300.0
BUNDLE = """[project]
name = "echo"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "bithive"
[tool.flwr.app.components]
serverapp = "echo_study:server"
clientapp = "echo_study:client"
[tool.flwr.app.config]
report = ""
"""


def until(condition, processes):
    deadline = time.monotonic() + WAIT
    while not condition():
        processes.check()
        assert time.monotonic() < deadline, logs(processes)
        time.sleep(0.05)


def logs(processes):
    return "\n".join(log.read_text()[-1500:] for log in processes.folder.glob("*.log"))


@pytest.fixture
def processes():
    folder = Path(tempfile.mkdtemp(prefix="bh-"))  # short: sockets lie in it
    made = Processes(folder, free_port(), environment(folder))
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def kill_and_restart(processes, name, *, pause=0.0):
    process = processes.running[name]
    process.kill()
    process.wait()
    time.sleep(pause)
    processes.start(name, *process.args)


def begin(processes):
    """Start the study; return where its result will be."""
    app = processes.folder / "app"
    app.mkdir(exist_ok=True)
    shutil.copy(HERE / "echo_study.py", app / "echo_study.py")
    (app / "pyproject.toml").write_text(BUNDLE)
    report = processes.folder / "report.json"
    report.unlink(missing_ok=True)
    start_run(processes.folder, processes.port, {"report": str(report)}, app=app)
    return report


def test_answers_survive_the_death_of_a_node_and_nodes_that_of_the_server(processes):
    folder = processes.folder
    start_superlink(processes)
    for site in SITES:
        door = Door(folder / f"{site}.sock", folder / f"{site}.token")
        agent = [str(HERE / "waiting_agent.py"), str(door.socket), str(door.token)]
        processes.start(f"agent-{site}", sys.executable, *agent)
        start_node(processes, site, door)
    (folder / "hold").touch()
    report = begin(processes)
    asked = folder / "north.asked"
    until(asked.exists, processes)
    kill_and_restart(processes, "node-north")
    until(lambda: len(asked.read_text().splitlines()) == 2, processes)  # well before 60 s passed
    (folder / "hold").unlink()
    until(report.exists, processes)
    assert report.read_text() == "[true, true]", logs(processes)

    kill_and_restart(processes, "superlink", pause=1.0)
    report = begin_when_up(processes)
    until(report.exists, processes)
    assert report.read_text() == "[true, true]", logs(processes)
    assert "connected to" in (folder / "node-north.log").read_text()


def begin_when_up(processes):
    import socket

    def up():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", processes.port)) == 0

    until(up, processes)
    return begin(processes)
