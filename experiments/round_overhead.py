"""How long is a round of a client that does nothing, over our deployment and over Flower's own?

Question  What does a round cost in waiting, starting processes and carrying bytes, apart from any
          training? How much less is it than in plain Flower 1.41, and how much without a network?
Method    Two sites add one to every float of a model; the server averages. First over BitHive's
          deployment: a SuperLink, our resident nodes, an agent each behind its Unix socket, our
          transport in the ServerApp. Then over Flower's: its own SuperLink and SuperNodes, FedAvg.
          Both with TLS, registered node keys and the state in SQLite, on loopback, one
          after the other on the same machine, and the sum is checked. The first round of each is
          left out. In process: the same clients and the same average over the in-process grid. And
          beside it what a round of our engine costs there with three sites, every step of a secure
          sum asked and stored, without its cryptography (``experiments/_noop_round.py``).
Expected  At most a fifth of Flower's time; in process at most 0.1 s.
Run       python -m experiments.round_overhead [--floats N] [--rounds N] [--json]   (3 minutes)
Result    experiments/results/round_overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments._noop_deployments import SITES, deployment, run_rounds
from experiments._noop_resident import answer, average
from experiments._noop_round import seconds_of_rounds
from experiments._recorded import record
from fl_client import link
from fl_client.app import app as carrier
from fl_server.app import keep_freed_memory
from fl_server.inprocess import InProcessGrid
from fl_server.transport import GridTransport

RATIO_MAX: Final = 0.2
IN_PROCESS_SECONDS_MAX: Final = 0.1


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    floats: int
    rounds: int
    sites: int = 2
    sites_engine: int = 3  # the fewest a study may have


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--floats", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6, help="measured, after one that is not")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = Config(options.floats, options.rounds)
    started = time.monotonic()
    row = measure(config)
    record("round_overhead", config, row, seconds=time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        show(row)


def measure(config: Config) -> dict[str, Any]:
    """Return seconds per round of each way, their spread, and the machine's load."""
    ours, ours_load = _deployed(config, flower=False)
    flower, flower_load = _deployed(config, flower=True)
    inside = in_process(config)
    engine = seconds_of_rounds(config.floats, config.rounds, sites=config.sites_engine)
    return {
        "seconds_per_round": round(median(ours), 3),
        "flower_seconds_per_round": round(median(flower), 3),
        "ratio": round(median(ours) / median(flower), 4),
        "in_process_seconds_per_round": round(median(inside), 4),
        "in_process_engine_seconds_per_round": round(median(engine), 4),
        "floats": config.floats,
        "rounds": config.rounds,
        "spread": {
            "ours": _spread(ours),
            "flower": _spread(flower),
            "in_process": _spread(inside),
            "engine": _spread(engine),
        },
        "load": {
            "ours": ours_load,
            "flower": flower_load,
            "in_process": _load(),
            "engine": _load(),
        },
    }


def in_process(config: Config) -> list[float]:
    """Return the seconds of the same rounds over the in-process grid, the first left out."""
    keep_freed_memory()
    addresses = [link.register(f"noop/{site}", answer) for site in SITES]
    grid = InProcessGrid(carrier, [{"agent": address} for address in addresses])
    try:
        transport = GridTransport(grid, poll_seconds=0.01)
        return average(transport, floats=config.floats, rounds=config.rounds + 1)[1:]
    finally:
        grid.close()
        for address in addresses:
            link.forget(address.removeprefix("local:"))


def show(row: dict[str, Any]) -> None:
    """Print what a person reads."""
    table = Table(title=f"Seconds per round, {row['floats']:,} floats", title_justify="left")
    for heading in ("over", "median", "least", "most", "load"):
        table.add_column(heading, justify="left" if heading == "over" else "right")
    ways = (
        ("BitHive's deployment", "seconds_per_round", "ours"),
        ("Flower's deployment", "flower_seconds_per_round", "flower"),
        ("in process", "in_process_seconds_per_round", "in_process"),
        ("our engine in process", "in_process_engine_seconds_per_round", "engine"),
    )
    for title, key, way in ways:
        least, most = row["spread"][way]
        table.add_row(
            title, f"{row[key]:.3f}", f"{least:.3f}", f"{most:.3f}", str(row["load"][way])
        )
    out = Console()
    out.print(table)
    out.print(f"ratio {row['ratio']:.3f} (goal: at most {RATIO_MAX})", highlight=False)


def _deployed(config: Config, *, flower: bool) -> tuple[list[float], float]:
    title = "Flower's" if flower else "BitHive's"
    words = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    # A socket's path may hold about 100 bytes: the folder's is short.
    with (
        tempfile.TemporaryDirectory(prefix="bh-") as place,
        Progress(*columns, console=words, transient=True) as progress,
    ):
        step = progress.add_task(f"{title} deployment: servers and nodes start")
        with deployment(Path(place) / "run", flower=flower) as processes:
            progress.update(step, description=f"{title} deployment: {config.rounds + 1} rounds")
            seconds = run_rounds(
                processes, flower=flower, floats=config.floats, rounds=config.rounds + 1
            )
            load = _load()
    words.print(f"{title} deployment: median {median(seconds[1:]):.2f} s a round", highlight=False)
    return seconds[1:], load


def _spread(seconds: list[float]) -> list[float]:
    return [round(min(seconds), 4), round(max(seconds), 4)]


def _load() -> float:
    return round(os.getloadavg()[0], 2)


if __name__ == "__main__":
    main()
