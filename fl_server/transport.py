"""How the engine reaches the sites: frames out, frames back as they come, never for ever.

The engine knows only ``Transport``. ``GridTransport`` is the one place where the server side
touches Flower: it wraps frames into Flower messages and polls the grid itself, because Flower's own
``send_and_receive`` sleeps three seconds between polls and its node sampling waits without end for
a site that has gone.

References:
    Flower 1.41, ``flwr.serverapp.Grid`` (Message API).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

FIRST_PAUSE_SECONDS: Final = 0.005
FRAME: Final = "frame"
STYPE: Final = "bithive.frame.v1"
MESSAGE_TYPES: Final = {
    "offer": "query.job",
    "join": "query.join",
    "call": "query.call",
    "deal-key": "query.key",
    "take-key": "query.key",
    "give-share": "query.key",
    "recover-key": "query.key",
    "commit-key": "query.key",
    "part-key": "query.key",
    "join-key": "query.key",
    "prepare": "query.prepare",
    "train": "train",
    "endorse": "query.sum",
    "unmask": "query.sum",
    "share": "query.sum",
    "open": "query.sum",
}
"""The Flower message type that carries each kind of frame."""
LEFT_MAX: Final = 1024
"""How many unanswered messages are still listened for after their exchange; the oldest go first."""
AGAIN_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0)
"""When a node whose process failed is sent the same frame again: four minutes in all. Sites answer
the same question alike, so asking again is always allowed."""


@dataclass(frozen=True)
class Late:
    """A reply that came after its exchange had ended."""

    kind: str
    group: str
    node: int
    reply: bytes


def never() -> bool:
    """Say that nothing but the deadline ends an exchange."""
    return False


class Transport(Protocol):
    """What the engine needs of a network."""

    def nodes(self) -> list[int]:
        """Return the nodes that can be reached now."""
        ...

    def exchange(
        self,
        kind: str,
        requests: Mapping[int, bytes],
        *,
        group: str,
        deadline_seconds: float,
        enough: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, bytes | None]]:
        """Send each node its frame and yield the replies as they come.

        A node whose process failed is yielded with None; a node that has not answered when the
        deadline passes, or ``enough`` says so, is not yielded at all. A frame is looked up in
        ``requests`` when it is sent, so a lazy mapping never has two in memory.
        """
        ...

    def late(self) -> list[Late]:
        """Return the replies that came after their exchange had ended, each once."""
        ...


class GridTransport:
    """Frames over a Flower grid, in this process or a SuperLink's.

    Args:
        grid: Flower's, or one of its kind.
        poll_seconds: The longest pause between two looks for replies.
        again: After how many seconds a node whose process failed is sent the same frame again.
    """

    def __init__(
        self, grid: Grid, *, poll_seconds: float = 0.2, again: Sequence[float] = ()
    ) -> None:
        self._grid = grid
        self._poll_seconds = poll_seconds
        self._again = tuple(again)
        self._left: dict[str, tuple[str, str, int]] = {}

    def nodes(self) -> list[int]:
        """Return the ids of the connected nodes, in order."""
        return sorted(self._grid.get_node_ids())

    def exchange(
        self,
        kind: str,
        requests: Mapping[int, bytes],
        *,
        group: str,
        deadline_seconds: float,
        enough: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, bytes | None]]:
        """Send and poll; see ``Transport.exchange``."""
        ttl = max(deadline_seconds, 1.0) + 60.0

        def send(node: int) -> str:
            content = RecordDict({FRAME: ArrayRecord({FRAME: as_array(requests[node])})})
            message = Message(
                content,
                dst_node_id=node,
                message_type=MESSAGE_TYPES[kind],
                group_id=group,
                ttl=ttl,
            )
            return next(iter(self._grid.push_messages([message])))

        waiting = {send(node): node for node in requests}
        failures: dict[int, int] = {}
        due: dict[int, float] = {}  # nodes that failed, and when they are asked again
        deadline = time.monotonic() + deadline_seconds
        pause = FIRST_PAUSE_SECONDS
        try:
            while waiting or due:
                for reply in self._grid.pull_messages(list(waiting)) if waiting else ():
                    node = waiting.pop(reply.metadata.reply_to_message_id, None)
                    if node is None:
                        continue
                    failed = failures.get(node, 0)
                    if reply.has_error() and failed < len(self._again):
                        due[node] = time.monotonic() + self._again[failed]
                        failures[node] = failed + 1
                        continue
                    pause = FIRST_PAUSE_SECONDS  # where one is ready another may be
                    yield node, None if reply.has_error() else frame_of(reply)
                now = time.monotonic()
                if (waiting or due) and (now > deadline or enough()):
                    return
                for node in [node for node, at in due.items() if at <= now]:
                    del due[node]
                    waiting[send(node)] = node
                if waiting or due:
                    time.sleep(pause)
                    pause = min(2 * pause, self._poll_seconds)  # most steps are short
        finally:
            self._left.update({number: (kind, group, node) for number, node in waiting.items()})
            while len(self._left) > LEFT_MAX:
                self._left.pop(next(iter(self._left)))

    def late(self) -> list[Late]:
        """Look once for replies to messages of exchanges that have ended."""
        found = []
        for reply in self._grid.pull_messages(list(self._left)) if self._left else ():
            named = self._left.pop(reply.metadata.reply_to_message_id, None)
            frame = None if reply.has_error() else frame_of(reply)
            if named is not None and frame is not None:
                found.append(Late(*named, frame))
        return found


def as_array(frame: bytes) -> Array:
    """Return ``frame`` as the opaque array that rides in a Flower record."""
    return Array(dtype="uint8", shape=(len(frame),), stype=STYPE, data=frame)


def frame_of(message: Message) -> bytes | None:
    """Return the frame a reply carries, or None where it carries something else."""
    for record in message.content.array_records.values():
        array = record.get(FRAME)
        if array is not None and array.stype == STYPE:
            return bytes(array.data)
    return None
