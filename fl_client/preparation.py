"""Certificates ahead of rounds: the door where news of the lane comes in, and the thread behind it.

After an epoch was published the server sends each hospital those chunks of its lane that changed.
The message needs no signature of the server's own: what counts in it is the registry's, and a
genuine state of the registry is good news from whoever brings it. It is checked and remembered
while the sender waits, so that who withdrew is left out from that moment on; choosing patients and
proving happen behind the door, on a thread and in the prover's workers. Training never waits for
it, nor it for training.

What holds (tests/fl_client/test_preparation.py):

1. News that the registry did not sign is refused, and so is an epoch older than one seen before.
2. The door answers at once, also while a round is trained.
3. Of news that came while other news was worked on, the newest alone is worked on next.
4. Closed, the thread ends and begins nothing any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated

from pydantic import Field

from fl_client.certifier import Certifier
from fl_client.coverage import Selection
from fl_client.lane import LaneMemory, LaneState
from fl_client.plans import PlanRefused
from protocol.canonical import Digest, Message, read
from protocol.errors import BitHiveError, ConsentError
from protocol.frames import Frame, encode
from protocol.messages import ChunkState, Epoch

log = logging.getLogger("bithive.agent")
Choose = Callable[[tuple[ChunkState, ...]], list[Selection]]
"""Chooses patients from chunks that were checked."""


class EpochOutdated(ConsentError):
    """News of a lane that is older than what this hospital knows."""

    code = "epoch-outdated"

    def __init__(self, number: int, known: int) -> None:
        self.number = number
        self.known = known
        super().__init__(
            f"the lane as of epoch {number} is no news, for this hospital knows it as of epoch "
            f"{known}; send the registry's newest epoch"
        )


class PrepareRequest(Message):
    """What the server sends: the chunks that changed, at a signed epoch."""

    terms: Digest
    epoch: Epoch
    chunks: Annotated[tuple[ChunkState, ...], Field(max_length=4096)]


class Preparation:
    """Has certificates made as soon as a state of the lane is known."""

    def __init__(
        self, approved: str, lane: LaneMemory, choose: Choose, certifier: Certifier
    ) -> None:
        self._approved = approved
        self._lane = lane
        self._choose = choose
        self._certifier = certifier
        self._lock = threading.Lock()
        self._waiting: dict[int, ChunkState] = {}
        self._epoch = -1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._closed = False

    def answer(self, request: Frame) -> bytes:
        """Take in news of the lane and begin to prove; the answer does not wait for proofs.

        Raises:
            PlanRefused: It is for other terms than those that were approved.
            NotSignedByRegistry, LaneForged: It is not the registry's.
            EpochOutdated: Something newer is known.
        """
        asked = read(PrepareRequest, request.body)
        if asked.terms != self._approved:
            raise PlanRefused("its terms are not those that were approved")
        self._lane.learn(LaneState(asked.epoch, asked.chunks))
        known = max((self._lane.epoch(one.chunk) for one in asked.chunks), default=-1)
        if asked.epoch.number < known:
            raise EpochOutdated(asked.epoch.number, known)
        self._begin(asked)
        return encode("preparing", {"epoch": asked.epoch.number})

    def close(self) -> None:
        """End the thread; what it is at is finished first, and no proof is begun after it."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self._certifier.close()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, asked: PrepareRequest) -> None:
        with self._lock:
            if self._closed or asked.epoch.number < self._epoch:
                return
            self._epoch = asked.epoch.number
            self._waiting |= {one.chunk: one for one in asked.chunks}
            self._thread.submit(self._work).add_done_callback(_tell)

    def _work(self) -> None:
        with self._lock:
            epoch, chunks = self._epoch, tuple(self._waiting.values())
            self._waiting.clear()
        if not chunks:  # an earlier turn took them along
            return
        selections = self._choose(chunks)
        with self._lock:  # of some chunks newer news may wait by now
            selections = [one for one in selections if one.chunk not in self._waiting]
        self._certifier.prepare(selections, epoch=epoch)


def _tell(done: Future[None]) -> None:
    """Log what a turn came to; a round will find out for itself, and say so."""
    error = None if done.cancelled() else done.exception()
    if isinstance(error, BitHiveError):
        log.warning("nothing was prepared: %s", error.code)
    elif error is not None:
        # By its type alone: what a traceback quotes may be of patients.
        log.error("nothing was prepared: %s", type(error).__name__)
