"""Does whoever guesses who took part ever find more than the accountant allows?

Question  How large an epsilon do the released models themselves betray, in every run whose figures
          ``experiments/privacy_utility.py`` reports, and how far is it below the accountant's?
Method    The one-run audit of Steinke, Nasr and Jagielski (2023): coins over the canaries, one run
          with the product's training and noise, guesses from all that it released
          (``experiments/_membership.py``), the bound of their theorem 5.2
          (``privacy/audit_bound.py``) at 95 % confidence. Canaries are once all patients, once
          crafted ones in the worst direction. Bounds at delta 1e-5 are sharper than at the study's
          1e-3, because the theorem pays 2 m delta; the accountant is asked at the same delta.
Expected  No bound above the accountant's. Without noise everyone is found; with it, patients give
          bounds near zero, and crafted canaries a good part of the accountant's epsilon.
Run       python -m experiments.membership_audit [--task heart] [--quick] [--json]
          (15 minutes; what is finished is kept, and a stopped run goes on)
Result    experiments/results/membership_audit.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from experiments import _utility_busi, _utility_heart, _utility_hippocampus
from experiments._federation import Plan
from experiments._membership import audit
from experiments._recorded import record
from models.networks import build
from models.sonogram import WEIGHTS_SHA256
from privacy.patient_gradients import log_loss
from records.tables import HEART, TableLoader, read_heart
from storage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from privacy.patient_gradients import RecordLoss
    from records.dataset import Arrays

TASKS: Final = ("busi", "heart", "hippocampus")
QUICK: Final = ("heart",)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    tasks: tuple[str, ...] = TASKS
    epsilons: tuple[float, ...] = (8.0, 3.0)
    crafted: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A task as its figures were made: what is trained, on whom, and under which plans."""

    module: nn.Module
    sites: Mapping[str, Arrays]
    plans: Mapping[str, Plan]
    loss: RecordLoss
    crafted: bool


def main() -> None:
    """Audit, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="default: all")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} alone; not recorded")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "bithive-privacy-utility"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = Config(tuple(options.task or (QUICK if options.quick else TASKS)))
    started, rows = time.monotonic(), []
    for task in config.tasks:
        rows += _audited(task, config, options.cache)
    if not options.quick:
        record("membership_audit", config, rows, seconds=time.monotonic() - started)
    sys.stdout.write(json.dumps(rows) + "\n" if options.json else _shown(rows))


def _audited(task: str, config: Config, cache: Path) -> list[dict[str, Any]]:
    """Return the rows of every plan and kind of canary, from the cache where they are finished."""
    study, rows = STUDIES[task](config, cache), []
    for name, plan in study.plans.items():
        for crafted in (0, config.crafted) if study.crafted else (0,):
            decided = [name, repr(plan), crafted, config.seed, WEIGHTS_SHA256]
            label = hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:12]
            kept = cache / f"audit-{task}-{label}.json"
            if not kept.is_file():
                began = time.monotonic()
                found = audit(
                    study.module, study.sites, plan, seed=config.seed, crafted=crafted,
                    loss=study.loss,
                )  # fmt: skip
                row = {
                    "task": task,
                    "run": name,
                    "kind": "crafted" if crafted else "patients",
                    **asdict(found),
                }
                cache.mkdir(parents=True, exist_ok=True)
                write_whole(kept, json.dumps(_finite(row)).encode())
                sys.stderr.write(f"{task} {name}  {time.monotonic() - began:4.0f} s\n")
            rows.append(json.loads(kept.read_bytes()))
    return rows


def _busi(config: Config, cache: Path) -> Study:
    prepared = _utility_busi.prepare(cache)
    sites, _ = _utility_busi.split(prepared, config.seed)
    plans = {"plain": _utility_busi.PLAIN}
    for limit in config.epsilons:
        for plan in (_utility_busi.SUMMED, _utility_busi.PER_SITE):
            plans[f"{plan.mechanism}_{limit:g}"] = _utility_busi.at(plan, limit)
    module = _utility_busi.head(prepared.features.shape[1])
    return Study(module, sites, plans, log_loss, crafted=True)


def _heart(config: Config, _cache: Path) -> Study:
    data, loader = read_heart(_utility_heart.FOLDER, seed=config.seed), TableLoader(HEART)
    sites = {str(site): loader.load(patients) for site, patients in data.sites.items()}
    plans = {"plain": _utility_heart.PLAIN}
    for limit in config.epsilons:
        plan = replace(_utility_heart.SUMMED, epsilon=limit)
        plans[f"summed_{limit:g}"] = plan
        plans[f"per-site_{limit:g}"] = replace(plan, mechanism="per-site")
    module = build("logistic", data.input_shape, 0)
    return Study(module, sites, plans, log_loss, crafted=False)


def _hippocampus(config: Config, cache: Path) -> Study:
    sites = _utility_hippocampus.features(config.seed, cache).sites
    plans = {}
    for limit in config.epsilons:
        for plan in (_utility_hippocampus.SUMMED, _utility_hippocampus.PER_SITE):
            plans[f"{plan.mechanism}_{limit:g}"] = replace(plan, epsilon=limit)
    return Study(
        _utility_hippocampus.head(), sites, plans, _utility_hippocampus.LOSS, crafted=False
    )


STUDIES: Final = {"busi": _busi, "heart": _heart, "hippocampus": _hippocampus}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with None for what is infinite, which JSON has no word for."""
    for guessed in row["guessed"]:
        if math.isinf(guessed["upper"]):
            guessed["upper"] = None
    return row


def _shown(rows: list[dict[str, Any]]) -> str:
    deltas = [guessed["delta"] for guessed in rows[0]["guessed"]]
    heads = "".join(f"  at delta {delta:<8g} bound  allowed" for delta in deltas)
    lines = [f"{'task':12} {'run':11} {'canaries':>13}  ranked{heads}"]
    for row in rows:
        told = ""
        for guessed in row["guessed"]:
            upper = "  none" if guessed["upper"] is None else f"{guessed['upper']:6.2f}"
            hits = f"{guessed['correct']}/{guessed['guesses']}"
            told += f"  {hits:>17}  {guessed['lower']:5.2f}   {upper}"
        count = f"{row['canaries']} {row['kind']}"
        lines.append(f"{row['task']:12} {row['run']:11} {count:>13}  {row['ranked']:.3f} {told}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
