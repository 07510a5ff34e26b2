"""Whom a round may use, and the proof that it may.

The choice comes first and decides everything after it: the loader opens the files of the chosen
patients only, and the certificates prove exactly that choice. A patient is chosen when her leaf is
live in the round's epoch, its opening is ours, its terms allow the study's purpose on all of its
days, and we hold records of her.

The server is not believed: a chunk's leaves must lead to the root that the registry signed.

A certificate serves as long as its chunk, scope and choice stay the same, so that after a
withdrawal one chunk is proved again and the others are found in the store.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from consent.openings import OpeningStore
from consent.registry import SignedEpoch, verify_epoch
from fl_client.store import SiteStore
from protocol.errors import ConsentError
from protocol.ids import PatientId, SiteId, number_of
from protocol.messages import (
    PROTOCOL_VERSION,
    ChunkState,
    CoverageCertificate,
    RoundPlan,
    StudyTerms,
)
from records.dataset import Patient, patient_digest
from zk.cover import CoverStatement, Scope, Slot, closed_slot, context_of
from zk.merkle import climb, root_of
from zk.poseidon import FIELD
from zk.prover import Prover


class LaneForged(ConsentError):
    """The leaves the server sent do not lead to the root that the registry signed."""

    code = "lane-forged"

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        super().__init__(
            f"the leaves of chunk {chunk} do not lead to the registry's signed root; do not train "
            "on them, and ask the registry for its log"
        )


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
) -> list[Selection]:
    """Choose the patients of a round.

    Args:
        terms: The study's, as approved by this site.
        site: This site.
        plan: The round's plan; its epoch is checked here.
        chunks: This site's lane as the server sent it; hostile.
        openings: What this hospital knows of its patients' grants.
        patients: The records this hospital holds, by its own patient number.

    Returns:
        One selection for each chunk in which at least one patient was chosen.

    Raises:
        LaneForged: A chunk's leaves do not lead to the signed root.
        ConsentError: The epoch is not signed by the registry the study names.
    """
    verify_epoch(
        SignedEpoch(
            registry=plan.epoch.registry,
            number=plan.epoch.number,
            root=plan.epoch.root,
            at=plan.epoch.at,
            signature=plan.epoch.signature,
        ),
        terms.consent.registry_key,
    )
    selections = []
    for state in chunks:
        if climb(root_of(state.leaves), state.chunk, state.siblings) != plan.epoch.root:
            raise LaneForged(state.chunk)
        selection = select_chunk(terms, site, state, openings, patients)
        if selection.patients:
            selections.append(selection)
    return selections


def select_chunk(
    terms: StudyTerms,
    site: SiteId,
    state: ChunkState,
    openings: OpeningStore,
    patients: Mapping[PatientId, Patient],
) -> Selection:
    """Choose the patients of one chunk, whose leaves the caller has checked."""
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
    for offset, leaf in enumerate(state.leaves):
        known = openings.opening_at(first + offset)
        patient = None if known is None else patients.get(known[0])
        slot = closed_slot(leaf)
        if known is not None and patient is not None and known[1].leaf() == leaf:
            opening = known[1]
            if opening.terms.allows(consent.required, consent.from_day, consent.through_day):
                slot = Slot(
                    leaf=leaf,
                    used=True,
                    subject=opening.subject,
                    salt=opening.salt,
                    grants=opening.terms.grants,
                    not_before=opening.terms.not_before,
                    expiry=opening.terms.expiry,
                    record=patient_digest(patient),
                )
                chosen.append(patient)
        slots.append(slot)
    return Selection(state.chunk, root_of(state.leaves), scope, tuple(slots), tuple(chosen))


@dataclass
class Certification:
    """Certificates on their way: those in the store at once, the others from the prover."""

    ready: dict[int, CoverageCertificate]
    proving: dict[int, tuple[Selection, Future[tuple[CoverStatement, bytes]]]]


class Certifier:
    """Proves selections, and remembers what it proved."""

    def __init__(self, terms: StudyTerms, store: SiteStore, prover: Prover) -> None:
        self._terms = terms
        self._store = store
        self._prover = prover

    def begin(self, selections: Sequence[Selection]) -> Certification:
        """Start proving what is not in the store; training may go on meanwhile."""
        ready: dict[int, CoverageCertificate] = {}
        proving: dict[int, tuple[Selection, Future[tuple[CoverStatement, bytes]]]] = {}
        for selection in selections:
            kept = self._store.certificate(self._terms.study, selection.chunk, selection.digest)
            if kept is not None:
                ready[selection.chunk] = kept
            else:
                future = self._prover.submit(
                    selection.slots, selection.scope, secrets.randbelow(FIELD)
                )
                proving[selection.chunk] = (selection, future)
        return Certification(ready, proving)

    def finish(self, certification: Certification) -> tuple[CoverageCertificate, ...]:
        """Wait for the proofs; return all certificates by chunk.

        Raises:
            ProofError: The prover refused or failed.
        """
        consent = self._terms.consent
        certificates = dict(certification.ready)
        for chunk, (selection, future) in certification.proving.items():
            statement, proof = future.result()
            certificate = CoverageCertificate(
                circuit=consent.circuit,
                chunk=chunk,
                key_hash=consent.key_hash,
                public_inputs=tuple(statement.public_inputs()),
                proof=proof,
            )
            self._store.keep_certificate(self._terms.study, selection.digest, certificate)
            certificates[chunk] = certificate
        return tuple(certificates[chunk] for chunk in sorted(certificates))
