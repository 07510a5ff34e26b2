"""As whom the front door's workers read what strangers send, where root starts the door.

nginx's first process opens ports, keys and logs; its workers speak with whoever calls. Started by
root they are handed to an account that may do nothing. That account cannot enter a home, so what
workers write, bodies of requests on their way, lies in a folder of its own under ``/var/lib``; the
first process makes it over to the account.

What holds (tests/portal/deployment/test_workers.py, tests/federation/test_front_door.py):

1. Workers have the account's number and group, and reach no file of a home.
2. Where no account can be taken, workers stay with who started the door, and the doctor says so.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portal.deployment.findings import Finding, ok, warning

ACCOUNTS: Final = ("nobody", "www-data")
SCRATCH: Final = Path("/var/lib/bithive-front")
CAPABILITIES: Final = (0, 6, 7)
"""capabilities(7): CAP_CHOWN, CAP_SETGID and CAP_SETUID, which handing over takes."""
ENTERED: Final = 0o711
CHECK: Final = "front door's workers"
UNITS: Final = "run it as an account without rights: by the units in deploy/ (docs/operate.md)"


@dataclass(frozen=True)
class Workers:
    """Whose workers are, and where they write what is on its way."""

    user: str
    group: str
    scratch: Path


def workers_for(
    folder: Path, *, scratch: Path = SCRATCH, process: Path = Path("/proc/self")
) -> Workers | None:
    """Return as whom the door's workers are to run; None where they stay who starts the door.

    Args:
        folder: The door's own; what workers write is named for it.
        scratch: Where that lies, in a folder that anybody may enter and nobody list.
        process: Of proc(5).
    """
    account = _account() if os.geteuid() == 0 and _may_hand_over(process) else None
    if account is None or not _is_mapped(account, process):
        return None
    place = _place(folder, scratch)
    try:
        for one in (scratch, place):
            one.mkdir(exist_ok=True)
            one.chmod(ENTERED)
    except OSError:
        return None
    return Workers(account.pw_name, grp.getgrgid(account.pw_gid).gr_name, place)


def remove_scratch(folder: Path, *, scratch: Path = SCRATCH) -> None:
    """Remove what the workers of a door wrote, once it has ended."""
    shutil.rmtree(_place(folder, scratch), ignore_errors=True)


def look(folder: Path) -> list[Finding]:
    """Say as whom the door's workers run, and what root's other processes are, by the door's file.

    Args:
        folder: The door's, with the ``nginx.conf`` that was written.
    """
    if os.geteuid() != 0:
        return [ok(CHECK, "run as this user, not as root")]
    try:
        found = re.search(r"^user (\S+)", (folder / "nginx.conf").read_text(), re.MULTILINE)
    except OSError:
        return []
    name = found.group(1) if found else ""
    if name not in ACCOUNTS:
        return [warning(CHECK, "run as root, and read what strangers send", UNITS)]
    rest = warning("root", "all but the front door's workers run as root", UNITS)
    return [ok(CHECK, f"run as {name}"), rest]


def _place(folder: Path, scratch: Path) -> Path:
    return scratch / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def _account() -> pwd.struct_passwd | None:
    for name in ACCOUNTS:
        try:
            found = pwd.getpwnam(name)
            grp.getgrgid(found.pw_gid)
        except KeyError:
            continue
        if found.pw_uid != 0 and found.pw_gid != 0:
            return found
    return None


def _may_hand_over(process: Path) -> bool:
    """Say whether root here may change to another user: in a container it may not be allowed to."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", (process / "status").read_text(), re.MULTILINE)
    has = int(found.group(1), 16) if found else 0
    return all(has >> one & 1 for one in CAPABILITIES)


def _is_mapped(account: pwd.struct_passwd, process: Path) -> bool:
    """Say whether the account exists in this user namespace (user_namespaces(7))."""
    for name, number in (("uid_map", account.pw_uid), ("gid_map", account.pw_gid)):
        ranges = [tuple(map(int, line.split())) for line in _lines(process / name)]
        if not any(first <= number < first + count for first, _, count in ranges):
            return False
    return True


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
