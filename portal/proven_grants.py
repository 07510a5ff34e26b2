"""A crowd of patients who enrol and grant by proof, each doing here what the page does for her.

The parts are those of production: a steward invites a person and signs for her commitment, the
opening of her leaf goes sealed to her hospital, the registry checks her proof. Two things are of a
crowd: the proofs are made in worker processes, and all grants appear in one epoch and in an order
of their own, as ``consent.batching`` publishes those of an interval.

What holds (tests/portal/test_proven_grants.py, test_consent_whole.py):

1. Every grant of a crowd is proven by its own person, and her hospital holds what opens it.
2. Nothing of the server's tells which person a grant is of.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from consent.enrolment import EnrolmentGroup
from consent.grant import Opening, WithdrawalCode, opening_of
from consent.grants_by_proof import grant_message, grant_scope
from consent.lanes import Lane
from consent.proofing import Proofing
from consent.publication import ProvenGrant
from consent.receipts import GrantReceipt
from consent.registry import Registry
from consent.terms import Terms
from portal.home import Home
from portal.patient.mailbox import Mailbox, Request
from portal.patient.sealing import (
    Person,
    invitation_keys,
    open_person,
    opening_context,
    request_mac,
    seal,
)
from portal.patient.steward import Steward
from portal.semaphore_workers import Saying, SemaphoreWorkers, Tell, new_secret
from protocol.ids import GrantId, PatientId, SiteId
from protocol.terms import StudyTerms
from zk import fast

Shuffle = Callable[[MutableSequence[Any]], None]
"""Puts a list into an order that says nothing: ``random.SystemRandom().shuffle``."""


@dataclass(frozen=True)
class Member:
    """A patient who is enrolled, with the secret that she keeps."""

    site: SiteId
    person: Person
    secret: int = field(repr=False)


@dataclass(frozen=True)
class Paper:
    """What a patient keeps of a grant: what ends it, and what claims her share for it."""

    grant: GrantId
    code: WithdrawalCode
    payout_secret: int = field(repr=False)


@dataclass(frozen=True)
class _Wish:
    """A grant before it is published."""

    member: Member
    lane: Lane
    opening: Opening = field(repr=False)
    code: WithdrawalCode
    payout_id: int

    @property
    def leaf(self) -> int:
        return self.opening.leaf()

    def message(self, registry: str) -> int:
        """Return what her proof says."""
        parts = (self.leaf, self.lane, self.payout_id, self.code.revoke_hash)
        return grant_message(registry, *parts)

    def sealed(self, registry: str, agreement_key: bytes) -> bytes:
        """Return the opening for her hospital alone."""
        body = {
            "patient": self.member.person.patient,
            "subject": str(self.opening.subject),
            "salt": str(self.opening.salt),
            "terms": str(self.opening.terms.packed()),
            "randomness": str(self.opening.randomness),
        }
        context = opening_context(registry, self.lane.first_chunk, self.leaf)
        return seal(json.dumps(body).encode(), agreement_key, context=context)


@dataclass(frozen=True)
class Desks:
    """Whom the patients of a study speak to."""

    terms: StudyTerms
    registry: Registry
    group: EnrolmentGroup
    mailbox: Mailbox
    stewards: Mapping[SiteId, Steward]

    @classmethod
    def open(cls, home: Home, terms: StudyTerms, registry: Registry) -> Self:
        """Open the desks of a home's study, over its registry.

        Raises:
            StorageError: A database cannot be used.
        """
        keys = {one.site: one.signing_key for one in terms.sites}
        group = EnrolmentGroup(home.server / "enrolment.db", keys)
        mailbox = Mailbox(home.server / "mailbox.db")
        stewards = {
            site: Steward(
                home.site(site),
                site,
                terms=terms,
                mailbox=mailbox,
                group=group,
                entropy=secrets.token_bytes,
            )
            for site in keys
        }
        return cls(terms, registry, group, mailbox, stewards)

    def close(self) -> None:
        """Close all but the registry."""
        for steward in self.stewards.values():
            steward.close()
        self.mailbox.close()
        self.group.close()


def enrol(
    desks: Desks,
    patients: Mapping[SiteId, Sequence[PatientId]],
    workers: SemaphoreWorkers,
    *,
    tell: Tell,
) -> list[Member]:
    """Let every patient make an identity and be signed for by her hospital's steward."""
    known = [(site, patient) for site, of_site in patients.items() for patient in of_site]
    own = [new_secret() for _ in known]
    members = []
    for (site, patient), secret, commitment in zip(
        known, own, workers.commitments(own), strict=True
    ):
        person = _enrol(desks, site, patient, commitment)
        members.append(Member(site, person, secret))
        tell("enrolling", len(members), len(known))
    return members


