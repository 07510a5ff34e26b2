"""Serve an agent on a Unix socket that only its own user may open.

One connection is one request. Requests are answered one after the other: the agent trains one
round at a time, and everything else it does is short.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from threading import Event
from typing import Final

from fl_client.link import Answer, receive, send
from protocol.errors import StorageFailed

log = logging.getLogger("bithive.agent")
POLL_SECONDS: Final = 0.5
PEER_SECONDS: Final = 60.0
"""How long a connected peer may take to send its request."""


def serve(answer: Answer, path: Path, stop: Event) -> None:
    """Answer frames at ``path`` until ``stop`` is set.

    Raises:
        StorageFailed: The socket cannot be made (a path of more than 100 bytes, say).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unready = path.with_suffix(".tmp")
    unready.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)  # the socket is born with mode 0600
        try:
            listener.bind(str(unready))
        except OSError as error:
            raise StorageFailed(f"the agent's socket {path.name}", str(error)) from error
        finally:
            os.umask(mask)
        listener.listen(8)
        unready.replace(path)  # whoever sees the name is answered
        listener.settimeout(POLL_SECONDS)
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                _answer_one(answer, connection)
    path.unlink(missing_ok=True)


def _answer_one(answer: Answer, connection: socket.socket) -> None:
    connection.settimeout(PEER_SECONDS)
    try:
        frame = receive(connection)
        reply = answer(frame)
        send(connection, reply)
    except OSError as error:
        log.warning("a peer went away: %s", error.strerror or error)
