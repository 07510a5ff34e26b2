"""Processes of a real federation are killed, frozen and slowed; nothing committed is ever lost.

One deployment of four sites runs a study of many rounds. Each test waits for a phase of a round,
does its harm, and then asks for the same three things: every round that was closed is still there,
byte for byte, with its receipts; the round that was hit closes by quorum or deadline; the study
goes on. What each took is printed and, where ``BITHIVE_MEASURED`` names a file, added to it.
"""

import functools
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from portal.deployment.plan import Plan, free_port
from tests.federation import harm
from tests.federation.deployed import SMALL, Deployed
from tests.federation.harm import SERVER, is_refused, note, returns, wait_for_phase

pytestmark = [pytest.mark.exhaustive, pytest.mark.superlink]

SITES = 4
QUORUM = 3
ROUNDS = 400
PHASES = ("roster", "uploads", "unmasking", "opening", "closing", "scoring")
DEADLINES = {
    "join": 60,
    "call": 60,
    "train": 300,
    "open": 120,
    "prepare": 10,
    "roster": 300,
    "grace": 3,
    "train_grace": 5,
}
"""Of phases, in seconds; long, because this machine may be busy, and met by nobody but a grace."""
CUT_SECONDS = 120
CLOCK_SECONDS = 3600
FULL_SECONDS = 30

survived = functools.partial(harm.survived, quorum=QUORUM)


@pytest.fixture(scope="module")
def address():
    with harm.linked() as found:
        yield found


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with harm.disk(tmp_path_factory.mktemp("chaos") / "disk") as found:
        yield found


@pytest.fixture(scope="module")
def federation(disk, nginx_program, address):
    place = ["--port", free_port(), "--listen", address, "--server-name", address]
    options = ("--sites", SITES, "--rounds", ROUNDS, *SMALL, *place, "--approve")
    deployed = Deployed(disk.folder / "home", options)
    try:
        deployed.run("up", *options, "--json")
        deadlines = deployed.home / "server" / "deadlines.json"
        deadlines.write_text(json.dumps(DEADLINES))
        deployed.run("study", "start")
        deployed.until(lambda found: found["rounds_closed"] >= 1)
        yield deployed
    finally:
        if deployed.home.is_dir():
            deployed.run("down")


def first_site(deployed):
    return Plan.load(deployed.home).sites[0]


def servers_process(deployed):
    """Return the process of the ServerApp, which runs the engine."""
    needle = f"{deployed.home / 'deployment' / 'flower'}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if needle in environment and b"flwr-serverapp" in command:
            return int(entry.name)
    raise AssertionError("no ServerApp is running")


@pytest.mark.parametrize("phase", PHASES)
def test_the_superlink_killed_in_a_phase(federation, phase):
    with survived(federation, f"SuperLink killed in {phase}", rounds=2):
        wait_for_phase(federation, phase)
        pid = federation.kill("superlink")
        federation.until_ready("superlink", not_pid=pid)


@pytest.mark.parametrize("phase", PHASES)
def test_the_engines_process_killed_in_a_phase(federation, phase):
    with survived(federation, f"engine killed in {phase}", rounds=2):
        wait_for_phase(federation, phase)
        os.kill(servers_process(federation), signal.SIGKILL)


@pytest.mark.parametrize("phase", PHASES)
def test_an_agent_killed_in_a_phase(federation, phase):
    name = f"agent-{first_site(federation)}"
    with survived(federation, f"agent killed in {phase}", rounds=2):
        wait_for_phase(federation, phase)
        pid = federation.kill(name)
        federation.until_ready(name, not_pid=pid)


@pytest.mark.parametrize("phase", PHASES)
def test_a_node_killed_in_a_phase(federation, phase):
    name = f"node-{first_site(federation)}"
    with survived(federation, f"node killed in {phase}", rounds=2):
        wait_for_phase(federation, phase)
        pid = federation.kill(name)
        federation.until_ready(name, not_pid=pid)


@pytest.mark.parametrize("name", ["front", "study", "roster"])
def test_another_process_of_the_server_killed(federation, name):
    with survived(federation, f"{name} killed in uploads", rounds=2):
        wait_for_phase(federation, "uploads")
        pid = federation.kill(name)
        federation.until_ready(name, not_pid=pid)


def test_a_site_frozen_for_two_rounds(federation):
    site = first_site(federation)
    names = (f"agent-{site}", f"node-{site}")
    with survived(federation, "site frozen by SIGSTOP", rounds=2):
        wait_for_phase(federation, "uploads")
        for name in names:
            federation.kill(name, signal.SIGSTOP)
    for name in names:
        federation.kill(name, signal.SIGCONT)
    with survived(federation, "the same site thawed", rounds=2):
        pass
    returns(federation, site)


def test_a_slow_site(federation):
    """The site gets a tenth of the time: frozen 0.9 s of each second."""
    pid = federation.pid(f"agent-{first_site(federation)}")
    store = federation.store()
    with survived(federation, "site ten times slower", rounds=2):
        target = store.rounds_closed() + 2
        while store.rounds_closed() < target:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.9)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1)


