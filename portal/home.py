"""A home folder: where one run keeps everything, each party in its own part.

::

    HOME/settings.json        what the run is (data, seed, sizes); a home is one run for ever
    HOME/server/              server.db, registry.db, keys of server and registry, terms
    HOME/market/              ledger.db, audit.db
    HOME/sites/SITE/          one hospital: keys, openings, budget, answers (mode 0600, folder 0700)
    HOME/patients/            what patients keep: withdrawal codes, and the secrets of who proves
    HOME/data/                the synthetic images, where the package makes them
    HOME/report.json, report.html

One process works in a home at a time (an advisory lock); a killed one leaves no lock behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from protocol.errors import StorageError, storage_error
from protocol.ids import SiteId
from storage.files import PRIVATE, private_folder, write_whole

PARTS: Final = ("server", "market", "sites", "patients", "data", "operator", "deployment")
FILES: Final = ("settings.json", "founded", "baselines.json", "report.json", "report.html")


class HomeBusy(StorageError):
    """Another process works in this home."""

    code = "home-busy"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another bithive process works in {path}; wait for it, or give another --home"
        )


class HomeTaken(StorageError):
    """The home holds another run than the one asked for."""

    code = "home-taken"

    def __init__(self, path: Path, differing: list[str]) -> None:
        self.differing = differing
        super().__init__(
            f"{path} holds a run with other settings ({', '.join(differing)}); give the same ones "
            "to resume it, another --home, or --fresh to start over"
        )


class HomeForeign(StorageError):
    """The folder holds files that are not a run's."""

    code = "home-foreign"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not empty and holds no BitHive run; give an empty or new folder as --home"
        )


@dataclass(frozen=True)
class Settings:
    """What decides a run. ``seed_noise`` makes noise reproducible, for demonstrations only."""

    data: str
    seed: int
    seed_noise: bool
    engine: str
    opening: str
    sites: int
    patients: int
    rounds: int
    circuit: str
    epsilon: float
    delta: float
    grants: str = "hospital"
    """Whose word patients' grants rest on: a ``consent.lanes.LanePolicy``."""
    algorithm: str = "fedavg"
    """One of ``models.algorithms.interface.ALGORITHMS``."""
    mechanism: str = "per-site"
    """Whose noise covers the sum: one of ``portal.noise.NOISES``."""
    features: str = ""
    """A feature step, ``BUNDLE.zip:module:function``, or none."""


@dataclass(frozen=True)
class Home:
    """The paths of one run."""

    path: Path

    @property
    def server(self) -> Path:
        """The server's and the registry's folder."""
        return self.path / "server"

    @property
    def market(self) -> Path:
        """The ledger's and the audit log's folder."""
        return self.path / "market"

    @property
    def data(self) -> Path:
        """Where the package's own synthetic images are."""
        return self.path / "data"

    @property
    def patients(self) -> Path:
        """What patients keep on paper."""
        return private_folder(self.path / "patients")

    def site(self, site: SiteId) -> Path:
        """One hospital's folder, closed to others."""
        return private_folder(self.path / "sites" / site)

    @property
    def report(self) -> Path:
        """The machine-readable report."""
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the run that lives here, or None for an empty home."""
        file = self.path / "settings.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def is_founded(self) -> bool:
        """Say whether the run's world is complete, so that rounds can go on."""
        return (self.path / "founded").is_file()

    def mark_founded(self) -> None:
        """Note that the run's world is complete."""
        write_whole(self.path / "founded", b"founded\n")

    def claim(self, settings: Settings) -> None:
        """Make the home this run's, or see that it already is.

        Raises:
            HomeTaken: It holds another run.
            HomeForeign: It holds something else.
            StorageError: The disk refused.
        """
        wanted = asdict(settings)
        held = self.settings()
        if held is None:
            if self.path.is_dir() and any(entry.name != "lock" for entry in self.path.iterdir()):
                raise HomeForeign(self.path)
            write_whole(self.path / "settings.json", json.dumps(wanted, indent=2).encode())
            return
        # A home of an earlier version has no word on what came later: it has none of it.
        held = {one.name: one.default for one in fields(Settings)} | held
        differing = sorted(key for key in wanted if held[key] != wanted[key])
        if differing:
            raise HomeTaken(self.path, differing)
        if not self.is_founded():
            self.clear(keep_settings=True)

    def clear(self, *, keep_settings: bool = False) -> None:
        """Remove a run's own parts and files, nothing else.

        Raises:
            HomeForeign: The parts are not a run's: a server of its own has no settings.
        """
        if self.settings() is None and any((self.path / part).exists() for part in PARTS):
            raise HomeForeign(self.path)
        for part in PARTS:
            shutil.rmtree(self.path / part, ignore_errors=True)
        for name in FILES:
            if not (keep_settings and name == "settings.json"):
                (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the home for this process.

        Raises:
            HomeBusy: Another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise storage_error(error, str(self.path)) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HomeBusy(self.path) from error
            yield
        finally:
            os.close(descriptor)
