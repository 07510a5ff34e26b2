"""The way from a Flower ClientApp to the hospital's agent: a Unix socket, or a call.

Flower starts a new process for every message, so the ClientApp holds nothing: it imports this file
and the standard library, hands the frame to the resident agent and carries the answer back. In
the one-process demonstration the agent is an object, registered here under a name.

An address is ``unix:PATH`` or ``local:NAME``. The socket's file mode is 0600, so that only the
hospital's own user may speak to the agent, and whoever does must know the token of the door, which
lies in a file of mode 0600 beside it. The client tells the token to nobody but the token's owner:
the kernel says who listens, so that another user of the machine who took the socket's place learns
nothing::

    client   token, 64 hexadecimal digits        length, 8 bytes big-endian | frame   ... again
    agent                                  "+"                                length | reply
                                        or "-", and the end
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.errors import FederationError
from protocol.frames import FRAME_BYTES_MAX

Answer = Callable[[bytes], bytes]
LENGTH_BYTES: Final = 8
WAIT_SECONDS: Final = 4 * 3600
"""Training a round may take hours; a dead agent closes its socket at once."""

TOKEN_DIGITS: Final = 64
"""256 random bits."""
ADMITTED: Final = b"+"
TURNED_AWAY: Final = b"-"
PEER: Final = struct.Struct("3i")
"""Process, user and group, as the kernel tells them (unix(7), SO_PEERCRED)."""
SUPERUSER: Final = 0

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


class TokenRefused(FederationError):
    """Whoever called the agent does not know the token of its door."""

    code = "agent-token-refused"

    def __init__(self, place: str) -> None:
        self.place = place
        super().__init__(
            f"the agent at {place} does not know this token; give the path of the token file that "
            "`bithive site run` names"
        )


def register(name: str, answer: Answer) -> str:
    """Make an agent of this process reachable as ``local:NAME``; return that address."""
    _local[name] = answer
    return f"local:{name}"


def forget(name: str) -> None:
    """Undo ``register``."""
    _local.pop(name, None)


def ask(address: str, frame: bytes, token: Path | None = None) -> bytes:
    """Return the agent's answer to ``frame``.

    Args:
        address: ``unix:PATH`` or ``local:NAME``.
        frame: Any bytes.
        token: The file that holds the door's token; an agent of this process has none.

    Raises:
        AgentUnreachable: Nobody listens there, the token cannot be read, or the agent went away in
            the middle.
        TokenRefused: It is another door's token.
    """
    scheme, _, place = address.partition(":")
    if scheme == "local" and place in _local:
        return _local[place](frame)
    if scheme != "unix":
        raise AgentUnreachable(address, "no such address")
    try:
        with connected(place, token) as connection:
            send(connection, frame)
            return receive(connection)
    except OSError as error:
        raise AgentUnreachable(address, error.strerror or "connection lost") from error


def connected(place: str, token: Path | None) -> socket.socket:
    """Return a connection that the agent admitted; several frames may go over it in turn.

    Raises:
        OSError: Nobody listens there, somebody else does, or the token cannot be read.
        TokenRefused: It is another door's token.
    """
    told = b"" if token is None else token.read_bytes().strip()
    owner = os.geteuid() if token is None else token.stat().st_uid
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection.settimeout(WAIT_SECONDS)
        connection.connect(place)
        if listens(connection) not in {None, owner, SUPERUSER}:
            raise PermissionError(None, "another user of this machine listens there")
        connection.sendall(told.ljust(TOKEN_DIGITS, b"0")[:TOKEN_DIGITS])
        if exactly(connection, len(ADMITTED)) != ADMITTED:
            raise TokenRefused(place)
        opened.pop_all()  # the caller closes it
    return connection


def listens(connection: socket.socket) -> int | None:
    """Return the user on the other side, or None where the system does not tell."""
    asked = getattr(socket, "SO_PEERCRED", None)
    if asked is None:
        return None
    _, user, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, asked, PEER.size))
    return int(user)


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
    length = int.from_bytes(exactly(connection, LENGTH_BYTES), "big")
    if length > FRAME_BYTES_MAX:
        raise OSError("the frame announced is too large")
    return exactly(connection, length)


def exactly(connection: socket.socket, length: int) -> bytes:
    """Read ``length`` bytes.

    Raises:
        OSError: The other side went away before.
    """
    received = bytearray()
    while len(received) < length:
        part = connection.recv(min(1 << 20, length - len(received)))
        if not part:
            raise OSError("the connection was closed early")
        received += part
    return bytes(received)
