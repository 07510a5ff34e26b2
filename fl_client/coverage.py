"""Whom a round may use: the choice that decides everything after it.

The choice comes first. The loader opens the files of the chosen patients only, and certificates
(``fl_client.certifier``) prove exactly that choice. A patient is chosen when her leaf is live in
the round's epoch and in every newer one this hospital has seen, its opening is ours, its terms are
of this study and data set and allow the purpose on all of its days, and we hold records of her.

The server is not believed: a chunk's leaves must lead to the root that the registry signed
(``fl_client.lane``).

What holds (tests/fl_client/test_cohort.py):

1. A patient is chosen once, however many live leaves she has; noise hides one gradient of hers a
   step.
2. Nobody is chosen for what she granted to another study or of another data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from consent.grant import Opening
from consent.openings import OpeningStore
from fl_client.lane import LaneState, check_lane
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId, number_of
from protocol.messages import ChunkState, RoundPlan
from protocol.terms import PROTOCOL_VERSION, StudyTerms
from records.dataset import Patient, patient_digest
from zk.cover import Scope, Slot, closed_slot, context_of
from zk.merkle import root_of

NOBODY: frozenset[int] = frozenset()


class CohortTooSmall(ConsentError):
    """So few patients consent that a round would be about them rather than about many."""

    code = "cohort-too-small"

    def __init__(self, found: int, needed: int) -> None:
        self.found = found
        super().__init__(
            f"{found} patients with records consent to this study and this site asks for at least "
            f"{needed}; wait for more grants or lower the site's minimum"
        )


@dataclass(frozen=True)
class Selection:
    """The chosen patients of one chunk, in slot order, and what the circuit needs of each slot."""

    chunk: int
    root: int
    scope: Scope
    slots: tuple[Slot, ...]
    patients: tuple[Patient, ...]

    @property
    def digest(self) -> str:
        """Names this choice under this root; the key under which its certificate is kept."""
        used = [(index, slot.record) for index, slot in enumerate(self.slots) if slot.used]
        return hashlib.sha256(repr((self.root, self.scope, used)).encode()).hexdigest()


def select(
    terms: StudyTerms,
    site: SiteId,
    plan: RoundPlan,
    chunks: Sequence[ChunkState],
    *,
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
    gone: Collection[int] = NOBODY,
) -> list[Selection]:
    """Choose the patients of a round.

    Args:
        terms: The study's, as approved by this site.
        site: This site.
        plan: The round's plan; its epoch is checked here.
        chunks: This site's lane as the server sent it; hostile.
        openings: What this hospital knows of its patients' grants.
        patients: The records this hospital holds, by its own patient number.
        gone: Places whose leaf a newer epoch no longer has; their patients are left out.

    Returns:
        One selection for each chunk in which at least one patient was chosen.

    Raises:
        LaneForged: A chunk's leaves do not lead to the signed root.
        ConsentError: The epoch is not signed by the registry the study names.
    """
    check_lane(terms, LaneState(plan.epoch, tuple(chunks)))
    return select_checked(terms, site, chunks, openings=openings, patients=patients, gone=gone)


def select_checked(
    terms: StudyTerms,
    site: SiteId,
    chunks: Sequence[ChunkState],
    *,
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
    gone: Collection[int] = NOBODY,
) -> list[Selection]:
    """Choose as ``select`` does, from chunks whose leaves the caller has checked."""
    taken: set[PatientId] = set()
    selections = (
        select_chunk(terms, site, one, openings, patients, gone=gone, taken=taken) for one in chunks
    )
    return [selection for selection in selections if selection.patients]


def select_chunk(
    terms: StudyTerms,
    site: SiteId,
    state: ChunkState,
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
    *,
    gone: Collection[int] = NOBODY,
    taken: set[PatientId] | None = None,
) -> Selection:
    """Choose the patients of one chunk, whose leaves the caller has checked.

    Who is ``taken`` is not chosen again; who is chosen is added to it.
    """
    taken = set() if taken is None else taken
    consent = terms.consent
    scope = Scope(
        study=number_of(terms.study, bits=64),
        site=number_of(site, bits=32),
        dataset=number_of(consent.dataset, bits=32),
        required=consent.required,
        from_day=consent.from_day,
        through_day=consent.through_day,
        context=context_of(PROTOCOL_VERSION, consent.registry, consent.key_hash, state.chunk),
    )
    first = state.chunk * len(state.leaves)
    slots: list[Slot] = []
    chosen: list[Patient] = []
    for place, leaf in enumerate(state.leaves, start=first):
        found = usable(terms, place, leaf, openings, patients)
        if found is None or place in gone or found[0].id in taken:
            slots.append(closed_slot(leaf))
            continue
        patient, opening = found
        taken.add(patient.id)
        chosen.append(patient)
        slots.append(
            Slot(
                leaf=leaf,
                used=True,
                subject=opening.subject,
                salt=opening.salt,
                grants=opening.terms.grants,
                not_before=opening.terms.not_before,
                expiry=opening.terms.expiry,
                record=patient_digest(patient),
            )
        )
    return Selection(state.chunk, root_of(state.leaves), scope, tuple(slots), tuple(chosen))


def usable(
    terms: StudyTerms,
    place: int,
    leaf: int,
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
) -> tuple[Patient, Opening] | None:
    """Return whose live leaf this is and what opens it, where her terms allow the study."""
    known = openings.opening_at(place) if leaf else None
    patient = None if known is None else patients.get(known[0])
    if known is None or patient is None:
        return None
    opening, consent = known[1], terms.consent
    # The server chooses the chunks; one of another study's lane is as much the registry's as ours.
    granted = (opening.terms.study, opening.terms.dataset)
    ours = granted == (number_of(terms.study, bits=64), number_of(consent.dataset, bits=32))
    allowed = opening.terms.allows(consent.required, consent.from_day, consent.through_day)
    return (patient, opening) if ours and allowed and opening.leaf() == leaf else None


def left_out(
    terms: StudyTerms,
    chunks: Sequence[ChunkState],
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
    *,
    gone: Collection[int],
) -> int:
    """Return how many patients would have been chosen if their leaf were not gone."""
    leaves = {
        state.chunk * len(state.leaves) + offset: leaf
        for state in chunks
        for offset, leaf in enumerate(state.leaves)
    }
    return sum(
        usable(terms, place, leaves[place], openings, patients) is not None for place in gone
    )
