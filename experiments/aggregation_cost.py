"""What does a secure sum cost in bytes and processor time, beside NVIDIA FLARE's own?

Question  Bytes up and down for each parameter, processor seconds at client, server and opening: how
          do they compare with what FLARE 2.9 ships for the same models, and do they grow linearly?
Method    Three models: a million parameters in one tensor, a CNN of 37 tensors, MONAI's ResNet-18
          (11.2 million in 105 tensors). Ten sites upload noise under masks (members) and the sum
          is opened; FLARE's own encryptor, serialiser, aggregator and decryptor take the same
          vectors in turn with ours, so that both meet the same minutes of the machine. Every
          number is the least processor time of its repetitions, in one thread of one process, the
          C library's allocator as it comes. A server's is all it does to ciphertexts in a round,
          over its clients: for FLARE the mean and the new global model too, for us the comparison
          of tags; ``add`` is receiving and adding alone. A hospital's is all it does. Of FLARE's
          ResNet-18 five clients are run: each sends 730 MB, and costs the same.
          Then threshold opening at a million parameters, and one upload of 11.2 million by two
          processes against one, in wall seconds.
Expected  At most 2.05 bytes up and 4.1 down; a 28th of FLARE's upload for one tensor and a 30th for
          ResNet-18; a sixth of its client time and a twelfth of its server time; the same cost
          for each parameter at 11.2 million; two processes 1.5 times as quick as one on an idle
          machine of two cores. Threshold: at most 8.2 bytes up and 0.12 s a share and million.
Run       python -m experiments.aggregation_cost [--quick] [--json]    (about 6 minutes, 6 GB)
Result    experiments/results/aggregation_cost.json
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from monai.networks.nets import resnet18
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments._nvflare_reference import NvflareRound, installed
from experiments._recorded import record
from experiments._secure_sum import Processes, SecureSum, holders, members
from experiments._stopwatch import Stopwatch
from privacy.bfv import EncryptedSum
from privacy.parameters import parameter_set
from privacy.workers import VARIABLE

Shapes = dict[str, tuple[int, ...]]
Tick = Callable[[str], None]

EXAMPLES: Final = """examples:
  python -m experiments.aggregation_cost                 all of it, and record the result
  python -m experiments.aggregation_cost --quick         one tensor only; records nothing
  python -m experiments.aggregation_cost --json > o.json one object instead of the table

NVIDIA FLARE comes with the extra: pip install 'nvflare==2.9.0'. Without it our side is measured
alone, nothing is recorded and the exit code is 1.
"""
NVFLARE_MISSING: Final = (
    "nvflare is not installed, so there is nothing to compare with; install the extra "
    "`experiments` (pip install nvflare==2.9.0) and run this again"
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    cases: tuple[str, ...] = ("one-tensor", "cnn37", "resnet18")
    sites: int = 10
    nvflare_clients: tuple[int, ...] = (10, 10, 5)
    openings: int = 4
    parameters: str = "packed-bfv-8"
    threshold_parameters: str = "threshold-bfv-8"
    holders: int = 5
    turns_by_workers: int = 10
    scale: float = 0.02
    seed: int = 7
    keep_memory: bool = False


class Goal(NamedTuple):
    """A bound on one number, and how it is to be read."""

    block: str
    key: str
    sign: str
    bound: float

    def met(self, rows: dict[str, Any]) -> bool | None:
        """Return whether it holds, or None where it was not measured."""
        value = rows.get(self.block, {}).get(self.key)
        if value is None:
            return None
        return bool(value <= self.bound if self.sign == "<=" else value >= self.bound)


RATIOS: Final = {
    "up": "up_bytes_per_parameter",
    "down": "down_bytes_per_parameter",
    "client": "client_cpu_s",
    "server": "server_cpu_s_per_client",
    "add": "add_cpu_s_per_client",
    "open": "open_cpu_s",
    "hospital": "hospital_cpu_s",
}
"""What is divided by what: FLARE's number by ours, ``hospital`` being all a site does."""

