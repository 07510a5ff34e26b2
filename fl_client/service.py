"""Serve an agent on a Unix socket that only its own user may open, and only with the token.

Every connection has a thread of its own and may ask again and again, so that a question of health
is answered while a round trains; what must not happen at once is the agent's own business. Nothing
here listens on a network.

What holds, each a test in tests/fl_client/test_link.py:

1. The socket is born with mode 0600, and the token file too.
2. Without the token no frame is read, however long it is announced to be.
3. A peer that says nothing, or goes away, ends its own connection and no other.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Final

from fl_client.link import (
    ADMITTED,
    TOKEN_DIGITS,
    TURNED_AWAY,
    Answer,
    exactly,
    receive,
    send,
)
from protocol.errors import StorageFailed, storage_error
from storage.files import PRIVATE, write_whole

log = logging.getLogger("bithive.agent")
POLL_SECONDS: Final = 0.5
PEER_SECONDS: Final = 60.0
"""How long a connected peer may take to send its token and each request."""
CONNECTIONS_MAX: Final = 32
"""More wait in the queue of the listener until one ends."""
WAITING_MAX: Final = 32


def make_token(path: Path) -> str:
    """Return the token kept at ``path``, made on first use with mode 0600.

    Raises:
        StorageError: The disk refused.
    """
    try:
        if path.is_file():
            return path.read_text().strip()
    except OSError as error:
        raise storage_error(error, path.name) from error
    token = secrets.token_hex(TOKEN_DIGITS // 2)
    write_whole(path, token.encode() + b"\n", mode=PRIVATE)
    return token


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Give a listener at ``path``; whoever sees the name is answered.

    Raises:
        StorageFailed: The socket cannot be made (a path of more than 100 bytes, say).
    """
    unready = path.with_suffix(".tmp")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)  # the socket is born with mode 0600
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            unready.unlink(missing_ok=True)
            listener.bind(str(unready))
        except OSError as error:
            raise StorageFailed(f"the agent's socket {path.name}", str(error)) from error
        finally:
            os.umask(mask)
        listener.listen(WAITING_MAX)
        unready.replace(path)
        listener.settimeout(POLL_SECONDS)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def serve(answer: Answer, listener: socket.socket, stop: Event, *, token: str) -> None:
    """Answer frames until ``stop`` is set; what is being answered then is answered to the end."""
    peers: dict[threading.Thread, socket.socket] = {}
    places = threading.BoundedSemaphore(CONNECTIONS_MAX)
    while not stop.is_set():
        peers = {thread: peer for thread, peer in peers.items() if thread.is_alive()}
        if not places.acquire(timeout=POLL_SECONDS):
            continue
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            places.release()
            continue
        thread = threading.Thread(
            target=_serve_one, args=(answer, peer, token, places), name="peer", daemon=True
        )
        peers[thread] = peer
        thread.start()
    for peer in peers.values():
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RD)  # no further request; a reply under way still leaves
    for thread in peers:
        thread.join()


def _serve_one(
    answer: Answer, peer: socket.socket, token: str, places: threading.BoundedSemaphore
) -> None:
    try:
        with peer:
            peer.settimeout(PEER_SECONDS)
            if not hmac.compare_digest(exactly(peer, TOKEN_DIGITS), token.encode()):
                log.warning("token-refused")
                peer.sendall(TURNED_AWAY)
                return
            peer.sendall(ADMITTED)
            while True:
                send(peer, answer(receive(peer)))
    except OSError:
        pass  # the peer went away, or had nothing more to ask
    finally:
        places.release()
