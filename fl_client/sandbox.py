"""Run a stranger's Python on bytes, with nothing around it: no network, no files, no other process.

Only where an officer allowed code at all (``bithive site allow-code``) and approved the job whose
manifest names the bundle's SHA-256. The code gets one byte string and gives one back::

    bundle (a zip of modules), "module:function", input ──▶ function(input) ──▶ output

It runs in a process of its own user, network, mount, process and IPC namespaces, whose file tree
is a read-only copy of the interpreter and its libraries (``fl_client/sandbox_child.py``); without
privileges and unable to gain any; with limits on processor time, memory and what it gives back.
Where the kernel does not permit all of that, nothing is run.

What holds, each line a test in tests/fl_client/test_sandbox.py:

1. Only a bundle of the approved hash is run.
2. The code reaches no network, sees no file of the hospital, writes none, and starts no process.
3. Whatever it does to time or memory ends it alone, with ``code-failed``. It outlives neither its
   run nor the hospital's process.
4. Without namespaces, nothing runs: ``sandbox-unavailable``, which says what is not permitted.
5. What is run is the text as UTF-8 shows it, whatever encoding it claims.
6. With ``hold_seconds`` answer or failure comes so long after the code was let go, however soon it
   was done: how long it took says nothing.

References:
    Linux manual: user_namespaces(7), mount_setattr(2), seccomp(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from protocol.errors import ConfigurationError, FederationError

CHILD: Final = Path(__file__).with_name("sandbox_child.py")
NAMESPACES: Final = ("--user", "--map-root-user", "--net", "--mount", "--pid", "--ipc", "--uts")
FUNCTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,80}:[A-Za-z_][A-Za-z0-9_]{0,80}")
READY: Final = b"R"
REFUSED: Final = b"!"
RETURNED: Final = b"="
COMPLAINT_MAX: Final = 200
CLOSING: Final = {
    "user.max_user_namespaces": "0",
    "user.max_net_namespaces": "0",
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}
"""Settings of the kernel under which no sandbox is made, and the value at which it is not."""
START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Limits:
    """What the code may use: seconds of processor and of waiting, and bytes."""

    cpu_seconds: int = 60
    wall_seconds: float = 300.0
    memory_bytes: int = 2**30
    output_bytes: int = 2**28


class SandboxUnavailable(ConfigurationError):
    """This machine does not permit what it takes to shut code in."""

    code = "sandbox-unavailable"

    def __init__(self, lacking: str) -> None:
        self.lacking = lacking
        super().__init__(
            f"code cannot be shut in here ({lacking}), so none is run; permit unprivileged user "
            "namespaces and install util-linux, or refuse jobs that carry code"
        )


class CodeChanged(FederationError):
    """The code that came is not the code that was approved."""

    code = "code-changed"

    def __init__(self) -> None:
        super().__init__("the code that came is not the code that was approved; it is not run")


class CodeFailed(FederationError):
    """A job's code raised, or met a limit."""

    code = "code-failed"

    def __init__(self, how: str) -> None:
        self.how = how
        super().__init__(f"the job's code {how}; its researcher must mend it")


def run_code(
    bundle: bytes,
    function: str,
    given: bytes,
    *,
    sha256: str,
    limits: Limits | None = None,
    hold_seconds: float = 0.0,
) -> bytes:
    """Return what ``function`` of ``bundle`` makes of ``given``.

    Args:
        bundle: A zip of Python modules.
        function: ``module:function``; takes bytes and returns bytes.
        given: All that the code sees.
        sha256: What the approved manifest names.
        limits: What the code may use.
        hold_seconds: Answer so long after the code was let go, and not before.

    Raises:
        CodeChanged: The bundle is another one.
        SandboxUnavailable: The code cannot be shut in here. Nothing was run.
        CodeFailed: It raised, met a limit, or returned something else than bytes.
    """
    limits = limits or Limits()
    if hashlib.sha256(bundle).hexdigest() != sha256:
        raise CodeChanged
    if not FUNCTION.fullmatch(function):
        raise CodeFailed("names no function")
    process = _start(function, limits)
    feeder = threading.Thread(target=_feed, args=(process, bundle, given), daemon=True)
    feeder.start()
    try:
        ready = _read(process, len(READY), START_SECONDS)
        let_go = time.monotonic()
        said = _read(process, limits.output_bytes + 2, limits.wall_seconds) if ready else b""
        lacking = "" if ready == READY else _lacking(ready, said, _complaint(process))
    finally:
        _end(process)
    if lacking:
        raise SandboxUnavailable(lacking)
    returned = said[len(RETURNED) :]  # before the wait: it takes longer the more there is
    time.sleep(max(0.0, let_go + hold_seconds - time.monotonic()))
    if not said.startswith(RETURNED):
        raise CodeFailed("raised, or met a limit of time or memory")
    if len(said) > limits.output_bytes + len(RETURNED):
        raise CodeFailed("returned more than it may")
    return returned


def _start(function: str, limits: Limits) -> subprocess.Popen[bytes]:
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    if unshare is None or setpriv is None:
        raise SandboxUnavailable("there is no unshare or setpriv program")
    allowed = [f"{name}={value}" for name, value in asdict(limits).items()]
    try:
        return subprocess.Popen(  # noqa: S603  # our own command; the code comes over its input
            (
                *(setpriv, "--pdeathsig", "KILL", "--"),  # it ends with the thread that waits
                *(unshare, *NAMESPACES, "--fork", "--kill-child", "--"),
                *(sys.executable, "-I", str(CHILD), function, *allowed),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # of what makes the namespaces; the code's own goes nowhere
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailable(error.strerror or "no process can be started") from error


def _feed(process: subprocess.Popen[bytes], bundle: bytes, given: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it ended before it had read everything
        process.stdin.write(len(bundle).to_bytes(8, "big") + bundle + given)
        process.stdin.close()


def _read(process: subprocess.Popen[bytes], size: int, seconds: float) -> bytes:
    """Return what it says, at most ``size`` bytes; it ends after ``seconds``."""
    assert process.stdout is not None
    killer = threading.Timer(seconds, _kill, [process])
    killer.start()
    try:
        return process.stdout.read(size)
    finally:
        killer.cancel()


def _complaint(process: subprocess.Popen[bytes]) -> str:
    """Return what the program that makes the namespaces has said, as far as it is one line."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    words = (process.stderr.read(COMPLAINT_MAX) or b"").decode(errors="replace").strip()
    return words if words.startswith("unshare: ") and words.isprintable() else ""


def _lacking(ready: bytes, said: bytes, complaint: str) -> str:
    """Return what this machine did not permit: a door, or the namespaces themselves."""
    if ready == REFUSED:
        return said[:COMPLAINT_MAX].decode(errors="replace")
    closed = []
    for name, value in CLOSING.items():
        with contextlib.suppress(OSError):
            if Path("/proc/sys", *name.split(".")).read_text().strip() == value:
                closed.append(f"{name} is {value}")
    what = complaint.removeprefix("unshare: ") or "the namespaces were refused"
    return "; ".join([what, *closed])


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
