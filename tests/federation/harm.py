"""Harm to a deployment under test: its link, its clock, its disk; and what must be true afterwards.

Everything here is done from outside, to processes that do not know of it. What a machine does not
permit (network namespaces, loop devices) or lacks (a C compiler) makes the test skip by name.
"""

import contextlib
import hashlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from portal.deployment.plan import Plan
from portal.deployment.table import units_of
from tests.federation.deployed import ROOT

NAMESPACE = f"bithive-{os.getpid()}"
LINK = f"bh{os.getpid()}"
BLOCK = ipaddress.ip_address("10.213.0.0") + os.getpid() % 2**14 * 4
"""A network of two addresses for each process: what a killed one left is in nobody's way."""
SERVER, HOSPITAL = str(BLOCK + 1), str(BLOCK + 2)
DISK_BYTES = 512 * 2**20
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *found) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, found);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) found->tv_sec += AHEAD;
    return code;
}
time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
"""A library, loaded before the C library's, that makes the wall clock of one process wrong."""


def wrong_clock(folder, seconds):
    """Return the environment of a process whose wall clock is ``seconds`` ahead."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for a library that sets one process's clock off")
    source, library = folder / f"clock{seconds}.c", folder / f"clock{seconds}.so"
    source.write_text(CLOCK.replace("AHEAD", f"({seconds})"))
    build = [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(build, check=True, capture_output=True)
    return {"LD_PRELOAD": str(library)}


# The link


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def linked():
    """Give the server's end of a link to a network namespace; loopback where there may be none."""
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


# The disk


@dataclass(frozen=True)
class Disk:
    """A folder on a file system of its own, small enough to be filled; or just a folder."""

    folder: Path
    own: bool

    @contextlib.contextmanager
    def full(self):
        """Leave no byte free inside."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0")
        try:
            yield
        finally:
            ballast.unlink()


@contextlib.contextmanager
def disk(folder):
    """Mount a file system in ``folder``, where that may be done."""
    image = folder.with_suffix(".img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    own = all(
        shutil.which(words[0]) and subprocess.run(words, capture_output=True).returncode == 0  # noqa: PLW1510  # a machine that refuses is answered by a skip
        for words in (["mkfs.ext4", "-q", "-m", "0", image], ["mount", "-o", "loop", image, folder])
    )
    try:
        yield Disk(folder, own)
    finally:
        if own:
            subprocess.run(["umount", "--lazy", folder], check=True)
        image.unlink()


# A deployment's rounds


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
def survived(deployed, what, *, rounds=1, quorum):
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
    assert all(found == 0 or found >= quorum for found in receipts)
    note(what, seconds_to_close=round(took, 1), receipts=receipts, rounds_kept=len(before))


def returns(deployed, site, seconds=900):
    """Wait until a round that closes from now on has the site's receipt; return the seconds."""
    return until_a_round(
        deployed, lambda closed: site in {one.site for one in closed.receipts}, seconds
    )


def is_refused(deployed, site, code, seconds=900):
    """Wait until a round that closes from now on refuses the site by ``code``."""
    return until_a_round(
        deployed,
        lambda closed: (site, code) in {(one.site, one.code) for one in closed.refused},
        seconds,
    )


def until_a_round(deployed, holds, seconds):
    """Wait until ``holds`` of a round that closes from now on; return the seconds."""
    store = deployed.store()
    start = store.rounds_closed()

    def one_does(found):
        return any(
            holds(store.round(n).closed) for n in range(start + 1, found["rounds_closed"] + 1)
        )

    return deployed.until(one_does, seconds=seconds)


@contextlib.contextmanager
def by_hand(deployed, names, *, prefix=(), environment=None):
    """Run units behind ``prefix`` and in another environment, while their supervisor sleeps."""
    supervisor = json.loads((deployed.home / "deployment" / "state.json").read_text())["supervisor"]
    units = {one.name: one for one in units_of(Plan.load(deployed.home))}
    started = []
    for name in names:
        deployed.until_ready(name)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for pid in [deployed.kill(name) for name in names]:
            while state_of(pid) != "Z":  # its supervisor sleeps and does not see it end
                time.sleep(0.02)
        for name in names:
            path = deployed.home / "deployment" / "logs" / f"{name}.by-hand.log"
            started.append(begun(units[name], path, prefix, environment or {}))
            until_it_serves(started[-1], units[name], path)
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)
        os.kill(supervisor, signal.SIGCONT)


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def begun(unit, path, prefix, environment):
    """Start a unit's command, which writes what it says to ``path``."""
    with path.open("w") as log:
        return subprocess.Popen(
            [*prefix, *unit.command],
            cwd=ROOT,
            env={**os.environ, **unit.environment, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until_it_serves(process, unit, path):
    """Wait until a unit that was started serves."""
    serves = "connected to" if unit.name.startswith("node-") else ""
    deadline = time.monotonic() + 300
    while not (unit.ready() and serves in path.read_text()):
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.2)
