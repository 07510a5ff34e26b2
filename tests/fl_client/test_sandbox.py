"""A job's code gets bytes and gives bytes, and reaches nothing else whatever it tries."""

import ast
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from fl_client import sandbox
from fl_client.sandbox import CodeChanged, CodeFailed, Limits, SandboxUnavailable, run_code

pytestmark = pytest.mark.slow

QUICK = Limits(cpu_seconds=5, wall_seconds=120, memory_bytes=2**29, output_bytes=2**16)
PROBES = """
import os, socket, subprocess, threading, ctypes, sys

def probe(act):
    try:
        return repr(act())
    except BaseException as error:
        return type(error).__name__

def write(path):
    with open(path, "w") as file:
        file.write("x")

def probes(given):
    secret, port = given.decode().split("\\n")
    libc = ctypes.CDLL(None, use_errno=True)
    def connect():
        socket.create_connection(("127.0.0.1", int(port)), 1)
    found = {
        "network": probe(connect),
        "any socket": probe(lambda: socket.socket(socket.AF_UNIX)),
        "name": probe(lambda: socket.getaddrinfo("localhost", 80)),
        "fork": probe(os.fork),
        "program": probe(lambda: subprocess.run(["/bin/true"])),
        "replace": probe(lambda: os.execv(sys.executable, ["python"])),
        "thread": probe(lambda: threading.Thread(target=print).start()),
        "kill": probe(lambda: os.kill(1, 9)),
        "secret": probe(lambda: open(secret).read()),
        "passwd": probe(lambda: open("/etc/passwd").read()),
        "processes": probe(lambda: os.listdir("/proc")),
        "write": probe(lambda: write("/x")),
        "write in tmp": probe(lambda: write("/tmp/x")),
        "write beside": probe(lambda: write(os.path.join(sys.prefix, "x"))),
        "mount": probe(lambda: libc.mount(b"none", b"/", b"tmpfs", 0, None)),
        "unshare": probe(lambda: libc.unshare(0x10000000)),
        "more memory": probe(
            lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_AS, (-1, -1))
        ),
        "own session": probe(os.setsid),
        "own group": probe(lambda: os.setpgid(0, 0)),
        "outlive": probe(lambda: libc.prctl(1, 0, 0, 0, 0)),
        "shared memory": probe(lambda: libc.shmget(0, 4096, 0o1600)),
        "semaphores": probe(lambda: libc.semget(0, 1, 0o1600)),
        "messages": probe(lambda: libc.msgget(0, 0o1600)),
        "memory file": probe(lambda: os.memfd_create("x")),
        "kernel's words": probe(lambda: libc.klogctl(10, None, 0)),
        "disk": probe(lambda: os.statvfs("/")),
        "calls to come": probe(lambda: [call(libc, n) for n in (452, 457, 500, 0x40000027)]),
        "environment": probe(lambda: sorted(os.environ)),
        "beside": probe(lambda: os.listdir(os.path.dirname(sys.prefix))),
        "descriptors": probe(lambda: [n for n in range(64) if exists(n)]),
    }
    return repr(found).encode()

def call(libc, number):
    ctypes.set_errno(0)
    return libc.syscall(number, 0, 0, 0, 0), ctypes.get_errno()

def exists(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False
"""
OTHERS = """
import numpy as np
def double(given):
    return (2 * np.frombuffer(given, "<f8")).tobytes()
def fill(given):
    return bytes(2 ** 40)
def hoard(given):
    kept = []
    while True:
        kept.append(bytearray(2 ** 24))
def spin(given):
    while True:
        pass
def bomb(given):
    import os
    while True:
        os.fork()
def talk(given):
    return bytes(2 ** 17)
def fail(given):
    raise ValueError("patient 4711")
def words(given):
    return "not bytes"
def leave(given):
    import os
    os._exit(0)
def linger(given):
    import ctypes, os, time
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # not to be told of its parent's end
    try:
        os.setsid()
    except OSError:
        pass
    time.sleep(300)
def stray(given):
    print("patient 4711")
    return b"quiet"
"""


def zipped(**modules):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in modules.items():
            archive.writestr(name.replace("__", "/") + ".py", text)
    return content.getvalue()


BUNDLE = zipped(probing=PROBES, acting=OTHERS, package__init="", package__inner="f = bytes.upper\n")
HASH = hashlib.sha256(BUNDLE).hexdigest()


def run(function, given=b"", limits=QUICK, sha256=HASH):
    return run_code(BUNDLE, function, given, sha256=sha256, limits=limits)


