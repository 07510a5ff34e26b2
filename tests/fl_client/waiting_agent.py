"""An agent that echoes, and holds an answer back while the file ``hold`` lies beside its socket.

Run as ``python waiting_agent.py SOCKET TOKEN``; every frame it gets adds a line to ``asked``.
"""

import sys
import threading
import time
from pathlib import Path

from fl_client.service import listening, make_token, serve

socket = Path(sys.argv[1])


def answer(frame):
    with socket.with_suffix(".asked").open("a") as asked:
        asked.write(f"{len(frame)}\n")
    while (socket.parent / "hold").exists():
        time.sleep(0.05)
    return frame


with listening(socket) as listener:
    serve(answer, listener, threading.Event(), token=make_token(Path(sys.argv[2])))