GOALS: Final = (
    Goal("one-tensor", "up_bytes_per_parameter", "<=", 2.05),
    Goal("one-tensor", "down_bytes_per_parameter", "<=", 4.1),
    Goal("one-tensor", "ratio_up", ">=", 28),
    Goal("resnet18", "ratio_up", ">=", 30),
    *(Goal(case, "ratio_client", ">=", 6) for case in Config.cases),
    *(Goal(case, "ratio_server", ">=", 12) for case in Config.cases),
    Goal("resnet18", "client_cost_per_parameter_over_one_tensor", "<=", 1.25),
    Goal("threshold", "up_bytes_per_parameter", "<=", 8.2),
    Goal("threshold", "share_cpu_s_per_million", "<=", 0.12),
    Goal("workers", "speedup", ">=", 1.5),
)


def main() -> int:
    """Measure, print, record; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one tensor, fewer repetitions")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep freed memory, so that no time goes into getting pages back; records nothing",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = Config(keep_memory=options.keep_memory)
    if options.quick:
        config = replace(config, cases=config.cases[:1], nvflare_clients=(3,), openings=2)
    os.environ[VARIABLE] = "1"  # processor time of other processes would not be counted
    if config.keep_memory:
        keep_memory()
    started = time.monotonic()
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        # Drawn between measurements: a thread that draws would be in the processor time.
        task = progress.add_task("", total=None)

        def tick(words: str) -> None:
            progress.update(task, description=words, advance=1)
            progress.refresh()

        rows = measure(config, tick, quick=options.quick)
    if installed() and config == Config():
        record("aggregation_cost", config, rows, seconds=time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        show(rows)
    if not installed():
        sys.stderr.write(f"aggregation_cost: {NVFLARE_MISSING}\n")
        return 1
    return 0


def measure(config: Config, tick: Tick, *, quick: bool) -> dict[str, Any]:
    """Return a block of numbers for every case, one for thresholds, workers, host and goals."""
    rows: dict[str, Any] = {"host": host()}
    for case, clients in zip(config.cases, config.nvflare_clients, strict=True):
        rows[case] = measure_case(case, clients, config, tick)
    if "resnet18" in rows:
        large, small = (
            rows[case]["client_cpu_s_of_all"] / rows[case]["parameters"]
            for case in ("resnet18", "one-tensor")
        )
        rows["resnet18"]["client_cost_per_parameter_over_one_tensor"] = round(large / small, 3)
    rows["threshold"] = measure_threshold(config, tick)
    if not quick:
        rows["workers"] = measure_workers(config, tick)
    rows["host"]["load_after"] = round(os.getloadavg()[0], 2)
    rows["goals"] = [{**goal._asdict(), "met": goal.met(rows)} for goal in GOALS]
    return rows


def measure_case(case: str, clients: int, config: Config, tick: Tick) -> dict[str, Any]:
    """Return the numbers of one model, ours and FLARE's in turn."""
    shapes = shapes_of(case)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    watch, parameters = Stopwatch(), parameter_set(config.parameters)
    ours = SecureSum(parameters, members(parameters, config.sites), config.scale, watch)
    theirs = NvflareRound(shapes, watch) if installed() else None
    generator = np.random.default_rng(config.seed)
    for site in range(config.sites):
        tick(f"{case}: site {site + 1} of {config.sites}")
        vector = (config.scale * generator.standard_normal(size)).astype(np.float32)
        ours.contribute(vector)
        if theirs is not None and site < clients:
            theirs.contribute(vector)
    tick(f"{case}: add")
    for _ in range(config.openings):
        total = ours.add()
    tags = ours.tags()
    model = theirs.close() if theirs is not None else b""
    exact, error = True, 0.0
    for turn in range(config.openings):
        tick(f"{case}: opening {turn + 1} of {config.openings}")
        ours.compare(total, tags)
        exact &= ours.open(total, tags, {})
        if theirs is not None:
            error = theirs.error_max(theirs.open(model))
    found = _ours(ours, total, watch, size, clients) | {"tensors": len(shapes), "exact": exact}
    if theirs is not None:
        found |= {
            "nvflare_clients": clients,
            "nvflare_up_bytes_per_parameter": theirs.up_bytes / size,
            "nvflare_down_bytes_per_parameter": len(model) / size,
            "nvflare_client_cpu_s": watch.least("nvflare client"),
            "nvflare_server_cpu_s_per_client": watch.least("nvflare server")
            + watch.least("nvflare close") / config.sites,
            "nvflare_add_cpu_s_per_client": watch.least("nvflare server"),
            "nvflare_open_cpu_s": watch.least("nvflare open"),
            "nvflare_hospital_cpu_s": watch.least("nvflare client") + watch.least("nvflare open"),
            "nvflare_error_max": error,
        }
        found |= {
            f"ratio_{name}": found[f"nvflare_{key}"] / found[key] for name, key in RATIOS.items()
        }
    return _rounded(found)


