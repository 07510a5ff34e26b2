"""The inside of the sandbox: shut every door, say so, then run the code.

``fl_client/sandbox.py`` starts this file in new namespaces, in which it has rights over nothing but
them. It imports the standard library, and NumPy where it is installed. The order matters: the file
tree is exchanged for one that holds the interpreter alone, then limits are set, then every
privilege is dropped, then system calls are refused that start processes or reach out; only then is
anything of the job's read.

References:
    Linux manual: mount_setattr(2), pivot_root(2), prctl(2), capset(2), seccomp(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.util
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

READY: Final = b"R"
REFUSED: Final = b"!"
RETURNED: Final = b"="
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH: Final = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATTRIBUTES_READ_ONLY: Final = 0x1 | 0x2 | 0x4  # read-only, no set-user-id, no devices
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_DUMPABLE = 38, 22, 24, 4
CAPABILITIES: Final = 41
SECCOMP_FILTER: Final = 2
EPERM: Final = 1
ENOSYS: Final = 38
SYSCALLS: Final[dict[str, tuple[int, dict[str, int], tuple[int, ...]]]] = {
    # Machine: its audit number, the calls made here, and the calls that are refused: clone, fork,
    # vfork, execve, socket, socketpair, ptrace, mount, umount2, pivot_root, unshare, setns, bpf,
    # perf_event_open, process_vm_*, keyctl and its kin, kill and its kin, userfaultfd,
    # open_by_handle_at, init_module and its kin, kexec_load, io_uring_*, clone3, execveat,
    # open_tree, move_mount, fsopen and its kin, mount_setattr, pidfd_*, chroot. Then what tells
    # what other runs left on the machine: mincore, preadv2, cachestat, sysinfo, getrusage, syslog,
    # statfs, fstatfs, ustat. Then what leaves the group that is killed, or outlives its parent:
    # setsid, setpgid, prctl. Last what holds memory that no limit counts: shm*, sem*, msg*, mq_open
    # memfd_create, memfd_secret.
    "x86_64": (
        0xC000003E,
        {"mount_setattr": 442, "pivot_root": 155, "capset": 126},
        (
            *(56, 57, 58, 59, 41, 53, 101, 165, 166, 155, 272, 308, 321, 298, 310, 311),
            *(248, 249, 250, 62, 200, 234, 323, 304, 175, 313, 246, 320, 425, 426, 427),
            *(435, 322, 428, 429, 430, 431, 432, 433, 442, 434, 438, 424, 161),
            *(27, 327, 451, 99, 98, 103, 137, 138, 136),
            *(112, 109, 157),
            *(29, 30, 31, 67, 64, 65, 66, 220, 68, 69, 70, 71, 240, 319, 447),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        {"mount_setattr": 442, "pivot_root": 41, "capset": 91},
        (
            *(220, 221, 198, 199, 117, 40, 39, 41, 97, 268, 280, 241, 270, 271),
            *(217, 218, 219, 129, 130, 131, 282, 265, 105, 273, 104, 294, 425, 426, 427),
            *(435, 281, 428, 429, 430, 431, 432, 433, 442, 434, 438, 424, 51),
            *(232, 286, 451, 179, 165, 116, 43, 44),
            *(157, 154, 167),
            *(194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180, 279, 447),
        ),
    ),
}
UNKNOWN: Final = 452
"""From here on calls are newer than the list above (fchmodat2 is the first), or, on x86-64, of
another numbering: there is none of them in here."""

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Shut the doors, read the job from the input, run it and write what it returns."""
    function, *pairs = sys.argv[1:]
    limits = {name: float(value) for name, value in (pair.split("=") for pair in pairs)}
    job, answer = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    with os.fdopen(answer, "wb") as out, os.fdopen(job, "rb") as given:
        open_door = shut_doors(limits)
        if open_door:
            out.write(REFUSED + open_door.encode())
            return
        with contextlib.suppress(ImportError):  # its import takes longer than what most code does
            importlib.import_module("numpy")
        out.write(READY)
        out.flush()
        size = int.from_bytes(given.read(8), "big")
        load(given.read(size))
        module, _, name = function.partition(":")
        returned = getattr(importlib.import_module(module), name)(given.read())
        if type(returned) is not bytes:
            raise TypeError
        out.write(RETURNED + returned)


def shut_doors(limits: dict[str, float]) -> str:
    """Shut every door; return which one does not shut and why, or nothing."""
    if platform.machine() not in SYSCALLS:
        return f"no list of system calls for {platform.machine()}"
    doors: tuple[tuple[str, Callable[[], None]], ...] = (
        ("mounting a tree of its own", exchange_tree),
        ("limits", lambda: limit(limits)),
        ("giving up capabilities", drop_privileges),
        ("seccomp", refuse_calls),
    )
    for name, shut in doors:
        try:
            shut()
        except OSError as error:
            return f"{name}: {os.strerror(error.errno or 0)}"
    return ""


