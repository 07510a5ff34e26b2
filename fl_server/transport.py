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
from collections.abc import Iterator, Mapping
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


class Transport(Protocol):
    """What the engine needs of a network."""

    def nodes(self) -> list[int]:
        """Return the nodes that can be reached now."""
        ...

    def exchange(
        self, kind: str, requests: Mapping[int, bytes], *, group: str, deadline_seconds: float
    ) -> Iterator[tuple[int, bytes | None]]:
        """Send each node its frame and yield the replies as they come.

        A node whose process failed is yielded with None; a node that has not answered when the
        deadline passes is not yielded at all.
        """
        ...


class GridTransport:
    """Frames over a Flower grid, in this process or a SuperLink's."""

    def __init__(self, grid: Grid, *, poll_seconds: float = 0.2) -> None:
        self._grid = grid
        self._poll_seconds = poll_seconds

    def nodes(self) -> list[int]:
        """Return the ids of the connected nodes, in order."""
        return sorted(self._grid.get_node_ids())

    def exchange(
        self, kind: str, requests: Mapping[int, bytes], *, group: str, deadline_seconds: float
    ) -> Iterator[tuple[int, bytes | None]]:
        """Send and poll; see ``Transport.exchange``."""
        messages = [
            Message(
                RecordDict({FRAME: ArrayRecord({FRAME: as_array(frame)})}),
                dst_node_id=node,
                message_type=MESSAGE_TYPES[kind],
                group_id=group,
                ttl=max(deadline_seconds, 1.0) + 60.0,
            )
            for node, frame in requests.items()
        ]
        waiting = set(self._grid.push_messages(messages))
        deadline = time.monotonic() + deadline_seconds
        pause = FIRST_PAUSE_SECONDS
        while waiting:
            for reply in self._grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                node = reply.metadata.src_node_id
                yield node, None if reply.has_error() else frame_of(reply)
            if waiting:
                if time.monotonic() > deadline:
                    return
                time.sleep(pause)
                pause = min(2 * pause, self._poll_seconds)  # most steps of a round are short


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
