"""What this hospital knows of its lane: the newest leaves that the registry signed.

Three ways lead here: a round's plan, the server's request to prepare, and the registry, which
is asked right before records are read. None is believed beyond the registry's signature, and none
makes the hospital forget: a plan that names an older state than one seen before, by a server that
is slow or that lies, brings nobody back who has withdrawn since.

What holds (tests/fl_client/test_lane.py):

1. Leaves count only if they lead to the root of an epoch that the registry signed, and once.
2. Of each chunk the newest state seen stands, in this process and the next.
3. A patient whose leaf is gone in the newest state is gone in every older one.
4. A patient whose grant the hospital itself has ended is gone at once, in every state.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from consent.log import TREE_DEPTH
from consent.reader import RegistryReader
from consent.registry import SignedEpoch, verify_epoch
from fl_client.store import SiteStore
from protocol.errors import BitHiveError, ConsentError
from protocol.ids import SiteId
from protocol.messages import ChunkState, Epoch
from protocol.terms import StudyTerms
from zk.merkle import PathInvalid, climb, root_of

log = logging.getLogger("bithive.agent")
SLOTS: Final = {"cover8": 8, "cover64": 64}
"""Leaves of a chunk, by circuit."""


class LaneForged(ConsentError):
    """The leaves the server sent are not, once each, those that the registry signed."""

    code = "lane-forged"

    def __init__(
        self, chunk: int, why: str = "its leaves do not lead to the registry's signed root"
    ) -> None:
        self.chunk = chunk
        super().__init__(
            f"chunk {chunk} of the lane is not as the registry has it: {why}; do not train on it, "
            "and ask the registry for its log"
        )


@dataclass(frozen=True)
class LaneState:
    """Chunks of a lane at one epoch, as somebody says they are."""

    epoch: Epoch
    chunks: tuple[ChunkState, ...]


Newest = Callable[[], LaneState | None]
"""Asks the registry how the lane stands now; None where it cannot be told."""


def check_lane(terms: StudyTerms, state: LaneState) -> None:
    """Return if the registry signed the epoch and the chunks are its.

    Args:
        terms: The study's, which name the registry's key.
        state: Hostile.

    Raises:
        NotSignedByRegistry: The epoch is not the registry's.
        LaneForged: A chunk's leaves do not lead to the epoch's root, or it is named twice.
    """
    epoch = state.epoch
    signed = SignedEpoch(
        registry=epoch.registry,
        number=epoch.number,
        root=epoch.root,
        at=epoch.at,
        signature=epoch.signature,
    )
    verify_epoch(signed, terms.consent.registry_key)
    seen: set[int] = set()
    for one in state.chunks:
        # Whoever is named twice would be trained on twice, with noise for once.
        if one.chunk in seen:
            raise LaneForged(one.chunk, "it is named twice")
        seen.add(one.chunk)
        _check_chunk(one, SLOTS[terms.consent.circuit], epoch.root)


def _check_chunk(state: ChunkState, slots: int, root: int) -> None:
    # The level is part of the meaning: two inner nodes would pass for a chunk of two leaves.
    levels = slots.bit_length() - 1
    if len(state.leaves) != slots or len(state.siblings) != TREE_DEPTH - levels:
        raise LaneForged(state.chunk)
    try:
        reached = climb(root_of(state.leaves), state.chunk, state.siblings)
    except PathInvalid as error:
        raise LaneForged(state.chunk) from error
    if reached != root:
        raise LaneForged(state.chunk)


class LaneMemory:
    """The newest state seen of each chunk; threads may share it."""

    def __init__(self, terms: StudyTerms, store: SiteStore, newest: Newest | None = None) -> None:
        """Go on from what is stored.

        Args:
            terms: The study's.
            store: Where it is kept.
            newest: How the registry is asked; None where only messages bring news.
        """
        self._terms = terms
        self._store = store
        self._newest = newest
        self._lock = threading.Lock()
        self._chunks = store.consents.lane(terms.study)

    def learn(self, state: LaneState) -> None:
        """Take in how chunks stand at an epoch; what is older than what is known changes nothing.

        Raises:
            NotSignedByRegistry, LaneForged: As ``check_lane``.
            StorageError: The disk refused; what was known still stands.
        """
        check_lane(self._terms, state)
        number = state.epoch.number
        with self._lock:
            newer = {
                one.chunk: one.leaves
                for one in state.chunks
                if one.chunk not in self._chunks or self._chunks[one.chunk][0] < number
            }
            if newer:
                self._store.consents.keep_lane(self._terms.study, number, newer)
                self._chunks |= {chunk: (number, leaves) for chunk, leaves in newer.items()}

    def ask(self) -> None:
        """Ask the registry how the lane stands now; without an answer, what is known stands."""
        if self._newest is None:
            return
        try:
            state = self._newest()
            if state is not None:
                self.learn(state)
        except BitHiveError as error:
            log.warning("the registry could not be asked: %s", error.code)

    def gone(self, chunks: Sequence[ChunkState]) -> frozenset[int]:
        """Return the places of leaves that the newest state no longer has, or that ended here."""
        ended = self._store.consents.ended()
        with self._lock:
            newest = {chunk: leaves for chunk, (_, leaves) in self._chunks.items()}
        return frozenset(
            state.chunk * len(state.leaves) + offset
            for state in chunks
            for offset, leaf in enumerate(state.leaves)
            if leaf and (leaf in ended or newest.get(state.chunk, state.leaves)[offset] != leaf)
        )

    def epoch(self, chunk: int) -> int:
        """Return the number of the newest epoch at which this chunk was seen; -1 for none."""
        with self._lock:
            return self._chunks[chunk][0] if chunk in self._chunks else -1


def newest_in(registry: RegistryReader, terms: StudyTerms, site: SiteId) -> Newest:
    """Return how a site's lane is read from a registry that this process may open."""

    def newest() -> LaneState | None:
        wanted = (terms.study, site, terms.consent.dataset)
        with registry.snapshot() as epoch:
            chunks = tuple(
                ChunkState(
                    chunk=chunk,
                    leaves=tuple(registry.chunk_leaves(chunk)),
                    siblings=tuple(registry.chunk_path(chunk)),
                )
                for lane in registry.lanes()
                if (lane.study, lane.site, lane.dataset) == wanted
                for chunk in lane.chunks
            )
        return LaneState(Epoch.model_validate(vars(epoch)), chunks)

    return newest
