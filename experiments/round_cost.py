"""Where does a round's time go, and what does BitHive add to plain federated averaging?

Question  In rounds after the first, how much of a round's processor time is training, and what do
          consent, encryption, aggregation, opening, settlement and coordination add? How does a
          whole round compare with Flower's own FedAvg of the same model on the same grid?
Method    Run the demonstration's rounds in process, on one thread a time, and sum the thread time
          that each stage reports; proofs are the prover processes' own time. Then run Flower's
          FedAvg strategy over the same in-process grid, the same sites, network, steps and batch
          sizes, without privacy, and take the time of its rounds. "Added" is everything but
          reading, training and proofs (making and verifying them).
Expected  Training dominates; what is added stays below a quarter of it.
Run       python -m experiments.round_cost [--data PATH] [--rounds 5] [--json]    (about 2 minutes)
Result    experiments/results/round_cost.json
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from rich.console import Console
from rich.table import Table

from experiments._recorded import record
from fl_server.inprocess import InProcessGrid
from models.networks import build
from portal import demo
from portal.display import Display
from portal.home import Home
from portal.options import settings_for
from protocol.progress import Step

BUSI: Final = Path(__file__).parent.parent.parent / "shared" / "data" / "busi_breast_us"
ADDED: Final = ("encrypt", "gate", "add", "unmask", "share", "open", "settle", "coordinate")
PROOFS: Final = ("prove", "verify")


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    data: str
    rounds: int
    seed: int = 7
    circuit: str = "cover64"


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(BUSI) if BUSI.is_dir() else "phantom")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = Config(options.data, options.rounds)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(config, Path(folder))
    # The folder's name, not where it lies on this machine.
    named = replace(config, data=Path(config.data).name)
    record("round_cost", named, rows, seconds=time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        show(rows)


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Return seconds per stage, shares of the round, and ratios to training and to FedAvg."""
    settings = settings_for(
        opening="members",
        data=config.data,
        seed=config.seed,
        default_seed=config.seed,
        engine="in-process",
        sites=6,
        patients=64,
        rounds=config.rounds,
        circuit=config.circuit,
        epsilon=None,
    )
    home = Home(folder / "home")
    home.claim(settings)
    run = demo.prepare(home, settings, Display(Console(stderr=True), quiet=True))
    stages: dict[str, float] = {}

    def add(step: Step) -> None:
        stages[step.stage] = stages.get(step.stage, 0.0) + step.seconds

    run.watch = add
    run.processes = 1
    children = _child_seconds()
    started, wall = time.process_time(), time.monotonic()
    demo.run_in_process(run)
    whole, wall = time.process_time() - started, time.monotonic() - wall
    stages["prove"] = _child_seconds() - children
    named = sum(seconds for stage, seconds in stages.items() if stage != "prove")
    stages["coordinate"] = max(0.0, whole - named - stages.pop("judge", 0.0))
    plain = fedavg_seconds(run, config.rounds)
    train = stages["train"]
    added = sum(stages.get(stage, 0.0) for stage in ADDED)
    proofs = sum(stages.get(stage, 0.0) for stage in PROOFS)
    total = sum(stages.values())
    return {
        "data": run.data.source.name,
        "rounds": config.rounds,
        "sites": len(run.data.sites),
        "model_parameters": run.terms.training.parameters,
        "seconds": {stage: round(spent, 4) for stage, spent in sorted(stages.items())},
        "share": {stage: round(spent / total, 4) for stage, spent in sorted(stages.items())},
        "added_over_training": round(added / train, 4),
        "proofs_over_training": round(proofs / train, 4),
        "plain_fedavg_seconds": round(plain, 4),
        "bithive_without_proofs_over_fedavg": round((total - proofs) / plain, 3),
        "bithive_over_fedavg": round(total / plain, 3),
        "wall_seconds": round(wall, 2),
    }


def fedavg_seconds(run: demo.Run, rounds: int) -> float:
    """Return the processor time of Flower's FedAvg on the same sites, network and steps."""
    training, privacy = run.terms.training, run.terms.privacy
    app = ClientApp()
    arrays = {
        index: run.loader.load(
            [p for p in run.data.sites[site] if run.wishes.decisions[site][p.id] == "grants"]
        )
        for index, site in enumerate(sorted(run.data.sites))
    }

    @app.train()
    def train(message: Message, context: Context) -> Message:
        data = arrays[int(context.node_config["index"])]
        module = build(training.network, training.input_shape, 0)
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(module.parameters(), lr=training.learning_rate)
        generator = np.random.default_rng(0)
        patients = int(data.patient.max()) + 1
        for _ in range(privacy.steps):
            drawn = np.flatnonzero(generator.random(patients) < privacy.sampling_rate)
            records = np.array(
                [generator.choice(np.flatnonzero(data.patient == one)) for one in drawn], int
            )
            if records.size == 0:
                continue
            optimiser.zero_grad()
            scores = module(torch.from_numpy(data.x[records])).squeeze(-1)
            target = torch.from_numpy(data.y[records]).to(scores.dtype)
            torch.nn.functional.binary_cross_entropy_with_logits(scores, target).backward()
            optimiser.step()
        content = RecordDict(
            {
                "arrays": ArrayRecord(module.state_dict()),
                "metrics": MetricRecord({"num-examples": patients}),
            }
        )
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, [{"index": index} for index in arrays], threads=1)
    module = build(training.network, training.input_shape, run.settings.seed)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    started = time.process_time()
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(module.state_dict()),
        num_rounds=rounds,
        train_config=ConfigRecord({}),
    )
    spent = time.process_time() - started
    grid.close()
    return spent


def show(rows: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("stage", "CPU s", "share")
    for stage, seconds in sorted(rows["seconds"].items(), key=lambda item: -item[1]):
        table.add_row(stage, f"{seconds:.3f}", f"{100 * rows['share'][stage]:.1f} %")
    console = Console()
    console.print(table)
    console.print(
        f"added, proofs aside, over training: {rows['added_over_training']:.3f}\n"
        f"proofs over training: {rows['proofs_over_training']:.3f}\n"
        f"BitHive without proofs over plain Flower FedAvg: "
        f"{rows['bithive_without_proofs_over_fedavg']:.2f}",
        highlight=False,
    )


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
