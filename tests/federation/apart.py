"""A server and hospitals in homes that share nothing: whatever passes between them is a file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from portal.deployment.plan import free_port
from tests.federation.deployed import ROOT, SECONDS, Deployed

BITHIVE = (sys.executable, "-m", "portal")


@dataclass
class Party:
    """One party's home, and the processes it runs."""

    home: Path
    name: str
    running: list = field(default_factory=list)

    @property
    def environment(self):
        own = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "FLWR_HOME": str(self.home / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        return os.environ | own

    def run(self, *words, home=None, code=0):
        """Run a command in this party's home; return what it printed, read where it is JSON."""
        options = [] if home is False else ["--home", str(home or self.home)]
        done = subprocess.run(
            [*BITHIVE, *map(str, words), *options],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in words and done.stdout else done

    def start(self, *words):
        """Start a command that stays."""
        log = (self.home / f"{words[0]}-{words[1]}.log").open("ab")
        process = subprocess.Popen(
            [*BITHIVE, *map(str, words), "--home", str(self.home)],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def stop(self):
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def take(self, sender, file):
        """Carry one file, or one folder, from another party's home into this one."""
        source, target = sender.home / file, self.home / Path(file).name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target)
        return target

    def logs(self):
        found = sorted(self.home.glob("*.log"))
        return "\n".join(f"--- {self.name} {one.name}\n{one.read_text()[-1500:]}" for one in found)


class Consortium:
    """One server and its hospitals, each with a home of its own."""

    def __init__(self, path, sites):
        self.server = self._party(path, "server")
        self.sites = {site: self._party(path, site) for site in sites}
        self.port = free_port()
        self.deployed = Deployed(self.server.home)

    @staticmethod
    def _party(path, name):
        home = path / f"{name}-home"
        home.mkdir()
        return Party(home, name)

    def found_federation(self):
        address = f"localhost:{self.port}"
        operator = self.server.home / "operator"
        self.server.run(
            *("operator", "init", "consortium", "--address", address),
            *("--server-name", "localhost", "--server-name", "127.0.0.1"),
            home=operator,
        )
        self.server.run(
            *("deployment", "server", "--server-name", "localhost", "--listen", "127.0.0.1"),
            *("--port", self.port, "--superlink-port", free_port()),
        )

    def join(self, site):
        """Request and admission, each one file."""
        party, operator = self.sites[site], self.server.home / "operator"
        folder = party.home / "sites" / site
        asked = party.run("site", "init", site, "--json", home=folder)
        shutil.copyfile(asked["request"], self.server.home / f"{site}.request.json")
        admitted = self.server.run(
            *("operator", "admit", f"{site}.request.json"),
            *("--fingerprint", asked["fingerprint"], "--json"),
            home=operator,
        )
        party.take(self.server, admitted["admission"])
        party.run(
            *("site", "install", f"{site}.admission.json", "--operator", admitted["fingerprint"]),
            home=folder,
        )

    def found_study(self, *options):
        return self.server.run("study", "found", *options, "--json")

    def set_up(self, site, study, *options):
        party = self.sites[site]
        party.take(self.server, "server/for-sites")
        told = ("--study", "for-sites", "--registry-fingerprint", study["fingerprint"])
        return party.run("site", "setup", site, *told, *options, "--json")

    def grant(self, site, patients):
        """Grants to the server, receipts back, each one file."""
        party = self.sites[site]
        (party.home / "granted.csv").write_text("\n".join(patients))
        lists = ("--study", "for-sites", "--patients", "granted.csv")
        asked = party.run("site", "grants", site, *lists, "--json")
        self.server.take(party, asked["file"])
        answered = self.server.run("study", "admit-grants", asked["file"], "--json")
        party.take(self.server, answered["file"])
        return answered, party.run("site", "receipts", site, answered["file"], "--json")

    def start_site(self, site, sockets):
        party, socket = self.sites[site], sockets / f"{site}.sock"
        identity = party.home / "sites" / site / "identity"
        party.start("site", "run", site, "--socket", socket)
        party.start(
            *("site", "node", site, "--superlink", f"localhost:{self.port}"),
            *("--root-certificates", identity / "authority.crt"),
            *("--auth-supernode-private-key", identity / "node.key"),
            *("--client-certificate", identity / "tls.crt", "--client-key", identity / "tls.key"),
            *("--agent", f"unix:{socket}"),
        )

    def stop(self):
        for party in (*self.sites.values(), self.server):
            party.stop()

    def logs(self):
        parties = (self.server, *self.sites.values())
        return self.deployed.logs() + "\n".join(party.logs() for party in parties)
