"""The cohort of one round: who is trained on, and the certificates that say so.

Between the choice and the reading of records a patient may withdraw, and the hospital may hear of
it (``fl_client.lane``). Then it chooses again: she is out, her chunk is proved again without her,
and if that takes too long the whole chunk stays out of this round. While it waits others may
withdraw, so it looks until nothing is new. All of it happens before a file is opened; what has been
trained on cannot be taken back.

What holds (tests/fl_client/test_cohort.py):

1. The patients are exactly those whom the certificates count.
2. Only chunks whose choice changed are proved again, and only those can come too late.
3. Whatever the order of withdrawals, news, proofs and rounds: nobody takes part who withdrew before
   the plan, or before this hospital heard of it (tests/consent/test_withdrawal_ahead.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl_client.certifier import Certification, Certifier
from fl_client.coverage import Selection
from fl_client.lane import LaneMemory, LaneState
from protocol.messages import ChunkState, RoundPlan
from records.dataset import Patient


@dataclass(frozen=True)
class Cohort:
    """Who takes part. ``left_out`` counts who would have, and withdrew or came too late."""

    selections: tuple[Selection, ...]
    certification: Certification
    left_out: int = 0

    @property
    def patients(self) -> list[Patient]:
        """The patients, in the order of their slots."""
        return [patient for selection in self.selections for patient in selection.patients]

    @property
    def ahead(self) -> int:
        """How many certificates were there before the round asked for them."""
        return len(self.certification.ready)


def gather(
    choose: Callable[[], list[Selection]],
    reserve: Callable[[Cohort], None],
    plan: RoundPlan,
    chunks: tuple[ChunkState, ...],
    *,
    lane: LaneMemory,
    certifier: Certifier,
    seconds: float,
) -> Cohort:
    """Choose, begin to prove, reserve, and look again until nothing is new; then records are read.

    Args:
        choose: Chooses from ``chunks`` by what is known of the lane at that moment.
        reserve: Reserves what the round costs these patients, as often as they are chosen; what
            raises here ends the round.
        plan: The round's; its epoch is taken in.
        chunks: The lane at that epoch, as the server sent it; hostile.
        lane: What is known; it asks the registry where it can.
        certifier: Proves.
        seconds: As for ``begin_again``, over all its turns.

    Raises:
        NotSignedByRegistry, LaneForged: The chunks are not the registry's.
    """
    lane.learn(LaneState(plan.epoch, chunks))
    gone = lane.gone(chunks)
    cohort = begin(choose(), certifier, plan)
    reserve(cohort)
    until: float | None = None
    while True:  # who is gone stays gone, so that it ends
        lane.ask()
        known, gone = gone, lane.gone(chunks)
        if gone == known:
            return cohort
        now = time.monotonic()
        until = now + seconds if until is None else until
        cohort = begin_again(cohort, choose(), certifier, plan, seconds=max(0.0, until - now))
        reserve(cohort)


def begin(selections: Sequence[Selection], certifier: Certifier, plan: RoundPlan) -> Cohort:
    """Return the cohort of a choice; what is not proven yet is on its way."""
    return Cohort(tuple(selections), certifier.begin(selections, epoch=plan.epoch.number))


def begin_again(
    before: Cohort,
    selections: Sequence[Selection],
    certifier: Certifier,
    plan: RoundPlan,
    *,
    seconds: float,
) -> Cohort:
    """Return the cohort of a second choice, made because news came; wait for its proofs.

    Args:
        before: The cohort of the first choice.
        selections: The second choice.
        certifier: Proves the chunks that changed.
        plan: The round's.
        seconds: How long to wait. The patients of a chunk whose proof is not there then are left
            out, and counted.
    """
    known = {selection.digest for selection in before.selections}
    changed = {one.chunk for one in selections if one.digest not in known}
    again = begin(selections, certifier, plan)
    late = certifier.late(again.certification, changed, seconds=seconds)
    return Cohort(
        tuple(one for one in selections if one.chunk not in late),
        again.certification.without(late),
        left_out=sum(len(one.patients) for one in selections if one.chunk in late),
    )
