"""A hospital's resident process listens on its own sockets alone, and obeys its operator."""

import contextlib
import json
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.portal.conftest import ROOT, command

WAIT_SECONDS = 600


@contextlib.contextmanager
def running(home, site, folder):
    """Start the site's process; yield it once it answers, and its log's path."""
    log = folder / "agent.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(
                *("site", "run", site, "--home", home, "--socket", folder / "agent.sock"),
                *("--metrics-file", folder / "bithive.prom"),
            ),
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (folder / "agent.sock").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_SECONDS)
        finally:
            process.kill()


def listening_tcp(pid):
    """Return the inodes of sockets on which a process and its children listen over a network."""
    pids = [str(pid)]
    for one in pids:
        tasks = Path("/proc", one, "task")
        pids += [
            child for task in tasks.iterdir() for child in (task / "children").read_text().split()
        ]
    own = set()
    for one in pids:
        for descriptor in Path("/proc", one, "fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(descriptor.readlink()))
    listening = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in {"0A", "07"}:  # LISTEN; a bound UDP socket
                listening.add(f"socket:[{fields[9]}]")
    return own & listening


@pytest.mark.slow
def test_the_process_listens_on_no_network_and_obeys_its_operator(finished, bithive, tmp_path):
    def ask(*arguments):
        done = bithive("site", *arguments, "--home", finished.home, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with running(finished.home, "harbour", tmp_path) as (process, log):
        assert listening_tcp(process.pid) == set()
        for door in ("agent.sock", "agent.control"):
            assert stat.S_IMODE((tmp_path / door).stat().st_mode) == 0o600
        status = ask("status", "harbour")
        assert (status["ready"], status["state"]) == (True, "running")
        assert status["studies"][0]["last_round"] == 3
        # A last round that closed without a sum is still under way for who was in it.
        assert ask("drain", "harbour")["state"] in {"draining", "paused"}
        assert ask("pause", "harbour")["state"] == "paused"
        assert ask("status", "harbour")["ready"] is False
        (job,) = ask("jobs", "harbour")["jobs"]
        refused = ask(
            *("refuse", "harbour", job["job"], "--officer", "officer-1", "--reason", "enough")
        )
        assert refused["kind"] == "refused"
        assert ask("resume", "harbour")["state"] == "running"
        deadline = time.monotonic() + WAIT_SECONDS
        while ask("status", "harbour")["studies"]:
            assert time.monotonic() < deadline
        assert "bithive_state" in (tmp_path / "bithive.prom").read_text()
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {"serving", "ordered", "stopped"} <= {line["event"] for line in lines}
    gone = bithive("site", "status", "harbour", "--home", finished.home)
    assert (gone.returncode, "agent-unreachable" in gone.stderr) == (1, True)
