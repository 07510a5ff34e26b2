"""The resident loop: fetch messages, hand each frame to the agent, bring its answer back.

::

    SuperLink ◀── pull, push, heartbeat ──  Node  ── frame, answer ──▶ agent   (Unix socket)
                  (outbound TLS only)        └── spool: what is not answered yet

What holds, each a test in tests/fl_client/test_node.py:

1. Whatever the network does, the node goes on: it tries again, ever more rarely, for ever.
2. A message is answered once at a time; handed out twice, it is asked of the agent twice only if
   the first answer has been brought.
3. An answer is kept until it was brought, its message expired, or its run ended.
4. A message without a frame of ours is answered with an error; nothing of it is run.
5. A message pulled before a crash is answered after it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from fl_client.link import Answer
from fl_client.node.bounds import MessageTooLarge
from fl_client.node.errand import (
    Connection,
    Errand,
    ErrandOver,
    LinkDown,
    NodeNotActivated,
    NodeRefused,
    Reply,
)
from fl_client.node.pace import RETRY_SECONDS_FIRST, pause_seconds, retry_pauses
from fl_client.node.spool import Spool
from protocol.errors import BitHiveError, StorageError

log = logging.getLogger("bithive.node")
STOP_SECONDS: Final = 10.0
FOREIGN: Final = "not-a-frame"
"""What the server is told of a message of another application."""
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much at once, and how long.

    ``errands`` are carried at a time, so that a site answers for its health while it trains. An
    agent that is away is awaited ``agent_seconds`` before the server is told; the server hears
    from the node every ``beat_seconds``. The first retry of anything comes after ``retry_seconds``.
    """

    errands: int = 4
    agent_seconds: float = 120.0
    beat_seconds: float = 10.0
    retry_seconds: float = RETRY_SECONDS_FIRST


