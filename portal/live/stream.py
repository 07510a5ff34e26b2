"""Server-sent events: framing a run's events, following them without end, and reading them back.

A frame is an event's position, its line, and an empty one:

    >>> for line in frame(EXAMPLE).decode().splitlines(): print(line or "(empty)")
    id: 4
    data: {"position":4,"at":"2026-11-21T12:00:00.000Z","kind":"closed","round":1}
    (empty)

A reader that lost its connection sends the last ``id`` it has seen as ``Last-Event-ID`` and gets
what comes after it. Where the run is finished and it has seen everything, the answer is 204, on
which a browser asks no more.

What holds (tests/portal/test_live_stream.py):

1. Wherever a connection is cut, the pieces put together are every event once, in order.
2. A reader that takes nothing holds at most one batch in memory and no transaction; after
   ``STALLED_SECONDS`` it is let go, and goes on from its ``Last-Event-ID``.
3. Where there is nothing more a comment says so, once and then every ``HEARTBEAT_SECONDS``: nobody
   between takes the connection for dead, and a reader notices when it is.

References:
    WHATWG HTML, section 9.2 (server-sent events): parsing, ``retry``, 204, comments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from portal.live.events import LiveEvent, LiveEventUnreadable
from portal.live.view import FINISHED

BATCH: Final = 500
"""Events that are read, and so held in memory, at once for one reader."""
POLL_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 15.0
STALLED_SECONDS: Final = 30.0
RETRY_MILLISECONDS: Final = 2000
LINE_MAX: Final = 65_536
"""Bytes of one line of a stream; an event has some hundred, at most a few thousand."""
MEDIA_TYPE: Final = "text/event-stream"
EXAMPLE: Final = LiveEvent(4, datetime(2026, 11, 21, 12, tzinfo=UTC), "closed", 1)


class Source(Protocol):
    """Where a run's events come from."""

    def since(self, position: int, *, limit: int) -> Sequence[LiveEvent]:
        """Return at most ``limit`` events after ``position``, in order."""
        ...

    def newest(self) -> int:
        """Return the last event's position, 0 where there is none."""
        ...


def frame(event: LiveEvent) -> bytes:
    """Return an event as it is sent."""
    return f"id: {event.position}\ndata: {event.text()}\n\n".encode()


def is_last(event: LiveEvent) -> bool:
    """Say whether nothing follows an event: the run is finished."""
    return event.kind == "run" and event.code == FINISHED


def is_over(source: Source, after: int) -> bool:
    """Say whether a reader that stands at ``after`` has seen the last event there will be."""
    events = source.since(max(after - 1, 0), limit=1)
    return bool(events) and events[0].position == after == source.newest() and is_last(events[0])


def position_of(last_event_id: str | None) -> int:
    """Return where a reader stands by its header ``Last-Event-ID``; 0 for one that is new.

    Examples:
        >>> position_of("17"), position_of(None), position_of("-1"), position_of("seventeen")
        (17, 0, 0, 0)
    """
    text = last_event_id or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0


@dataclass(frozen=True)
class Pace:
    """How often a run is looked at, in seconds."""

    poll: float = POLL_SECONDS
    heartbeat: float = HEARTBEAT_SECONDS
    stalled: float = STALLED_SECONDS


async def follow(
    source: Source,
    after: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    pace: Pace = Pace(),
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[bytes, None]:
    """Yield the frames after a position, then what happens, until the run ends.

    Nothing is read before the reader took what was read before.

    Args:
        source: Of the run.
        after: The last position the reader has seen.
        stop: Says that the server ends; looked at between reads.
        pace: How often to look.
        clock: Seconds that only grow.

    Raises:
        StorageError: The run's events cannot be read.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    position, spoke, told = after, clock(), False
    while not stop():
        events = await asyncio.to_thread(source.since, position, limit=BATCH)
        if events:
            position = events[-1].position
            yield b"".join(map(frame, events))
            spoke, told = clock(), False
            if is_last(events[-1]):
                return
            if len(events) == BATCH:
                continue
        elif not told or clock() - spoke >= pace.heartbeat:
            yield b": nothing more yet\n\n"
            spoke, told = clock(), True
        await asyncio.sleep(pace.poll)


class EventStream(Response):
    """The answer that sends frames as they come, and lets go of a reader that takes none."""

    media_type = MEDIA_TYPE

    def __init__(self, frames: AsyncGenerator[bytes, None], *, stalled_seconds: float) -> None:
        self._frames = frames
        self._stalled_seconds = stalled_seconds
        self.status_code = 200
        self.background = None
        # nginx would keep events back to fill a buffer.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # nobody knows it

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames end, the reader leaves, or its buffers stay full for too long."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._frames) as frames:  # so that who counts readers counts this one
            async for chunk in frames:
                body = {"type": "http.response.body", "body": chunk, "more_body": True}
                try:
                    async with asyncio.timeout(self._stalled_seconds):
                        await send(body)
                except TimeoutError:
                    return  # not ended, so the server closes the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def events_of(lines: Iterable[bytes]) -> Iterator[LiveEvent | None]:
    """Yield the events of a stream's lines, and None for each comment, which is a heartbeat.

    A frame whose end did not come is no event: its ``id`` was not seen.

    Raises:
        LiveEventUnreadable: A frame holds something else, or a line has no end.
    """
    frame_lines: list[str] = []
    for line in lines:
        if len(line) > LINE_MAX:
            raise LiveEventUnreadable(f"a line has more than {LINE_MAX} bytes")
        if not line.endswith(b"\n"):
            return  # cut within a line
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise LiveEventUnreadable("it is not UTF-8") from error
        if text.startswith(":"):
            yield None
        elif text.startswith("data:"):
            frame_lines.append(text[5:].removeprefix(" "))
        elif not text and frame_lines:
            yield LiveEvent.read("\n".join(frame_lines))
            frame_lines = []
