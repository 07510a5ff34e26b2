"""Rebuild a registry from its published log, and find out whether it did what it may.

Anybody can: the log's lines (``consent.epochs``) and the registry's public key are all it takes.
What comes out is the root that proofs refer to, the lanes, who has a live leaf (as nullifiers, not
as names), and the newest head, which two observers compare to know that they saw one history.

What holds (tests/consent/test_rebuilding.py):

1. The log of a registry rebuilds to its root, lanes and live nullifiers.
2. A log in which any field of any line was changed is refused.
3. A registry that signs what it may not, is refused though its signatures hold: a leaf that lives
   twice, a person with two live leaves, a leaf outside of every lane, one without a proof in a lane
   for proven grants, or with a proof of something else.

By default the root of the newest epoch alone is computed, which all lines lead to: the head chains
what every line says its root was. ``every_root`` computes each, twenty hashes a change.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from consent.epochs import FIRST_HEAD, EpochLine, LogLineMalformed, head_after
from consent.grants_by_proof import grant_message, grant_scope
from consent.lanes import Lane, LanePolicy
from consent.log import TREE_DEPTH, LogEntry, Replay
from protocol.errors import ConsentError, ProofError
from zk.merkle import MerkleTree
from zk.semaphore import SemaphoreProof, Verifier, check


class LogBroken(ConsentError):
    """A line of the log does not follow from those before it, or is not signed for what it says."""

    code = "consent-log-broken"

    def __init__(self, number: int, why: str) -> None:
        self.number = number
        self.why = why
        super().__init__(
            f"line {number} of the consent log does not hold: {why}; fetch it from another copy "
            "and, if it is the same there, do not rely on this registry"
        )


@dataclass(frozen=True)
class Rebuilt:
    """A registry as its log says it is."""

    registry: str
    epochs: int
    root: int
    head: str
    lanes: tuple[Lane, ...]
    leaves: dict[int, int]
    """The live ones by index."""
    nullifiers: dict[int, int]
    """Of live proven grants: the index of each nullifier's leaf."""
    grants: int
    """Ever published."""
    proofs_verified: int


@dataclass
class _Rebuilding:
    """What the lines so far come to."""

    public_key: bytes
    verifier: Verifier | None
    roots: Container[int] | None
    registry: str = ""
    number: int = -1
    head: bytes = FIRST_HEAD
    lanes: list[Lane] = field(default_factory=list)
    replay: Replay = field(default_factory=Replay)
    grants: int = 0
    proofs: int = 0

    def take(self, line: EpochLine) -> None:
        self._check_order(line)
        for lane in line.lanes:
            self._check_lane(lane, line.epoch.number)
            self.lanes.append(lane)
        for change in line.changes:
            self.replay.take(change)
            if change.leaf:
                self.grants += 1
                self._check_grant(change)

    def _check_order(self, line: EpochLine) -> None:
        number = self.number + 1
        if line.epoch.number != number:
            raise LogBroken(line.epoch.number, f"line {number} should stand in its place")
        if number and line.epoch.registry != self.registry:
            raise LogBroken(number, "it is another registry's")
        self.head = head_after(self.head, line.epoch, line.lanes, line.changes)
        if line.head.head != self.head.hex():
            raise LogBroken(number, "its head is not that of the log before it and its content")
        self.registry, self.number = line.epoch.registry, number

    def check_signatures(self, line: EpochLine) -> None:
        line.epoch.check(self.public_key)
        line.head.check(self.public_key)

    def _check_lane(self, lane: Lane, number: int) -> None:
        first = self.lanes[-1].chunks.stop if self.lanes else 0
        size = self.lanes[0].chunk_size if self.lanes else lane.chunk_size
        if lane.first_chunk != first or lane.chunk_count < 1 or lane.chunk_size != size:
            raise LogBroken(number, "a lane does not begin where the one before it ends")
        if size < 1 or size & (size - 1) or lane.indices.stop > 1 << TREE_DEPTH:
            raise LogBroken(number, "a lane has no place in the tree")

    def _check_grant(self, change: LogEntry) -> None:
        lane = next((one for one in self.lanes if change.index in one.indices), None)
        if lane is None:
            raise LogBroken(self.number, "a leaf is in no lane")
        if change.nullifier is None:
            if lane.policy is LanePolicy.PROVEN:
                raise LogBroken(self.number, "a lane for proven grants has one without a proof")
        elif self.verifier is not None:
            self._check_proof(change, lane, self.verifier)

    def _check_proof(self, change: LogEntry, lane: Lane, verifier: Verifier) -> None:
        assert change.proof is not None
        assert change.payout_id is not None
        try:
            proof = SemaphoreProof.from_json(change.proof)
            message = grant_message(
                self.registry, change.leaf, lane, change.payout_id, change.revoke_hash
            )
            nullifier = check(
                proof,
                root=proof.root,
                scope=grant_scope(lane.study),
                message=message,
                verifier=verifier,
            )
        except (ProofError, AssertionError) as error:
            raise LogBroken(self.number, "a grant's proof does not hold for it") from error
        if nullifier != change.nullifier:
            raise LogBroken(self.number, "a grant has another nullifier than its proof")
        if self.roots is not None and proof.root not in self.roots:
            raise LogBroken(self.number, "a grant's proof refers to no state of the group")
        self.proofs += 1


