"""How the engine reaches the sites: frames out, frames back as they come, never for ever.

The engine knows only ``Transport``. ``GridTransport`` is the one place where the server side
touches Flower, with ``replies``: it wraps frames into Flower messages and polls the grid itself,
because Flower's own ``send_and_receive`` sleeps three seconds between polls, its node sampling
waits without end for a site that has gone, and its pulling waits for the parts of a reply.

Every request costs a SuperLink some 20 ms of a core, so there are few: a frame no larger than one
of Flower's chunks travels as one object and not as an array of chunks; the first look for replies
comes when most of the time has passed that a step of its kind took before, and the pauses between
looks grow with the silence.

References:
    Flower 1.41, ``flwr.serverapp.Grid`` (Message API).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from fl_server.replies import Replies

FIRST_PAUSE_SECONDS: Final = 0.005
REMOTE_PAUSE_SECONDS: Final = 0.03
"""The shortest pause between looks over HTTP."""
PAUSE_SHARE: Final = 4
"""A pause lasts a quarter of the silence before it."""
EXPECTED_SHARE: Final = 0.75
EXPECTED_SECONDS_MAX: Final = 2.0
"""However long a step took before, the first look comes after this."""
FRAME: Final = "frame"
STYPE: Final = "bithive.frame.v1"
WHOLE_BYTES_MAX: Final = 5 * 2**20
"""As large as Flower's own chunks, so that no request is larger than it expects."""
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


@runtime_checkable
class WaitingGrid(Protocol):
    """A grid that knows when a reply is there: nobody needs to look for it again and again."""

    def wait_for_reply(self, message_ids: Iterable[str], seconds: float) -> None:
        """Return when one of the messages is answered, or after ``seconds``."""
        ...


class GridTransport:
    """Frames over a Flower grid, in this process or a SuperLink's.

    Args:
        grid: Flower's, or one of its kind.
        poll_seconds: The longest pause between two looks for replies.
        again: After how many seconds a node whose process failed is sent the same frame again.
    """

    def __init__(
        self, grid: Grid, *, poll_seconds: float = 0.5, again: Sequence[float] = ()
    ) -> None:
        self._grid = grid
        self._poll_seconds = poll_seconds
        self._again = tuple(again)
        self._left: dict[str, tuple[str, str, int]] = {}
        self._took: dict[str, float] = {}  # how long the first answer of each kind took last time
        self._pause = FIRST_PAUSE_SECONDS
        self._waiting_grid = grid if isinstance(grid, WaitingGrid) else None
        self._pull: Callable[[Sequence[str]], Iterable[Message]] = grid.pull_messages
        self._replies = Replies(grid) if isinstance(grid, HttpGrid) else None
        if self._replies is not None:
            self._pause = REMOTE_PAUSE_SECONDS
            self._pull = self._replies.pull

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
            message = Message(
                content_of(requests[node]),
                dst_node_id=node,
                message_type=MESSAGE_TYPES[kind],
                group_id=group,
                ttl=ttl,
            )
            return next(iter(self._grid.push_messages([message])))

        waiting = {send(node): node for node in requests}
        failures: dict[int, int] = {}
        due: dict[int, float] = {}  # nodes that failed, and when they are asked again
        took: dict[str, float] = {}
        started = heard = time.monotonic()
        deadline = started + deadline_seconds
        expected = EXPECTED_SHARE * self._took.get(kind, 0.0)
        self._pass(waiting, min(expected, EXPECTED_SECONDS_MAX, deadline_seconds))
        try:
            while waiting or due:
                for reply in self._pull(list(waiting)) if waiting else ():
                    node = waiting.pop(reply.metadata.reply_to_message_id, None)
                    if node is None:
                        continue
                    failed = failures.get(node, 0)
                    if reply.has_error() and failed < len(self._again):
                        due[node] = time.monotonic() + self._again[failed]
                        failures[node] = failed + 1
                        continue
                    heard = time.monotonic()  # where one is ready another may be
                    took.setdefault(kind, heard - started)
                    yield node, None if reply.has_error() else frame_of(reply)
                now = time.monotonic()
                if (waiting or due) and (now > deadline or enough()):
                    return
                for node in [node for node, at in due.items() if at <= now]:
                    del due[node]
                    waiting[send(node)] = node
                if waiting or due:
                    silence = time.monotonic() - max(heard, self._announced_at())
                    pause = max(silence / PAUSE_SHARE, self._pause)
                    self._pass(waiting, min(pause, self._poll_seconds))
        finally:
            self._took.update(took)
            self._left.update({number: (kind, group, node) for number, node in waiting.items()})
            while len(self._left) > LEFT_MAX:
                self._forget(next(iter(self._left)))

    def _announced_at(self) -> float:
        return float("-inf") if self._replies is None else self._replies.announced_at

    def _forget(self, asked: str) -> None:
        del self._left[asked]
        if self._replies is not None:
            self._replies.forget(asked)

    def _pass(self, waiting: Iterable[str], seconds: float) -> None:
        """Let ``seconds`` pass, or less where the grid says that a reply is there."""
        if self._waiting_grid is None or not waiting:
            time.sleep(seconds)
        else:
            self._waiting_grid.wait_for_reply(list(waiting), max(seconds, self._poll_seconds))

    def late(self) -> list[Late]:
        """Look once for replies to messages of exchanges that have ended."""
        found = []
        for reply in self._pull(list(self._left)) if self._left else ():
            named = self._left.pop(reply.metadata.reply_to_message_id, None)
            frame = None if reply.has_error() else frame_of(reply)
            if named is not None and frame is not None:
                found.append(Late(*named, frame))
        return found


def content_of(frame: bytes) -> RecordDict:
    """Return what a Flower message carries for ``frame``: one object, or an array of chunks."""
    if len(frame) <= WHOLE_BYTES_MAX:
        return RecordDict({FRAME: ConfigRecord({STYPE: frame})})
    return RecordDict({FRAME: ArrayRecord({FRAME: as_array(frame)})})


def as_array(frame: bytes) -> Array:
    """Return ``frame`` as the opaque array that rides in a Flower record."""
    return Array(dtype="uint8", shape=(len(frame),), stype=STYPE, data=frame)


def frame_of(message: Message) -> bytes | None:
    """Return the frame a reply carries, or None where it carries something else."""
    for whole in message.content.config_records.values():
        frame = whole.get(STYPE)
        if isinstance(frame, bytes):
            return frame
    for record in message.content.array_records.values():
        array = record.get(FRAME)
        if array is not None and array.stype == STYPE:
            return bytes(array.data)
    return None
