"""How much does privacy cost where there are few patients?

Question  At six hospitals with 623 breast ultrasounds between them, and at four natural hospitals
          with heart patients: how far is a federated model under patient-level differential
          privacy from the same model without it, from one hospital alone, and what does sharing
          the noise of the sum give over noise at each site? And what is left of Dice where the
          hippocampus is drawn in 3-D (``experiments/_utility_hippocampus.py``)?
Method    Federated averaging in one process (``experiments/_federation.py``) with the product's own
          training, noise and accounting. Several seeds: each has its own held-out patients, its own
          deal to the sites, its own draws and noise. Settings were chosen on development pictures
          that are never held out (``experiments/_utility_busi.py``), or taken from the recipe.
Expected  BUSI: 0.88 without privacy, within 0.03 of it at epsilon 8 and within 0.06 at epsilon 3;
          noise shared over the sum better than noise per site; one hospital alone far below.
Run       python -m experiments.privacy_utility [--task busi] [--quick] [--json]
          (10 minutes, and 10 more for each seed of the hippocampus; --quick takes two seeds, of
          the hippocampus one with fewer rounds. What is finished is kept, a stopped run goes on)
Result    experiments/results/privacy_utility.json, privacy_utility.svg
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from experiments import _utility_busi, _utility_heart, _utility_hippocampus
from experiments._recorded import RESULTS, record
from experiments._utility_plot import plot
from models.sonogram import WEIGHTS_SHA256
from storage.files import write_whole

TASKS: Final = {
    "busi": _utility_busi,
    "heart": _utility_heart,
    "hippocampus": _utility_hippocampus,
}
"""What can be measured. A task's module has ``measure(seed, cache, *, epsilons, tell)``, which
returns numbers by arm: ``plain``, ``summed_8``, ``alone_8`` (a list over sites), and so on."""
QUICK_SEEDS: Final = 2


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    tasks: tuple[str, ...]
    seeds: int = 5
    epsilons: tuple[float, ...] = (8.0, 3.0)
    quick: bool = False


def main() -> None:
    """Measure, print, plot, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=list(TASKS), help="default: all")
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds; not recorded")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "bithive-privacy-utility"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = QUICK_SEEDS if options.quick else options.seeds
    config = Config(tuple(options.task or TASKS), seeds, quick=options.quick)
    started = time.monotonic()
    rows = {task: summary(_measured(task, config, options.cache)) for task in config.tasks}
    if not options.quick:
        record("privacy_utility", config, rows, seconds=time.monotonic() - started)
        plot(rows, RESULTS / "privacy_utility.svg")
    sys.stdout.write(json.dumps(rows) + "\n" if options.json else _shown(rows))


def _measured(task: str, config: Config, cache: Path) -> list[dict[str, Any]]:
    """Return every seed's row, from the cache where it is finished."""
    module, found = TASKS[task], []
    short = config.quick and hasattr(module, "measure_quick")
    measure = module.measure_quick if short else module.measure
    decided = [asdict(config)["epsilons"], WEIGHTS_SHA256, _plans(module), *["quick"] * short]
    label = hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:12]
    for seed in range(1 if short else min(config.seeds, getattr(module, "SEEDS", config.seeds))):
        kept = cache / f"{task}-{seed}-{label}.json"
        if not kept.is_file():
            began = time.monotonic()
            told = f"{task} seed {seed + 1}/{config.seeds}"

            def tell(doing: str, told: str = told, began: float = began) -> None:
                sys.stderr.write(f"{told}  {time.monotonic() - began:4.0f} s  {doing}\n")

            row = measure(seed, cache, epsilons=config.epsilons, tell=tell)
            cache.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(row).encode())
        found.append(json.loads(kept.read_bytes()))
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds, their spread, and the gap of paired arms."""
    arms = [name for name, value in found[0].items() if isinstance(value, (int, float, list))]
    by_arm = {name: [float(np.mean(row[name])) for row in found] for name in arms}
    mean = {name: round(float(np.mean(values)), 4) for name, values in by_arm.items()}
    spread = {
        name: round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
        for name, values in by_arm.items()
    }
    limits = sorted({name.split("_")[1] for name in arms if name.startswith("summed_")}, key=float)
    pairs = {
        **{f"plain - summed_{limit}": ("plain", f"summed_{limit}") for limit in limits},
        **{
            f"summed_{limit} - per-site_{limit}": (f"summed_{limit}", f"per-site_{limit}")
            for limit in limits
        },
    }
    gaps = {}
    for name, (more, less) in pairs.items():
        each = np.subtract(by_arm[more], by_arm[less])
        error = float(np.std(each, ddof=1) / len(each) ** 0.5) if len(each) > 1 else None
        gaps[name] = {
            "mean": round(float(each.mean()), 4),
            "standard_error": None if error is None else round(error, 4),
            "each": [round(float(one), 4) for one in each],
        }
    short = {"plain": "plain", "epsilon_8": "summed_8", "epsilon_3": "summed_3"}
    sites = {}
    if "sites" in found[0]:
        for arm, places in found[0]["sites"].items():
            sites[arm] = {
                site: [round(float(np.mean(x)), 4), round(float(np.std(x, ddof=1)), 4)]
                if len(x := [row["sites"][arm][site] for row in found]) > 1
                else [round(x[0], 4), None]
                for site in places
            }
    return {
        **{key: mean.get(arm) for key, arm in short.items()},
        "single_site": mean["alone_plain"],
        "single_site_epsilon_8": mean.get("alone_8"),
        "spread": {
            **{key: spread.get(arm) for key, arm in short.items()},
            "single_site": spread["alone_plain"],
        },
        "arms": {
            name: {
                "mean": mean[name],
                "spread": spread[name],
                "each": [round(value, 4) for value in by_arm[name]],
            }
            for name in arms
        },
        "gaps": gaps,
        "sites": sites,
        "spent": {name: value for name, value in found[0].items() if name.endswith("_spent")},
        "seeds": len(found),
    }


def _plans(module: Any) -> list[dict[str, Any]]:
    names = [name for name in ("PLAIN", "SUMMED", "PER_SITE") if hasattr(module, name)]
    return [{**asdict(getattr(module, name)), "epsilon": None} for name in names]


def _shown(rows: dict[str, Any]) -> str:
    lines = []
    for task, row in rows.items():
        score = getattr(TASKS[task], "SCORE", "AUC")
        lines.append(f"{task}: {score}, mean and spread over {row['seeds']} seeds")
        for name, found in row["arms"].items():
            spread = "" if found["spread"] is None else f"  +- {found['spread']:.3f}"
            lines.append(f"  {name:12} {found['mean']:.3f}{spread}")
        lines += [f"  {name}: {gap['mean']:+.3f}" for name, gap in row["gaps"].items()]
        for arm, places in row["sites"].items():
            told = "  ".join(f"{site} {value[0]:.3f}" for site, value in places.items())
            lines.append(f"  {arm:12} {told}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
