"""A study that trains nothing, over plain Flower 1.41: FedAvg and a client that adds one.

The file is copied into a bundle of its own by ``experiments/_noop_deployments.py``; it imports
Flower and numpy only. The ServerApp writes the seconds of every round to the file that the run's
configuration names.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001  # Flower's signature
    """Add one to every float."""
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    added = ArrayRecord({name: Array(array.numpy() + 1) for name, array in arrays.items()})
    content = RecordDict({"arrays": added, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and note when each ended."""
    rounds = int(context.run_config["rounds"])
    floats = int(context.run_config["floats"])
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    ends = [time.monotonic()]

    def note(_round: int, arrays: ArrayRecord) -> MetricRecord:
        ends.append(time.monotonic())
        return MetricRecord({"first": float(arrays["model"].numpy()[0])})

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"model": Array(np.zeros(floats, np.float32))}),
        num_rounds=rounds,
        train_config=ConfigRecord({}),
        evaluate_fn=note,
    )
    model = result.arrays["model"].numpy()
    assert bool((model == rounds).all())
    # The first note is of the model before any round.
    seconds = [end - start for start, end in itertools.pairwise(ends[1:])]
    Path(str(context.run_config["report"])).write_text(json.dumps(seconds))
