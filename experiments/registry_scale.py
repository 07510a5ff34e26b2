"""Does the registry stay quick with a hundred thousand grants?

Question  With 100,000 leaves in the tree, how long do a grant, a change of terms, a withdrawal, an
          epoch, reopening the registry, and rebuilding it from its published log take?
Method    Publish grants of hospitals in calls of 1,000 into lanes of six sites on SQLite, each call
          one epoch. Then time single grants, replacements under one nullifier and withdrawals,
          each an epoch of its own, committed to the disk. Write the log as text, read it back,
          and rebuild from it. Verifying a Semaphore proof is not in it: zk.fast takes 2 ms more.
          Percentiles are of wall time, since the disk is part of it; other work on the machine is
          in them too.
Expected  Grant, change and withdrawal below 20 ms, an epoch below 1 s, the rebuild below 60 s.
Run       python -m experiments.registry_scale [--leaves 100000] [--json]    (about 2 minutes)
Result    experiments/results/registry_scale.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from consent.lanes import Lane
from consent.publication import Checked, publish
from consent.rebuilding import all_pages, read_published, rebuild_registry
from consent.registry import Registry
from experiments._recorded import record
from protocol.ids import SiteId, StudyId
from zk.poseidon import FIELD

Result = TypeVar("Result")
NOW: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    leaves: int
    sites: int = 6
    call: int = 1_000
    """Grants in a call, which is an epoch."""
    single: int = 300
    """Grants, changes and withdrawals that are timed one by one."""


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = Config(options.leaves)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(config, Path(folder))
    record("registry_scale", config, rows, seconds=time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        show(rows)


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Return what everything took."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path = folder / "registry.db"
    registry = Registry(path, registry_id="registry", signing_key=key)
    lanes = _lanes(registry, config)
    rows: dict[str, Any] = {"leaves": config.leaves}
    rows |= _spread("epoch_of_call_ms", _fill(registry, lanes, config))
    rows |= _singles(registry, lanes, config)
    registry.close()
    reopened, rows["reopen_s"] = _timed(
        lambda: Registry(path, registry_id="registry", signing_key=key)
    )
    rows["database_mb"] = round(path.stat().st_size / 1e6, 1)
    return rows | _rebuild(reopened, folder / "registry.log")


def show(rows: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("what", "value")
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)


def _lanes(registry: Registry, config: Config) -> list[Lane]:
    capacity = config.leaves // config.sites + config.call + 3 * config.single
    return [
        registry.open_lane(StudyId("study"), SiteId(f"site-{number}"), "scans", capacity)
        for number in range(config.sites)
    ]


def _fill(registry: Registry, lanes: list[Lane], config: Config) -> list[float]:
    taken = []
    for start in range(0, config.leaves, config.call):
        lane = lanes[start // config.call % config.sites]
        grants = [(_leaf(number), _hash(number)) for number in range(start, start + config.call)]
        _, seconds = _timed(lambda: registry.publish_many(lane, grants, NOW))  # noqa: B023 - called at once
        taken.append(seconds)
    return taken


def _singles(registry: Registry, lanes: list[Lane], config: Config) -> dict[str, Any]:
    grants, changes, withdrawals = [], [], []
    published = []
    for number in range(config.leaves, config.leaves + config.single):
        lane = lanes[number % config.sites]
        receipt, seconds = _timed(
            lambda: registry.publish(lane, _leaf(number), _hash(number), now=NOW)  # noqa: B023 - called at once
        )
        grants.append(seconds)
        published.append((receipt.grant, number))
    for number in range(2 * config.single):
        _, seconds = _timed(lambda: _change(registry, lanes[0], number, config))  # noqa: B023 - called at once
        if number >= config.single:  # the first half are grants, the second replace them
            changes.append(seconds)
    for grant, number in published:
        _, seconds = _timed(lambda: registry.withdraw(grant, _code(number), now=NOW))  # noqa: B023 - called at once
        withdrawals.append(seconds)
    return (
        _spread("grant_ms", grants)
        | _spread("change_ms", changes)
        | _spread("withdrawal_ms", withdrawals)
    )


def _change(registry: Registry, lane: Lane, number: int, config: Config) -> None:
    """Publish as after a proof by one of so many persons, her second time in place of the first."""
    leaf, person = _leaf(-1 - number), 1 + number % config.single
    checked = Checked(lane, leaf, _hash(number), nullifier=person, payout_id=person, proof="{}")
    with registry._changing() as (connection, history, key):  # noqa: SLF001 - all but the proof's own verification
        publish(connection, history, key, [checked], NOW.isoformat())


def _rebuild(registry: Registry, file: Path) -> dict[str, Any]:
    def write() -> None:
        with file.open("w") as log:
            for line in all_pages(lambda after: registry.log_page(after=after)):
                log.write(line.to_json() + "\n")

    _, written = _timed(write)
    with file.open() as log:
        rebuilt, seconds = _timed(
            lambda: rebuild_registry(read_published(log), registry.public_key)
        )
    assert rebuilt.root == registry.epoch().root
    return {
        "epochs": rebuilt.epochs,
        "log_mb": round(file.stat().st_size / 1e6, 1),
        "write_log_s": round(written, 2),
        "rebuild_s": round(seconds, 2),
    }


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    ms = [1000 * one for one in seconds]
    return {
        name: round(median(ms), 2),
        f"{name}_p95": round(quantiles(ms, n=20)[-1], 2),
        f"{name}_most": round(max(ms), 2),
    }


def _leaf(number: int) -> int:
    return 1 + int.from_bytes(_hash(number), "big") % (FIELD - 1)


def _hash(number: int) -> bytes:
    return hashlib.sha256(_code(number)).digest()


def _code(number: int) -> bytes:
    return b"code %d" % number


if __name__ == "__main__":
    main()