@pytest.fixture(scope="module", autouse=True)
def _permitted():
    try:
        run("acting:double")
    except SandboxUnavailable:
        pytest.skip("this machine permits no unprivileged namespaces; the sandbox is not tested")


def test_code_turns_bytes_into_bytes_with_the_libraries_of_the_hospital():
    import numpy as np

    values = np.linspace(0, 1, 1000)
    assert np.array_equal(np.frombuffer(run("acting:double", values.tobytes())), 2 * values)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the code found when it tried everything."""
    import socket

    secret = tmp_path_factory.mktemp("hospital") / "keys.json"
    secret.write_text("a secret")
    secret.parent.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        return ast.literal_eval(run("probing:probes", f"{secret}\n{port}".encode()).decode())


@pytest.mark.parametrize("reach", ["network", "any socket", "name"])
def test_code_reaches_no_network(found, reach):
    assert found[reach] in {"PermissionError", "gaierror", "OSError"}


@pytest.mark.parametrize("act", ["fork", "program", "replace", "thread", "kill"])
def test_code_starts_and_ends_no_process(found, act):
    assert found[act] in {"PermissionError", "RuntimeError"}


@pytest.mark.parametrize("file", ["secret", "passwd", "processes"])
def test_code_sees_no_file_of_the_hospital(found, file):
    assert found[file] in {"FileNotFoundError", "PermissionError"}


def test_code_sees_the_libraries_and_nothing_beside_them(found):
    assert ast.literal_eval(found["beside"]) == [Path(sys.prefix).name]


@pytest.mark.parametrize("place", ["write", "write in tmp", "write beside"])
def test_code_writes_no_file(found, place):
    assert found[place] in {"OSError", "FileNotFoundError", "PermissionError"}


@pytest.mark.parametrize("act", ["own session", "own group", "disk", "memory file"])
def test_code_stays_in_the_group_that_is_ended_and_learns_nothing_of_the_disk(found, act):
    assert found[act] == "PermissionError"


@pytest.mark.parametrize(
    "act", ["outlive", "shared memory", "semaphores", "messages", "kernel's words"]
)
def test_code_holds_no_memory_beyond_its_limit_and_leaves_no_word_with_the_kernel(found, act):
    assert found[act] == "-1"


def test_code_makes_no_call_that_is_newer_than_the_sandbox(found):
    assert {number for _, number in ast.literal_eval(found["calls to come"])} == {38}  # ENOSYS


@pytest.mark.parametrize("act", ["mount", "unshare"])
def test_code_has_no_privileges(found, act):
    assert found[act] == "-1"


def test_code_cannot_raise_its_limits(found):
    assert found["more memory"] in {"ValueError", "PermissionError"}


def test_code_is_told_nothing_by_its_environment(found):
    told = ast.literal_eval(found["environment"])
    assert set(told) <= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LC_CTYPE"}


def test_code_finds_no_other_descriptor_than_its_own(found):
    assert len(ast.literal_eval(found["descriptors"])) <= 5  # null thrice, input, output


@pytest.mark.parametrize(
    "function",
    ["acting:fill", "acting:hoard", "acting:bomb", "acting:fail", "acting:words", "acting:leave"],
)
def test_code_that_fails_ends_alone_and_its_words_stay_inside(function):
    with pytest.raises(CodeFailed) as caught:
        run(function)
    assert "4711" not in str(caught.value)


def test_code_that_never_ends_is_ended():
    with pytest.raises(CodeFailed):
        run("acting:spin", limits=Limits(cpu_seconds=1, wall_seconds=120))


def test_code_that_flees_is_ended_at_its_time_too():
    begun = time.monotonic()
    with pytest.raises(CodeFailed):
        run("acting:linger", limits=Limits(wall_seconds=2))
    assert time.monotonic() - begun < 150
    assert not running("acting:linger")


def test_code_does_not_outlive_the_hospitals_process(tmp_path):
    (tmp_path / "bundle").write_bytes(BUNDLE)
    asked = f"run_code(open('bundle', 'rb').read(), 'acting:linger', b'', sha256={HASH!r})"
    words = [sys.executable, "-c", f"from fl_client.sandbox import run_code; {asked}"]
    paths = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parents[1])}
    hospital = subprocess.Popen(words, cwd=tmp_path, env=paths)
    try:
        assert within_a_minute(lambda: running("acting:linger"))
    finally:
        hospital.send_signal(signal.SIGKILL)
        hospital.wait()
    assert within_a_minute(lambda: not running("acting:linger"))


def within_a_minute(happened):
    until = time.monotonic() + 60
    while not happened() and time.monotonic() < until:
        time.sleep(0.05)
    return happened()


def running(function):
    """Say whether a process that runs this function in a sandbox is left."""
    named = function.encode()
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().split(b"\0")
        except OSError:
            continue
        if named in words and not one.with_name("status").read_text().count("State:\tZ"):
            return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        b'# coding: utf-7\n# a note +AAo-def f(given): return b"hidden"\n',
        b'# coding: unicode_escape\n# a note \\u000adef f(given): return b"hidden"\n',
    ],
)
def test_what_runs_is_what_the_text_shows_whatever_encoding_it_claims(text):
    bundle = zipped(hidden=text.decode() + 'def f(given):\n    return b"seen"\n')
    digest = hashlib.sha256(bundle).hexdigest()
    assert run_code(bundle, "hidden:f", b"", sha256=digest, limits=QUICK) == b"seen"


def test_code_gives_back_no_more_than_it_may():
    with pytest.raises(CodeFailed, match="more than it may"):
        run("acting:talk")


def test_what_code_prints_goes_nowhere(capfd):
    assert run("acting:stray") == b"quiet"
    assert "4711" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "function", ["", "acting", "acting:none", "none:f", "os:system;ls", "a:b:c"]
)
def test_a_function_that_is_not_there_is_a_failure(function):
    with pytest.raises(CodeFailed):
        run(function)


def test_only_the_approved_bundle_is_run():
    with pytest.raises(CodeChanged):
        run("acting:double", sha256="0" * 64)


def test_where_nothing_shuts_code_in_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.shutil, "which", lambda _name: None)
    with pytest.raises(SandboxUnavailable):
        run("acting:double")
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(sandbox.shutil, "which", lambda _name: str(refusing))
    with pytest.raises(SandboxUnavailable):
        run("acting:double")


def test_a_door_that_does_not_shut_ends_everything_before_the_code(monkeypatch):
    """Without its own network or mounts, the child has no right to change the tree."""
    monkeypatch.setattr(sandbox, "NAMESPACES", ("--user",))
    with pytest.raises(SandboxUnavailable):
        run("acting:double")


@pytest.mark.parametrize(
    ("last_words", "named"),
    [
        ("unshare: unshare failed: Operation not permitted", "unshare failed: Operation not perm"),
        ("unshare: write failed /proc/self/uid_map: Operation not permitted", "uid_map"),
        ("Traceback of patient 4711", "the namespaces were refused"),
        ("", "the namespaces were refused"),
    ],
)
def test_it_is_said_what_the_machine_refused(monkeypatch, tmp_path, last_words, named):
    refusing = tmp_path / "unshare"
    refusing.write_text(f"#!/bin/sh\nif [ -n '{last_words}' ]; then echo '{last_words}' >&2; fi\n")
    refusing.chmod(0o755)
    true = sandbox.shutil.which("setpriv")
    monkeypatch.setattr(
        sandbox.shutil, "which", lambda name: true if name == "setpriv" else str(refusing)
    )
    with pytest.raises(SandboxUnavailable, match=named) as caught:
        run("acting:double")
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("door", "named"),
    [
        ("libc.mount", "mounting a tree of its own: Operation not permitted"),
        ("resource.setrlimit", "limits"),
        ("libc.prctl", "giving up capabilities"),
    ],
)
def test_a_door_that_does_not_shut_is_named(monkeypatch, tmp_path, door, named):
    broken = tmp_path / "child.py"
    refusal = "raise OSError(1, 'x')"
    text = sandbox.CHILD.read_text().replace(
        'if __name__ == "__main__":',
        f"def refuse(*_):\n    {refusal}\n\n\n{door} = refuse\nif __name__ == '__main__':",
    )
    broken.write_text(text)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(sandbox, "CHILD", broken)
    with pytest.raises(SandboxUnavailable, match=named):
        run("acting:double")


def test_an_interpreter_that_is_reached_by_a_link_is_shut_in_too(tmp_path):
    (tmp_path / "link").symlink_to(sys.prefix)
    (tmp_path / "bundle").write_bytes(BUNDLE)
    asked = f"run_code(open('bundle', 'rb').read(), 'acting:double', b'', sha256={HASH!r})"
    done = subprocess.run(
        [
            str(tmp_path / "link" / "bin" / "python"),
            "-c",
            f"from fl_client.sandbox import run_code; import sys; print(sys.prefix, {asked})",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{tmp_path / 'link'} b''\n", done.stderr
