"""The way from a Flower ClientApp to the hospital's agent: a Unix socket, or a call.

Flower starts a new process for every message, so the ClientApp holds nothing: it imports this file
and the standard library, hands the frame to the resident agent and carries the answer back. In
the one-process demonstration the agent is an object, registered here under a name.

An address is ``unix:PATH`` or ``local:NAME``. On the socket a frame is preceded by its length in
8 bytes, big-endian; the socket's file mode is 0600, so that only the hospital's own user may
speak to the agent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from protocol.errors import FederationError
from protocol.frames import FRAME_BYTES_MAX

Answer = Callable[[bytes], bytes]
LENGTH_BYTES: Final = 8
WAIT_SECONDS: Final = 4 * 3600
"""Training a round may take hours; a dead agent closes its socket at once."""

_local: dict[str, Answer] = {}


class AgentUnreachable(FederationError):
    """The hospital's agent does not answer at its address."""

    code = "agent-unreachable"

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(
            f"the hospital agent at {address} does not answer ({reason}); start it with "
            "`bithive site run`"
        )


def register(name: str, answer: Answer) -> str:
    """Make an agent of this process reachable as ``local:NAME``; return that address."""
    _local[name] = answer
    return f"local:{name}"


def forget(name: str) -> None:
    """Undo ``register``."""
    _local.pop(name, None)


def ask(address: str, frame: bytes) -> bytes:
    """Return the agent's answer to ``frame``.

    Raises:
        AgentUnreachable: Nobody listens there, or it went away in the middle.
    """
    scheme, _, place = address.partition(":")
    if scheme == "local" and place in _local:
        return _local[place](frame)
    if scheme != "unix":
        raise AgentUnreachable(address, "no such address")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(WAIT_SECONDS)
            connection.connect(place)
            send(connection, frame)
            return receive(connection)
    except OSError as error:
        raise AgentUnreachable(address, error.strerror or "connection lost") from error


def send(connection: socket.socket, frame: bytes) -> None:
    """Write one frame and its length."""
    connection.sendall(len(frame).to_bytes(LENGTH_BYTES, "big"))
    if frame:  # the peer may have answered an empty frame, and gone, already
        connection.sendall(frame)


def receive(connection: socket.socket) -> bytes:
    """Read one frame.

    Raises:
        OSError: The other side went away, or announced more than a frame may have.
    """
    length = int.from_bytes(_exactly(connection, LENGTH_BYTES), "big")
    if length > FRAME_BYTES_MAX:
        raise OSError("the frame announced is too large")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        part = connection.recv(min(1 << 20, length - len(received)))
        if not part:
            raise OSError("the connection was closed early")
        received += part
    return bytes(received)