class Node:
    """One site's node. ``run`` returns some time after ``end``.

    Args:
        connection: The way to the server.
        ask: The way to the agent; raises ``BitHiveError`` while it cannot be asked.
        spool: What is remembered across a crash.
        generator: Spreads the pauses.
        limits: How much at once, and how long.
    """

    def __init__(
        self,
        connection: Connection,
        ask: Answer,
        spool: Spool,
        *,
        generator: random.Random,
        limits: Limits | None = None,
    ) -> None:
        self._connection = connection
        self._ask = ask
        self._spool = spool
        self._generator = generator
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._last = time.monotonic()
        self._expected = 0.0
        self._limits = limits or Limits()
        self._room = threading.Semaphore(self._limits.errands)
        self._carried: dict[str, threading.Thread] = {}
        self._guard = threading.Lock()

    def run(self) -> None:
        """Pull and carry until ``end`` is called."""
        self._enter()
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        for errand in self._spool.pending():
            log.info("message %s was pulled before: goes on", errand.message[:12])
            if self._room_is_free():
                self._take(errand)
        while self._room_is_free():
            pulled = self._pull()
            if pulled is not None:
                self._expected = time.monotonic() - self._last
                self._keep(pulled)
                self._take(pulled)
            else:
                self._room.release()
            self._wait()
        self._end(beats)

    def end(self) -> None:
        """Let ``run`` return; what is not answered then is kept."""
        self._stop.set()
        self._wake.set()

    def _room_is_free(self) -> bool:
        """Take room for one more message, however long that takes; False if the node is to end."""
        while not self._stop.is_set():
            if self._room.acquire(timeout=1.0):
                return True
        return False

    def _keep(self, errand: Errand) -> None:
        """Keep notice of a message; a full disk costs what a crash would lose, and no more."""
        try:
            self._spool.keep(errand)
        except StorageError as error:
            log.warning("%s: %s", error.code, error)

    def _enter(self) -> None:
        """Be taken up by the server, however long that takes."""
        address = self._connection.address
        for pause in self._retries():
            try:
                node = self._activate(address)
            except (LinkDown, NodeRefused, NodeNotActivated) as error:
                log.warning("%s: %s", error.code, error)
                self._stop.wait(pause)
                continue
            self._spool.set_node(address, node)
            log.info("connected to %s as node %s", address, node)
            return

    def _activate(self, address: str) -> int:
        try:
            return self._connection.activate()
        except NodeNotActivated as refused:
            known = self._spool.node(address)
            if known is None:
                raise
            try:
                self._connection.resume(known)  # the node that counts as running is this one
            except NodeRefused:
                raise refused from None
            return known

    def _wait(self) -> None:
        """Wait until it is time to ask again, or an answer was brought."""
        with self._guard:
            idle = None if self._carried else time.monotonic() - self._last
            if not self._stop.is_set():
                self._wake.clear()
        self._wake.wait(pause_seconds(idle, self._expected, self._generator))

    def _pull(self) -> Errand | None:
        """Return the next message, or None; come back however the connection failed."""
        try:
            return self._connection.pull()
        except NodeRefused as error:
            log.warning("%s: %s", error.code, error)
            self._enter()
            return None
        except LinkDown as error:
            log.warning("%s: %s", error.code, error)
        for pause in self._retries():
            self._stop.wait(pause)
            try:
                self._connection.beat()
            except LinkDown:
                continue
            except NodeRefused:
                self._enter()
            log.info("the server at %s is back", self._connection.address)
            break
        return None

    def _take(self, errand: Errand) -> None:
        """Carry a message in a thread of its own, which gives the room back at its end."""
        with self._guard:
            if errand.message in self._carried:
                self._room.release()
                return
            thread = threading.Thread(target=self._carry, args=(errand,), daemon=True)
            self._carried[errand.message] = thread
        thread.start()

    def _carry(self, errand: Errand) -> None:
        try:
            reply = self._trying(errand, lambda: self._answer(errand))
            if reply is not None and self._trying(errand, lambda: self._bring(reply)):
                self._spool.forget(errand)
        except ErrandOver as error:
            log.info("message %s: %s", errand.message[:12], error)
            self._spool.forget(errand)
        finally:
            with self._guard:
                self._carried.pop(errand.message, None)
                self._last = time.monotonic()
                self._wake.set()
            self._room.release()

    def _trying(self, errand: Errand, attempt: Callable[[], T]) -> T | None:
        """Return what ``attempt`` returns, once the link allows; None if the node is to end.

        Raises:
            ErrandOver: Nobody waits for it any more.
        """
        for pause in self._retries():
            if self._connection.now() > errand.expires_at:
                raise ErrandOver("it has expired")
            try:
                return attempt()
            except (LinkDown, NodeRefused) as error:
                log.warning("%s: %s", error.code, error)
                self._stop.wait(pause)
        return None

    def _answer(self, errand: Errand) -> Reply | None:
        """Return what the agent says, an error in its stead, or None if the node is to end."""
        try:
            frame = self._connection.fetch(errand)
        except MessageTooLarge as error:
            log.warning("message %s: %s", errand.message[:12], error)
            return self._reply(errand, None, 0.0, error.code)
        if frame is None:
            log.warning("message %s carries no frame", errand.message[:12])
            return self._reply(errand, None, 0.0, FOREIGN)
        began = time.monotonic()
        for pause in self._retries():
            try:
                answer = self._ask(frame)
            except BitHiveError as error:
                away = time.monotonic() - began
                if away > self._limits.agent_seconds:
                    return self._reply(errand, None, away, error.code)
                log.warning("%s: %s", error.code, error)
                self._stop.wait(pause)
                continue
            return self._reply(errand, answer, time.monotonic() - began, "")
        return None

    def _bring(self, reply: Reply) -> bool:
        self._connection.push(reply)
        return True

    def _reply(self, errand: Errand, frame: bytes | None, seconds: float, reason: str) -> Reply:
        return Reply(errand, frame, self._connection.now(), seconds, reason)

    def _beat(self) -> None:
        while not self._stop.wait(self._limits.beat_seconds * self._generator.uniform(0.8, 1.0)):
            try:
                self._connection.beat()
            except (LinkDown, NodeRefused) as error:
                log.debug("no heartbeat: %s", error)

    def _end(self, beats: threading.Thread) -> None:
        pending = self._spool.pending()
        if pending:
            log.info("ends with %d messages unanswered; they are kept", len(pending))
        else:
            self._connection.leave()
        beats.join(STOP_SECONDS)
        self._connection.close()

    def _retries(self) -> Iterator[float]:
        """Yield pauses until the node is to end."""
        for pause in retry_pauses(self._generator, self._limits.retry_seconds):
            if self._stop.is_set():
                return
            yield pause