def measure_threshold(config: Config, tick: Tick) -> dict[str, Any]:
    """Return the numbers of opening by a quorum, at a million parameters."""
    size, watch = shapes_of("one-tensor")["all"][0], Stopwatch()
    tick("threshold: keys")
    parameters = parameter_set(config.threshold_parameters)
    ciphers = holders(parameters, config.holders, watch)
    ours = SecureSum(parameters, ciphers, config.scale, watch)
    generator = np.random.default_rng(config.seed)
    for site in range(config.holders):
        tick(f"threshold: site {site + 1} of {config.holders}")
        ours.contribute((config.scale * generator.standard_normal(size)).astype(np.float32))
    tick("threshold: shares")
    total = ours.add()
    tags, shares = ours.tags(), ours.shares(total)
    ours.compare(total, tags)
    exact = ours.open(total, tags, shares)
    found = _ours(ours, total, watch, size, config.holders)
    return _rounded(
        {
            **found,
            "quorum": ours.threshold,
            "group_key_cpu_s": watch.least("group key"),
            "share_bytes_per_parameter": len(next(iter(shares.values()))) / size,
            "share_cpu_s_per_million": watch.least("share") / size * 1e6,
            "exact": exact,
        }
    )


def measure_workers(config: Config, tick: Tick) -> dict[str, Any]:
    """Return the wall seconds of a large upload, and of opening, in one process and in two."""
    size = sum(int(np.prod(shape)) for shape in shapes_of("resnet18").values())
    work = Processes(size, config.scale, parameter_set(config.parameters))
    wall: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(config.turns_by_workers):
        for processes, taken in wall.items():
            tick(f"workers: turn {turn + 1} of {config.turns_by_workers}, {processes} processes")
            taken.append(work.wall_seconds(processes))
    (upload, opening), (upload_2, opening_2) = (
        [min(column) for column in zip(*taken, strict=True)] for taken in wall.values()
    )
    return _rounded(
        {
            "parameters": size,
            "upload_wall_s_1": upload,
            "upload_wall_s_2": upload_2,
            "speedup": upload / upload_2,
            "open_wall_s_1": opening,
            "open_wall_s_2": opening_2,
            "open_speedup": opening / opening_2,
            "load": os.getloadavg()[0],
        }
    )


