"""A study of one exchange: the ServerApp sends each of two sites a frame and notes who answered."""

import json
import time
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fl_server.transport import GridTransport
from protocol.frames import encode

client = ClientApp()  # a bundle names one; our nodes run none
server = ServerApp()


@server.main()
def main(grid, context):
    transport = GridTransport(grid)
    while len(transport.nodes()) < 2:
        time.sleep(0.1)
    frames = {node: encode("train", {"node": str(node)}) for node in transport.nodes()}
    came = {}
    for node, reply in transport.exchange("train", frames, group="1", deadline_seconds=240.0):
        came[node] = reply == frames[node]
    report = Path(str(context.run_config["report"]))
    whole = report.with_suffix(".part")
    whole.write_text(json.dumps(sorted(came.values())))
    whole.replace(report)
