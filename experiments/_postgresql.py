"""A PostgreSQL server that lives as long as an experiment, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

START_SECONDS: Final = 60


@contextmanager
def running_server() -> Iterator[str | None]:
    """Give the address of a fresh server on a socket, or None where its programs are missing."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="bithive-pg-"))
    options = _servant()
    if options:
        os.chown(folder, options["user"], options["group"])
    options |= {"cwd": folder, "stdout": subprocess.DEVNULL, "env": {"PATH": os.environ["PATH"]}}
    made = [initdb, "-D", str(folder / "data"), "-E", "UTF8", "--locale=C", "-U", "books"]
    subprocess.run([*made, "-A", "trust"], check=True, **options)  # noqa: S603 - its own arguments
    command = [postgres, "-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses="]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)  # noqa: S603 - likewise
    address = f"postgresql+psycopg://books@/postgres?host={folder}"
    try:
        _wait_for(address)
        yield address
    finally:
        running.send_signal(signal.SIGINT)  # ends now; SIGTERM waits for every client to leave
        running.wait()
        shutil.rmtree(folder)


def _program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _servant() -> dict[str, Any]:
    # A server refuses to run as root.
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait_for(address: str) -> None:
    engine = sa.create_engine(address)
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            break
    engine.dispose()