def _ours(
    ours: SecureSum, total: EncryptedSum, watch: Stopwatch, size: int, clients: int
) -> dict[str, Any]:
    """Return our side's numbers; those beside FLARE's are of as many clients as FLARE's were."""
    client = watch.least("client", first=clients)
    add = watch.least("check", first=clients) + watch.least("add") / total.sites
    once = [watch.least(stage) for stage in ("keys", "tag", "reveal", "open")]
    return {
        "parameters": size,
        "sites": total.sites,
        "up_bytes_per_parameter": len(ours.updates[0].blob) / size,
        "down_bytes_per_parameter": len(total.blob) / size,
        "client_cpu_s": client,
        "client_cpu_s_of_all": watch.least("client"),
        "server_cpu_s_per_client": add + watch.least("compare") / total.sites,
        "add_cpu_s_per_client": add,
        "open_cpu_s": watch.least("open"),
        "tag_cpu_s": watch.least("tag"),
        "keys_cpu_s": watch.least("keys"),
        "reveal_cpu_s": watch.least("reveal"),
        "hospital_cpu_s": client + sum(once),
    }


def keep_memory() -> None:
    """Keep freed memory in this process, where the C library can (glibc).

    FLARE frees gigabytes between our turns. On a virtual machine, getting pages back can then take
    as long as the work itself, for both sides, and differently every time.
    """
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def shapes_of(case: str) -> Shapes:
    """Return the shapes of a model's tensors, by name."""
    if case == "one-tensor":
        return {"all": (1_000_000,)}
    if case == "cnn37":
        return _cnn_shapes()
    # Counters of batches are left out: they are integers, and no parameters.
    state = resnet18(spatial_dims=2, n_input_channels=3, num_classes=1).state_dict()
    return {name: tuple(one.shape) for name, one in state.items() if one.is_floating_point()}


def _cnn_shapes() -> Shapes:
    """Eight 3x3 convolutions and a 1x1, each with bias and norm, and a linear layer: 987,104."""
    widths = (3, 32, 64, 64, 128, 128, 128, 192, 192, 32)
    shapes: Shapes = {}
    for layer, (inward, outward) in enumerate(pairwise(widths)):
        kernel = 1 if layer == len(widths) - 2 else 3
        shapes[f"conv{layer}.weight"] = (outward, inward, kernel, kernel)
        for name in (f"conv{layer}.bias", f"norm{layer}.weight", f"norm{layer}.bias"):
            shapes[name] = (outward,)
    return {**shapes, "linear.weight": (10, widths[-1])}


def host() -> dict[str, Any]:
    """Return what the seconds depend on."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "nvflare": version("nvflare") if installed() else None,
        "load_before": round(os.getloadavg()[0], 2),
    }


def show(rows: dict[str, Any]) -> None:
    """Print what was measured, FLARE's beside it, and the goals."""
    console = Console()
    for case in Config.cases:
        if case in rows:
            console.print(_case_table(case, rows[case]))
    for block in ("threshold", "workers"):
        if block in rows:
            table = Table(block, "")
            for key, value in rows[block].items():
                table.add_row(key.replace("_", " "), f"{value:,}")
            console.print(table)
    goals = Table("goal", "", "measured", "", title="goals (float32 in clear: 4 bytes a parameter)")
    for goal in GOALS:
        met = goal.met(rows)
        goals.add_row(
            f"{goal.block} {goal.key.replace('_', ' ')}",
            f"{goal.sign} {goal.bound:g}",
            "-" if met is None else f"{rows[goal.block][goal.key]:g}",
            {True: "met", False: "MISSED", None: "not measured"}[met],
        )
    console.print(goals)


def _case_table(case: str, found: dict[str, Any]) -> Table:
    size = f"{found['parameters']:,} parameters, tensors: {found['tensors']}"
    table = Table("members, under masks", "BitHive", "FLARE", "ratio", title=f"{case} ({size})")
    for name, key in RATIOS.items():
        table.add_row(
            key.replace("_", " "),
            f"{found[key]:.4g}",
            f"{found[f'nvflare_{key}']:.4g}" if f"nvflare_{key}" in found else "-",
            f"{found[f'ratio_{name}']:.1f}" if f"ratio_{name}" in found else "-",
        )
    error = found.get("nvflare_error_max")
    theirs = "-" if error is None else f"off by {error:.1e}"
    table.add_row("sum", "exact" if found["exact"] else "WRONG", theirs, "")
    return table


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