def rebuild_registry(
    lines: Iterable[EpochLine],
    public_key: bytes,
    *,
    verifier: Verifier | None = None,
    enrolment_roots: Container[int] | None = None,
    every_root: bool = False,
) -> Rebuilt:
    """Return what a published log comes to, if it is a history that a registry may have.

    Args:
        lines: From epoch 0 on; hostile.
        public_key: The registry's, 32 raw bytes, from a source that is trusted.
        verifier: Verify every grant's proof by this; None to believe the registry that it did.
        enrolment_roots: All roots of the enrolment group, from its own log; None not to ask.
        every_root: Compute and check the root and signatures of every epoch.

    Raises:
        LogBroken: A line is missing, was changed, or says what no registry may do.
        LogInconsistent: A leaf lives twice, or a nullifier has two live leaves.
        NotSignedByRegistry: The registry did not sign what the log comes to.
    """
    state = _Rebuilding(public_key, verifier, enrolment_roots)
    tree = MerkleTree(TREE_DEPTH)
    last = None
    for line in lines:
        state.take(line)
        last = line
        if every_root:
            tree.set_many({change.index: change.leaf for change in line.changes})
            _check_root(line, tree, state)
    if last is None:
        raise LogBroken(0, "the log is empty")
    if not every_root:
        tree.set_many(state.replay.leaves)
        _check_root(last, tree, state)
    leaves = {index: leaf for index, leaf in state.replay.leaves.items() if leaf}
    return Rebuilt(
        registry=state.registry,
        epochs=state.number + 1,
        root=tree.root,
        head=state.head.hex(),
        lanes=tuple(state.lanes),
        leaves=leaves,
        nullifiers={n: index for n, index in state.replay.holders.items() if index in leaves},
        grants=state.grants,
        proofs_verified=state.proofs,
    )


def read_published(lines: Iterable[str]) -> Iterator[EpochLine]:
    """Yield the lines of a log that was saved as text.

    Raises:
        LogLineMalformed: A line is not one.
    """
    for text in lines:
        yield EpochLine.from_json(text.rstrip("\n"))


def all_pages(page: Callable[[int], list[EpochLine]]) -> Iterator[EpochLine]:
    """Yield a whole log from the function that gives its pages after an epoch's number."""
    after = -1
    while lines := page(after):
        yield from lines
        if lines[-1].epoch.number <= after:
            raise LogLineMalformed("its pages do not go on")
        after = lines[-1].epoch.number


def _check_root(line: EpochLine, tree: MerkleTree, state: _Rebuilding) -> None:
    state.check_signatures(line)
    if tree.root != line.epoch.root:
        raise LogBroken(line.epoch.number, "its leaves lead to another root")
