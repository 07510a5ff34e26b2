"""An agent that echoes, and holds an answer back while the file ``hold`` lies beside its socket.

Run as ``python waiting_agent.py SOCKET TOKEN``; every frame it gets adds a line to ``asked``.
"""

import sys
import threading
import time
from pathlib import Path

from fl_client.service import listening, make_token, serve


def main(socket, token):
    """Serve until the process is ended."""

    def answer(frame):
        with socket.with_suffix(".asked").open("a") as asked:
            asked.write(f"{len(frame)}\n")
        while (socket.parent / "hold").exists():
            time.sleep(0.05)
        return frame

    with listening(socket) as listener:
        serve(answer, listener, threading.Event(), token=make_token(token))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
