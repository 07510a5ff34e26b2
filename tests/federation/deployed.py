"""A deployment under test: the real commands, and a look at what they left."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SECONDS = 900
SMALL = ("--patients", "12", "--circuit", "cover8")


@dataclass(frozen=True)
class Deployed:
    """One home, and the commands on it."""

    home: Path
    options: tuple = ()

    def run(self, *words, code=0, seconds=SECONDS):
        """Run ``bithive WORDS --home HOME``; return what it printed on standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "portal", *map(str, words), "--home", str(self.home)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == code, done.stderr + self.logs()
        return done.stdout

    def words(self, *words, code=0):
        """Run a command; return what it printed on standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "portal", *map(str, words), "--home", str(self.home)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stderr + self.logs()
        return done.stderr

    def units(self):
        """Return the supervisor's table by name."""
        state = json.loads((self.home / "deployment" / "state.json").read_text())
        return {one["name"]: one for one in state["units"]}

    def pid(self, name):
        return self.units()[name]["pid"]

    def kill(self, name, number=signal.SIGKILL):
        """Send a process of the table a signal; return its number."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def store(self):
        from fl_server.app import open_store

        return open_store(self.home / "server")

    def progress(self):
        from portal.deployment.plan import Plan
        from portal.deployment.progress import progress_of

        return progress_of(Plan.load(self.home))

    def until(self, holds, seconds=SECONDS):
        """Wait until ``holds(progress)``; return the seconds it took."""
        began = time.monotonic()
        while not holds(self.progress()):
            assert time.monotonic() - began < seconds, self.logs()
            time.sleep(0.1)
        return time.monotonic() - began

    def until_ready(self, name, not_pid=None, seconds=SECONDS):
        began = time.monotonic()
        while True:
            one = self.units()[name]
            if one["state"] in {"ready", "done"} and one["pid"] != not_pid:
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, self.logs()
            time.sleep(0.1)

    def logs(self):
        """Return the ends of all logs, for a failing test."""
        logs = sorted((self.home / "deployment" / "logs").glob("*.log"))
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs
        )

    def processes(self):
        """Return every process whose command or environment names this home."""
        needle = str(self.home).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if needle in command and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found
