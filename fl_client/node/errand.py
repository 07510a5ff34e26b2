"""One message on its way to the agent and back, and what a connection to the server must offer.

The loop (``fl_client/node/loop.py``) knows only these words; ``fl_client/node/fleet.py`` says them
in Flower's. Times are seconds since 1970 by the server's clock: what lives and expires is decided
there, and a hospital's clock may be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocol.errors import FederationError


class LinkDown(FederationError):
    """The server could not be reached, or not answer, just now."""

    code = "link-down"

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"the server at {address} cannot be reached ({reason}); the node tries again by itself"
        )


class NodeRefused(FederationError):
    """The server does not know this node's key, or holds its clock for wrong."""

    code = "node-refused"

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"the server at {address} refuses this node ({reason}); ask the operator whether the "
            "site's node key is admitted, and look at this machine's clock"
        )


class NodeNotActivated(FederationError):
    """The server does not take up this node: its key is unknown, or counts as running already."""

    code = "node-not-activated"

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"the server at {address} does not take up this node: either its key is not "
            "registered, or a node with this key counts as running, which ends some minutes after "
            "it died; the node tries again by itself"
        )


class ErrandOver(FederationError):
    """Nobody waits for the answer any more: the run has ended, or the message is gone."""

    code = "errand-over"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the server takes no answer to this message any more ({reason}); nothing is to be done"
        )


@dataclass(frozen=True)
class Errand:
    """Notice of a message to be answered; what it carries is fetched by itself.

    ``objects`` name the message's parts at the server, the whole last. ``sender`` and ``task`` say
    to whom the answer goes; they, ``kind`` and ``group`` are the server's own words and mean
    nothing here.
    """

    objects: tuple[str, ...]
    run: int
    sender: int
    kind: str
    group: str
    created_at: float
    lives_seconds: float
    task: int | None = None

    @property
    def message(self) -> str:
        """The message's id: the hash of the whole."""
        return self.objects[-1]

    @property
    def expires_at(self) -> float:
        """When nobody waits for the answer any more."""
        return self.created_at + self.lives_seconds


@dataclass(frozen=True)
class Reply:
    """The answer to an errand: a frame, or the reason why there is none.

    Made once and kept: brought again after a cut, it is the same message to the server.
    """

    errand: Errand
    frame: bytes | None
    answered_at: float
    seconds: float
    reason: str = ""


class Connection(Protocol):
    """What the loop needs of a way to the server. All but ``now`` raise ``LinkDown``."""

    @property
    def address(self) -> str:
        """The server's host and port."""
        ...

    def now(self) -> float:
        """Return the time by the server's clock, as far as it is known."""
        ...

    def activate(self) -> int:
        """Announce the node; return its id.

        Raises:
            NodeRefused: The request was not signed as the server wants it.
            NodeNotActivated: The key is not registered, or counts as running.
        """
        ...

    def resume(self, node: int) -> None:
        """Go on as ``node``, which this site was before it was interrupted.

        Raises:
            NodeRefused: This key is not that node's.
        """
        ...

    def beat(self) -> None:
        """Tell the server that the node lives.

        Raises:
            NodeRefused: The server has forgotten it.
        """
        ...

    def pull(self) -> Errand | None:
        """Fetch notice of the next message; the server gives it once.

        Raises:
            NodeRefused: The server has forgotten this node.
        """
        ...

    def fetch(self, errand: Errand) -> bytes | None:
        """Fetch the frame a message carries, or None where it carries none of ours.

        Raises:
            MessageTooLarge: It has more bytes than any message of ours.
            NodeRefused: The server has forgotten this node.
            ErrandOver: It is gone.
        """
        ...

    def push(self, reply: Reply) -> None:
        """Bring an answer, whole; to bring it again does no harm.

        Raises:
            NodeRefused: The server has forgotten this node.
            ErrandOver: Nobody waits for it.
        """
        ...

    def leave(self) -> None:
        """Tell the server that the node goes; never raises."""
        ...

    def close(self) -> None:
        """Close the connection without a word."""
        ...
