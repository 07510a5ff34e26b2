"""A study that trains nothing, over BitHive's deployment: our transport, nodes and agent socket.

The file is copied into a bundle of its own by ``experiments/_noop_deployments.py``. The ServerApp
averages what two sites send, as FedAvg does, and writes the seconds of every round. Run as a
program it is the agent: ``python -m experiments._noop_resident SOCKET TOKEN``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_server.transport import GridTransport
from protocol.frames import decode, encode

client = ClientApp()  # a bundle names one; our nodes run none
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and note how long each took."""
    run = context.run_config
    transport = GridTransport(grid)
    while len(transport.nodes()) < 2:
        time.sleep(0.1)
    seconds = average(transport, floats=int(run["floats"]), rounds=int(run["rounds"]))
    Path(str(run["report"])).write_text(json.dumps(seconds))


def average(transport: GridTransport, *, floats: int, rounds: int) -> list[float]:
    """Average what two sites send, so many rounds; return the seconds of each."""
    model = np.zeros(floats, np.float32)
    seconds = []
    for number in range(1, rounds + 1):
        started = time.monotonic()
        frame = encode("train", {"round": number}, {"model": model.tobytes()})
        total, answers = np.zeros_like(model), 0
        requests = dict.fromkeys(transport.nodes(), frame)
        for _, reply in transport.exchange(
            "train", requests, group=str(number), deadline_seconds=300.0
        ):
            assert reply is not None
            total += np.frombuffer(decode(reply).blobs["model"], np.float32)
            answers += 1
        assert answers == 2
        model = total / answers
        seconds.append(time.monotonic() - started)
    assert bool((model == rounds).all())
    return seconds


def answer(frame: bytes) -> bytes:
    """Add one to every float."""
    asked = decode(frame)
    model = np.frombuffer(asked.blobs["model"], np.float32) + np.float32(1)
    return encode("contribution", asked.body, {"model": model.tobytes()})


if __name__ == "__main__":
    from fl_client.service import listening, make_token, serve

    door = make_token(Path(sys.argv[2]))
    with listening(Path(sys.argv[1])) as listener:
        serve(answer, listener, threading.Event(), token=door)