def exchange_tree() -> None:
    """Make a tree of the interpreter and its libraries, read-only, the only one there is."""
    root = Path("/tmp")  # noqa: S108  # what lies there is hidden by the mount, in here alone
    call(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    sources = [path for path in map(Path, needed()) if path.exists()]
    opened = {path: os.open(path, os.O_PATH) for path in sources if not path.is_symlink()}
    links = {path: path.readlink() for path in sources if path.is_symlink()}
    call(libc.mount(b"tmpfs", bytes(root), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,mode=0755"))
    for path, descriptor in opened.items():
        inside = root / path.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        call(libc.mount(source, bytes(inside), None, MS_BIND | MS_REC, None))
        os.close(descriptor)
    for path, target in links.items():
        inside = root / path.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to(target)
    os.chdir(root)
    call(libc.syscall(_number("pivot_root"), b".", b"."))
    call(libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    attributes = struct.pack("QQQQ", ATTRIBUTES_READ_ONLY, 0, 0, 0)
    call(
        libc.syscall(
            _number("mount_setattr"),
            AT_FDCWD,
            b"/",
            AT_RECURSIVE,
            attributes,
            ctypes.c_size_t(len(attributes)),
        )
    )


def needed() -> list[str]:
    """Return the folders that the interpreter is made of, those within others left out."""
    named = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", sys.base_prefix, sys.prefix)
    wanted = {*named, *map(os.path.realpath, named)}  # any may be a link to another place
    return sorted(
        path
        for path in wanted
        if not any(path != other and Path(path).is_relative_to(other) for other in wanted)
    )


def limit(limits: dict[str, float]) -> None:
    """Set the limits; nothing can raise them again."""
    for what, most in (
        (resource.RLIMIT_CPU, int(limits["cpu_seconds"])),
        (resource.RLIMIT_AS, int(limits["memory_bytes"])),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 1),
    ):
        resource.setrlimit(what, (most, most))


def drop_privileges() -> None:
    """Give up every capability, and the way to any."""
    call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    call(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    for capability in range(CAPABILITIES):
        call(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    header, none = struct.pack("II", 0x20080522, 0), bytes(24)
    call(libc.syscall(_number("capset"), header, none))


def refuse_calls() -> None:
    """Have the kernel refuse the calls that start processes, reach out, or change the tree."""
    machine, _, refused = SYSCALLS[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    denied, unknown, allowed, killed = 0x50000 | EPERM, 0x50000 | ENOSYS, 0x7FFF0000, 0x80000000
    lines = [
        (load, 0, 0, 4),  # the machine that the call is for
        (equal, 1, 0, machine),
        (give, 0, 0, killed),
        (load, 0, 0, 0),  # the call's number
    ]
    lines += [(at_least, len(refused) + 2, 0, UNKNOWN)]
    lines += [(equal, len(refused) - at, 0, number) for at, number in enumerate(refused)]
    lines += [(give, 0, 0, allowed), (give, 0, 0, denied), (give, 0, 0, unknown)]
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    call(libc.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, described, 0, 0))


def load(bundle: bytes) -> None:
    """Let modules be imported from the zip, which lies in memory alone."""
    import io  # noqa: PLC0415  # after the doors are shut, as everything of the job's
    import zipfile  # noqa: PLC0415

    archive = zipfile.ZipFile(io.BytesIO(bundle))
    sys.meta_path.append(_Bundle(archive))


class _Bundle:
    """Finds modules in a zip."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive
        self._names = set(archive.namelist())

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> Any:
        """Return how a module of the bundle is loaded, or None."""
        base = name.replace(".", "/")
        for file, package in ((f"{base}.py", False), (f"{base}/__init__.py", True)):
            if file in self._names:
                loader = _Source(self._archive.read(file), file)
                return importlib.util.spec_from_loader(name, loader, is_package=package)
        return None


class _Source(importlib.abc.Loader):
    """Loads one module from its text."""

    def __init__(self, text: bytes, file: str) -> None:
        self._text, self._file = text, file

    def exec_module(self, module: Any) -> None:
        """Run its text, read as UTF-8 whatever encoding it says it has.

        An officer reads UTF-8; bytes would be read by the first line's word, and say more.
        """
        text = self._text.decode()
        exec(compile(text, self._file, "exec"), module.__dict__)  # noqa: S102  # what this is for


def call(result: int) -> None:
    """Return if a system call succeeded; a door that does not shut ends everything."""
    if result != 0:
        raise OSError(ctypes.get_errno(), "a door of the sandbox does not shut")


def _number(name: str) -> int:
    return SYSCALLS[platform.machine()][1][name]


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    main()
