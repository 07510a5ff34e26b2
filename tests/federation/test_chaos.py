"""Processes of a real federation are killed, frozen and slowed; nothing committed is ever lost.

One deployment of four sites runs a study of many rounds. Each test waits for a phase of a round,
does its harm, and then asks for the same three things: every round that was closed is still there,
byte for byte, with its receipts; the round that was hit closes by quorum or deadline; the study
goes on. What each took is printed and, where ``BITHIVE_MEASURED`` names a file, added to it.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from portal.deployment.plan import Plan, free_port
from portal.deployment.table import units_of
from tests.federation.deployed import ROOT, SMALL, Deployed

pytestmark = [pytest.mark.exhaustive, pytest.mark.superlink]

SITES = 4
QUORUM = 3
ROUNDS = 400
PHASES = ("roster", "uploads", "unmasking", "opening", "closing")
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


NAMESPACE = f"bithive-{os.getpid()}"
LINK = f"bh{os.getpid()}"
SERVER, HOSPITAL = "10.213.77.1", "10.213.77.2"
CUT_SECONDS = 120
CLOCK_SECONDS = 3600
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, found);
    if (which == CLOCK_REALTIME) found->tv_sec += AHEAD;
    return code;
}
"""
"""A library that makes one process's clock wrong; loaded with LD_PRELOAD."""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def address():
    """Where the front door listens: one end of a link to a network namespace, if there may be one.

    Without namespaces all is on loopback, and the test that cuts the link skips.
    """
    made = ip("netns", "add", NAMESPACE) if shutil.which("ip") else None
    if made is None or made.returncode != 0:
        yield "127.0.0.1"
        return
    try:
        for words in (
            ("link", "add", LINK, "type", "veth", "peer", "name", "hospital", "netns", NAMESPACE),
            ("addr", "add", f"{SERVER}/30", "dev", LINK),
            ("link", "set", LINK, "up"),
            ("-n", NAMESPACE, "addr", "add", f"{HOSPITAL}/30", "dev", "hospital"),
            ("-n", NAMESPACE, "link", "set", "hospital", "up"),
            ("-n", NAMESPACE, "link", "set", "lo", "up"),
        ):
            done = ip(*words)
            assert done.returncode == 0, done.stderr
        yield SERVER
    finally:
        ip("link", "del", LINK)
        ip("netns", "del", NAMESPACE)


@pytest.fixture(scope="module")
def federation(tmp_path_factory, nginx_program, address):
    place = ["--port", free_port(), "--listen", address, "--server-name", address]
    options = ("--sites", SITES, "--rounds", ROUNDS, *SMALL, *place, "--approve")
    deployed = Deployed(tmp_path_factory.mktemp("chaos") / "home", options)
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


def closed(deployed):
    """Return a digest of every closed round, with its receipts."""
    store = deployed.store()
    found = {}
    for number in range(1, store.rounds_closed() + 1):
        kept = store.round(number).closed
        found[number] = hashlib.sha256(kept.model_dump_json().encode()).hexdigest()
    return found


def wait_for_phase(deployed, phase, seconds=900):
    """Wait until some round enters ``phase``; return the round."""
    store = deployed.store()
    seen = last_position(store)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in store.events.since(seen):
            seen = event.position
            if event.kind == "phase" and event.phase == phase:
                return event.round
        time.sleep(0.02)
    raise AssertionError(f"no round entered {phase}\n{deployed.logs()}")


def last_position(store):
    position = 0
    while found := store.events.since(position):
        position = found[-1].position
    return position


def note(what, **facts):
    """Keep what was measured, a JSON line each."""
    line = json.dumps({"harm": what, **facts})
    print(line)  # noqa: T201  # pytest shows it with -rA
    if path := os.environ.get("BITHIVE_MEASURED"):
        with Path(path).open("a") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def survived(deployed, what, *, rounds=1):
    """Do harm inside; see afterwards that nothing was lost and that rounds go on."""
    before = closed(deployed)
    began = time.monotonic()
    first = max(before, default=0)
    yield
    deployed.until(lambda found: found["rounds_closed"] >= first + rounds, seconds=1200)
    took = time.monotonic() - began
    after = closed(deployed)
    assert {number: after.get(number) for number in before} == before
    receipts = [len(deployed.store().round(first + 1 + n).closed.receipts) for n in range(rounds)]
    assert all(found == 0 or found >= QUORUM for found in receipts)
    note(what, seconds_to_close=round(took, 1), receipts=receipts, rounds_kept=len(before))


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


def returns(deployed, site, seconds=900):
    """Wait until a round has the site's receipt again."""
    start = deployed.progress()["rounds_closed"]

    def has_it(found):
        store = deployed.store()
        numbers = range(start + 1, found["rounds_closed"] + 1)
        return any(
            site in {one.site for one in store.round(number).closed.receipts} for number in numbers
        )

    deployed.until(has_it, seconds=seconds)


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


def test_a_site_whose_clock_is_an_hour_off(federation, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for a library that sets one process's clock off")
    (tmp_path / "clock.c").write_text(CLOCK.replace("AHEAD", str(CLOCK_SECONDS)))
    library = tmp_path / "clock.so"
    build = [compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "clock.c", "-ldl"]
    subprocess.run(build, check=True, capture_output=True)
    site = first_site(federation)
    wrong = {name: {"LD_PRELOAD": str(library)} for name in (f"agent-{site}", f"node-{site}")}
    with survived(federation, "all taken down and brought up, one clock an hour ahead", rounds=3):
        federation.run("down")
        assert federation.processes() == []
        (federation.home / "deployment" / "environment.json").write_text(json.dumps(wrong))
        federation.run("up", *federation.options, "--json")
    newest = federation.store().round(federation.progress()["rounds_closed"]).closed
    taking_part = site in {one.site for one in newest.receipts}
    note("the site with the wrong clock", takes_part=taking_part)
    log = (federation.home / "deployment" / "logs" / f"agent-{site}.log").read_text()
    assert log


@contextlib.contextmanager
def started_by_hand(deployed, name, prefix):
    """Run a unit's command behind ``prefix`` in place of the supervised one, which then waits."""
    unit = next(one for one in units_of(Plan.load(deployed.home)) if one.name == name)
    supervisor = json.loads((deployed.home / "deployment" / "state.json").read_text())["supervisor"]
    log = (deployed.home / "deployment" / "logs" / f"{name}.by-hand.log").open("w")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        deployed.kill(name)
        process = subprocess.Popen(
            [*prefix, *unit.command],
            cwd=ROOT,
            env={**os.environ, **unit.environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        lines = Path(log.name)
        deadline = time.monotonic() + 300
        while "connected to" not in lines.read_text():
            assert process.poll() is None, lines.read_text()
            assert time.monotonic() < deadline, lines.read_text()
            time.sleep(0.2)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def test_a_link_cut_for_two_minutes(federation, address):
    if address != SERVER:
        pytest.skip("needs network namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN)")
    site = first_site(federation)
    prefix = ["ip", "netns", "exec", NAMESPACE]
    with started_by_hand(federation, f"node-{site}", prefix):
        returns(federation, site)
        with survived(federation, f"link cut for {CUT_SECONDS} s", rounds=1):
            wait_for_phase(federation, "uploads")
            began = time.monotonic()
            assert ip("link", "set", LINK, "down").returncode == 0
            time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
            assert ip("link", "set", LINK, "up").returncode == 0
        mended = time.monotonic()
        returns(federation, site)
        note("first receipt after the link is back", seconds=round(time.monotonic() - mended, 1))