def test_a_site_whose_disk_takes_no_more(federation):
    """Its agent may write no file beyond its present size, as on a disk without room."""
    site = first_site(federation)
    name = f"agent-{site}"
    pid = federation.pid(name)
    with survived(federation, "full disk at a site", rounds=2):
        wait_for_phase(federation, "roster")
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
    federation.kill(name)  # a person made room and started it anew
    federation.until_ready(name, not_pid=pid)
    with survived(federation, "the same site with room again", rounds=1):
        pass
    returns(federation, site)


def test_a_machine_whose_disk_is_full(federation, disk):
    """All of it: server, SuperLink, supervisor and the four sites write to the same one."""
    if not disk.own:
        pytest.skip("needs a disk of its own (root, mkfs.ext4 and a loop device)")
    with survived(federation, f"whole machine's disk full for {FULL_SECONDS} s", rounds=2):
        wait_for_phase(federation, "uploads")
        with disk.full():
            time.sleep(FULL_SECONDS)
    for site in Plan.load(federation.home).sites:
        returns(federation, site)


def both(site):
    """Return the names of a hospital's two processes."""
    return f"agent-{site}", f"node-{site}"


def test_a_site_whose_clock_is_an_hour_ahead(federation, tmp_path):
    site = first_site(federation)
    clock = harm.wrong_clock(tmp_path, CLOCK_SECONDS)
    with (
        harm.by_hand(federation, both(site), environment=clock),
        survived(federation, "clock an hour ahead", rounds=2),
    ):
        returns(federation, site)
    with survived(federation, "the same clock set back", rounds=2):
        is_refused(federation, site, "privacy-clock-backwards")
    federation.run("site", "budget", site, "--accept-clock")
    with survived(federation, "the time accepted by the steward", rounds=1):
        note("first receipt after that", seconds=round(returns(federation, site), 1))


def test_a_site_whose_clock_is_an_hour_behind(federation, tmp_path):
    site = first_site(federation)
    clock = harm.wrong_clock(tmp_path, -CLOCK_SECONDS)
    with (
        harm.by_hand(federation, both(site), environment=clock),
        survived(federation, "clock an hour behind", rounds=2),
    ):
        is_refused(federation, site, "privacy-clock-backwards")
    with survived(federation, "the same clock set right", rounds=1):
        note("first receipt after that", seconds=round(returns(federation, site), 1))


def test_a_link_cut_for_two_minutes(federation, address):
    if address != SERVER:
        pytest.skip("needs network namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN)")
    site = first_site(federation)
    prefix = ["ip", "netns", "exec", harm.NAMESPACE]
    with harm.by_hand(federation, [f"node-{site}"], prefix=prefix):
        returns(federation, site)
        with survived(federation, f"link cut for {CUT_SECONDS} s", rounds=2):
            wait_for_phase(federation, "uploads")
            began = time.monotonic()
            assert harm.ip("link", "set", harm.LINK, "down").returncode == 0
            closed_meanwhile = -federation.progress()["rounds_closed"]
            time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
            closed_meanwhile += federation.progress()["rounds_closed"]
            assert harm.ip("link", "set", harm.LINK, "up").returncode == 0
        seconds = round(returns(federation, site), 1)
        note("first receipt after the link is back", seconds=seconds, meanwhile=closed_meanwhile)


def test_a_study_hit_in_every_round_runs_to_its_end(tmp_path, nginx_program):
    """Four rounds, and in each another process is killed; the last is closed and settled."""
    options = ("--sites", SITES, "--rounds", 4, *SMALL, "--port", free_port(), "--approve")
    deployed = Deployed(tmp_path / "home", options)
    try:
        deployed.run("up", *options, "--json")
        (deployed.home / "server" / "deadlines.json").write_text(json.dumps(DEADLINES))
        deployed.run("study", "start")
        site = first_site(deployed)
        began = time.monotonic()
        wait_for_phase(deployed, "uploads")
        os.kill(servers_process(deployed), signal.SIGKILL)
        for phase, name in [
            ("unmasking", f"agent-{site}"),
            ("closing", "superlink"),
            ("opening", f"node-{site}"),
        ]:
            wait_for_phase(deployed, phase)
            deployed.kill(name)
        deployed.until(lambda _: deployed.units()["study"]["state"] == "done")
        seconds = round(time.monotonic() - began, 1)
        store = deployed.store()
        assert store.rounds_closed() == 4
        assert all(store.round(number).settled for number in range(1, 5))
        receipts = [len(store.round(number).closed.receipts) for number in range(1, 5)]
        assert all(found == 0 or found >= QUORUM for found in receipts)
        note("four kills in four rounds, to the end", seconds=seconds, receipts=receipts)
    finally:
        if deployed.home.is_dir():
            deployed.run("down")
