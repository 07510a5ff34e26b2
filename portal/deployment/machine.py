"""The doctor's look at the machine: programs, ports, disk, memory, limits, the sandbox.

Every check takes what it looks at as arguments and returns one finding or several; none raises for
what it finds, and none changes anything but a file of a few bytes that it removes again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fl_client.sandbox import CodeFailed, SandboxUnavailable, run_code
from portal.deployment.findings import Finding, fails, ok, warning
from portal.deployment.plan import is_free
from portal.deployment.table import SBIN

FLOWER: Final = "1.41.0"
PYTHON: Final = (3, 11)
NGINX_MIN: Final = (1, 18)
OPENSSL_MIN: Final = (3, 0)
DISK_GIB_WARN: Final = 10.0
DISK_GIB_MIN: Final = 1.0
FSYNC_MS_WARN: Final = 20.0
"""Every committed phase of a round waits for a few of them."""
FSYNCS: Final = 16
MEMORY_GIB_WARN: Final = 4.0
FILES_MIN: Final = 1024
VERSION: Final = re.compile(r"(\d+)\.(\d+)")


def versions() -> list[Finding]:
    """Look at Python, Flower, nginx and OpenSSL."""
    return [
        _python(),
        _flower(),
        _program("nginx", "-v", NGINX_MIN, "apt install nginx-light"),
        _program("openssl", "version", OPENSSL_MIN, "apt install openssl"),
    ]


def ports(
    wanted: Mapping[str, tuple[str, int]], ours: Mapping[int, str], *, up: bool
) -> list[Finding]:
    """Look at each port: free while the deployment is down, held by it while it is up.

    Args:
        wanted: Address and port of each use.
        ours: Names of our processes by process id.
        up: Whether the deployment runs.
    """
    return [_port(use, *place, ours, up=up) for use, place in wanted.items()]


def disk(folder: Path) -> list[Finding]:
    """Look at free space and at how fast a write reaches the disk."""
    gib = shutil.disk_usage(folder).free / 2**30
    if gib < DISK_GIB_MIN:
        space = fails("disk space", f"{gib:.1f} GiB free", "free some: rounds stop at a full disk")
    elif gib < DISK_GIB_WARN:
        space = warning("disk space", f"{gib:.1f} GiB free", f"keep {DISK_GIB_WARN:.0f} GiB free")
    else:
        space = ok("disk space", f"{gib:.0f} GiB free")
    return [space, _fsync(folder)]


def memory() -> Finding:
    """Look at what memory is available."""
    text = Path("/proc/meminfo")
    if not text.is_file():
        return warning("memory", "unknown on this system", "see that 4 GiB are available")
    line = next(one for one in text.read_text().splitlines() if one.startswith("MemAvailable"))
    gib = int(line.split()[1]) / 2**20
    if gib < MEMORY_GIB_WARN:
        return warning(
            "memory", f"{gib:.1f} GiB available", f"training wants {MEMORY_GIB_WARN:.0f} GiB a site"
        )
    return ok("memory", f"{gib:.0f} GiB available")


def open_files() -> Finding:
    """Look at how many files a process may hold open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_MIN:
        return fails("open files", f"{soft} a process", f"raise it: `ulimit -n {FILES_MIN}`")
    return ok("open files", f"{soft} a process")


def sandbox() -> Finding:
    """Look whether jobs that carry code could be shut in, by shutting a harmless one in."""
    with io.BytesIO() as written:
        with zipfile.ZipFile(written, "w") as archive:
            archive.writestr("trial.py", "def same(given):\n    return given\n")
        bundle = written.getvalue()
    try:
        named = hashlib.sha256(bundle).hexdigest()
        run_code(bundle, "trial:same", b"", sha256=named)
    except SandboxUnavailable as error:
        return warning(
            "sandbox",
            error.lacking,
            "permit it where jobs may carry Python; jobs without code need nothing",
        )
    except CodeFailed as error:
        return warning("sandbox", f"a trial {error.how}", "give this machine time and memory")
    return ok("sandbox", "code of a job can be shut in")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != PYTHON:
        return fails("python", found, "use Python 3.11, which the lock file is made for")
    return ok("python", found)


def _flower() -> Finding:
    try:
        found = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        return fails("flwr", "not installed", "install from requirements.lock")
    if found != FLOWER:
        advice = f"install flwr=={FLOWER}: what we use of it is pinned to that version"
        return fails("flwr", found, advice)
    return ok("flwr", found)


def _program(name: str, question: str, least: tuple[int, int], install: str) -> Finding:
    path = shutil.which(name) or shutil.which(name, path=SBIN)
    if path is None:
        return fails(name, "not installed", f"install it, on Debian: {install}")
    done = subprocess.run([path, question], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603  # a fixed command
    match = VERSION.search(done.stdout + done.stderr)
    if match is None:
        return warning(name, "its version is unknown", f"see that it is at least {_dotted(least)}")
    found = int(match.group(1)), int(match.group(2))
    if found < least:
        return fails(name, _dotted(found), f"install {_dotted(least)} or newer")
    return ok(name, _dotted(found))


def _port(use: str, address: str, port: int, ours: Mapping[int, str], *, up: bool) -> Finding:
    check = f"port {port} ({use})"
    if is_free(port, address):
        if up:
            return fails(check, "nobody listens", "see `bithive status` for why it is not served")
        return ok(check, "free")
    held = who_listens(port)
    name = next((ours[pid] for pid in held if pid in ours), None)
    if name is not None:
        return ok(check, f"held by {name}")
    shown = ", ".join(map(program_of, sorted(held))) or "another user's program"
    if up:
        return ok(check, f"held by {shown}")
    return fails(check, f"held by {shown}", "end that program, or give another --port")


def who_listens(port: int) -> set[int]:
    """Return the processes that listen on a TCP port, as far as this user may see."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == "0A" and int(parts[1].split(":")[1], 16) == port:
                    sockets.add(f"socket:[{parts[9]}]")
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(one.readlink()) in sockets for one in (process / "fd").iterdir()):
                found.add(int(process.name))
    return found


def program_of(pid: int) -> str:
    """Return a process's program and number."""
    with contextlib.suppress(OSError):
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (process {pid})"
    return f"process {pid}"


def _fsync(folder: Path) -> Finding:
    path = folder / f".fsync-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            began = time.perf_counter()
            for _ in range(FSYNCS):
                os.write(descriptor, b"x" * 4096)
                os.fsync(descriptor)
            each = 1000 * (time.perf_counter() - began) / FSYNCS
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        return fails("disk write", str(error.strerror), f"see that {folder} can be written to")
    if each > FSYNC_MS_WARN:
        advice = "a disk that is asked less, or a faster one, makes rounds shorter"
        return warning("disk write", f"{each:.1f} ms to reach the disk", advice)
    return ok("disk write", f"{each:.1f} ms to reach the disk")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
