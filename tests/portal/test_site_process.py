"""A hospital's resident process opens its own folder, listens on its own sockets, and obeys."""

import contextlib
import json
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from fl_client.link import ask as ask_door
from portal.site_settings import SiteOwn
from protocol.canonical import digest
from protocol.frames import decode, encode
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from records.phantom import write_own_phantom
from tests.portal.conftest import ROOT, command

SITE = SiteId("harbour")
WAIT_SECONDS = 600


@pytest.fixture
def alone(finished, tmp_path):
    """A home that holds one hospital's folder with its own records, and nothing of the run."""
    home = tmp_path / "home"
    folder = home / "sites" / SITE
    shutil.copytree(finished.home / "sites" / SITE, folder)
    own = SiteOwn.load(folder, SITE)
    write_own_phantom(folder / "records", SITE, sites=3, patients_per_site=12, seed=1)
    moved = {"records": "records", "registry_reader": str(tmp_path / "gone.db")}
    own.model_copy(update=moved).save(folder)
    named = str(finished.home).encode()
    assert not any(named in one.read_bytes() for one in folder.rglob("*") if one.is_file())
    return home


def joined(home, terms, job):
    """Send the agent the frame with which a round begins; return its kind and what it says."""
    asked = {"terms": digest(terms), "nonce": "ab" * 32, "job": job}
    folder = home / "sites" / SITE
    door = json.loads((folder / "agent.json").read_text())["agent"]
    return decode(ask_door(f"unix:{door}", encode("join", asked), folder / "agent.token"))


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
def test_the_process_listens_on_no_network_and_obeys_its_operator(
    finished, alone, bithive, tmp_path
):
    def ask(*arguments):
        done = bithive("site", *arguments, "--home", alone, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with running(alone, "harbour", tmp_path) as (process, log):
        assert listening_tcp(process.pid) == set()
        for door in ("agent.sock", "agent.control"):
            assert stat.S_IMODE((tmp_path / door).stat().st_mode) == 0o600
        status = ask("status", "harbour")
        assert (status["ready"], status["state"]) == (True, "running")
        assert status["studies"][0]["last_round"] == 3
        terms = StudyTerms.model_validate_json((finished.home / "server/terms.json").read_bytes())
        answer = joined(alone, terms, status["studies"][0]["job"])
        assert answer.kind == "joined", answer.body
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
    gone = bithive("site", "status", "harbour", "--home", alone)
    assert (gone.returncode, "agent-unreachable" in gone.stderr) == (1, True)


@pytest.mark.slow
def test_a_folder_that_was_not_set_up_is_told_the_command(bithive, tmp_path):
    done = bithive("site", "run", "north", "--home", tmp_path)
    assert (done.returncode, "site-not-set-up" in done.stderr) == (1, True)
    assert "bithive site setup" in done.stderr
    assert not (tmp_path / "sites").exists()