def grant(
    desks: Desks,
    wishes: Sequence[tuple[Member, Terms]],
    workers: SemaphoreWorkers,
    *,
    shuffle: Shuffle,
    tell: Tell,
) -> list[Paper]:
    """Let every member grant her terms by a proof, all in one epoch.

    Returns:
        What each of them keeps, in the order of ``wishes``.

    Raises:
        LaneUnknown, LaneFull, LeafUnusable: See ``Registry.publish_proven_many``.
        OpeningForeign: Terms are for another hospital, data set or study.
        StorageError: The disk refused.
    """
    registry, study = desks.registry.id, desks.terms.study
    payout_secrets = [new_secret() for _ in wishes]
    payout_ids = workers.commitments(payout_secrets)
    lanes = {lane.site: lane for lane in desks.registry.lanes() if lane.study == study}
    made = [
        _wish(*one, lanes[one[0].site], payout_id)
        for one, payout_id in zip(wishes, payout_ids, strict=True)
    ]
    proofs = workers.prove(
        desks.group.members(now=_now()),
        [Saying(one.member.secret, grant_scope(study), one.message(registry)) for one in made],
        tell=tell,
    )
    sent = [
        (one, ProvenGrant(one.leaf, one.code.revoke_hash, one.payout_id, proof))
        for one, proof in zip(made, proofs, strict=True)
    ]
    shuffle(sent)
    receipts = _publish(desks, sent)
    for steward in desks.stewards.values():
        for refusal in steward.fetch().refused:
            raise refusal
    return [
        Paper(receipts[one.leaf].grant, one.code, payout_secret)
        for one, payout_secret in zip(made, payout_secrets, strict=True)
    ]


def _enrol(desks: Desks, site: SiteId, patient: PatientId, commitment: int) -> Person:
    """Let a person be identified, enter her code, and be enrolled."""
    steward, now = desks.stewards[site], _now()
    code = steward.invite(patient, Proofing.IN_PERSON, now=now)
    keys = invitation_keys(code)
    _, envelope = desks.mailbox.envelope(keys.lookup)
    mac = request_mac(keys, site, commitment)
    desks.mailbox.request(Request(keys.lookup, commitment, mac), now=now)
    steward.enrol(code, commitment, now=now)
    return open_person(envelope, keys, site)


def _wish(member: Member, terms: Terms, lane: Lane, payout_id: int) -> _Wish:
    person = member.person
    made = opening_of(person.patient, person.subject, terms, entropy=secrets.token_bytes)
    return _Wish(member, lane, *made, payout_id)


def _publish(desks: Desks, sent: Sequence[tuple[_Wish, ProvenGrant]]) -> dict[int, GrantReceipt]:
    """Publish grants as the patient's server does, openings first; return receipts by leaf."""
    agreement = {one.site: one.agreement_key for one in desks.terms.sites}
    boxes = []
    for one, _ in sent:
        sealed = one.sealed(desks.registry.id, agreement[one.lane.site])
        kept = desks.mailbox.keep(one.lane.site, one.lane.first_chunk, one.leaf, sealed)
        boxes.append(kept)
    receipts = desks.registry.publish_proven_many(
        [(one.lane, proven) for one, proven in sent],
        group=desks.group,
        now=_now(),
        verifier=fast.verify,
    )
    for box, receipt in zip(boxes, receipts, strict=True):
        desks.mailbox.published(box, receipt)
    return {receipt.leaf: receipt for receipt in receipts}


def _now() -> datetime:
    return datetime.now(UTC)
