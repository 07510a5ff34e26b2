"""The grants of a demonstration's patients, on their hospital's word or each by her own proof.

On a hospital's word the hospital makes a leaf for every patient who agreed on paper. By proof each
patient does it herself (``portal.proven_grants``). Either way she keeps a paper, in ``patients/``:
the grant's id and the code that ends it, and in the second way her secrets too.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from consent.grant import new_opening
from consent.lanes import Lane, LanePolicy
from consent.openings import OpeningStore
from consent.purposes import category_mask, granted_mask
from consent.registry import Registry
from consent.terms import Terms
from portal.home import Home
from portal.patients import Decision, Wishes
from portal.proven_grants import Desks, Member, Paper, enrol, grant
from portal.semaphore_workers import SemaphoreWorkers, Tell
from protocol.ids import GrantId, PatientId, SiteId, number_of
from protocol.terms import StudyTerms
from protocol.units import day_number
from storage.files import PRIVATE, write_whole

STUDY_PURPOSE: Final = "HMB"
"""DUO:0000006, health, medical or biomedical research."""
OTHER_PURPOSE: Final = "POA"
"""DUO:0000011, population origins or ancestry research: what a narrow grant here allows."""
GRANT_DAYS: Final = 365
WORKERS: Final = 2
"""Processes that prove for a crowd, one core each."""


@dataclass(frozen=True)
class Crowd:
    """Who decided what, and how those who grant do it."""

    decisions: Mapping[SiteId, Mapping[PatientId, Decision]]
    modality: str
    """The category of data that all of them grant."""
    policy: LanePolicy
    seed: int | None
    """Fixes the order of proven grants, where a demonstration is to be reproducible."""
    today: date

    def granting(self, site: SiteId) -> list[PatientId]:
        """Return a site's patients who grant something."""
        decided = self.decisions[site]
        return [patient for patient in decided if decided[patient] != "refuses"]

    def terms(self, study: StudyTerms, site: SiteId, patient: PatientId) -> Terms:
        """Return what a patient agrees to."""
        wanted = self.decisions[site][patient] == "grants"
        first_day = day_number(self.today)
        return Terms(
            grants=granted_mask([STUDY_PURPOSE if wanted else OTHER_PURPOSE])
            | category_mask([self.modality]),
            site=number_of(site, bits=32),
            dataset=number_of(study.consent.dataset, bits=32),
            study=number_of(study.study, bits=64),
            not_before=first_day,
            expiry=first_day + GRANT_DAYS,
        )


def grant_all(
    home: Home, registry: Registry, terms: StudyTerms, crowd: Crowd, *, tell: Tell
) -> None:
    """Let everybody grant who wants to; every site's lane is open."""
    if crowd.policy is LanePolicy.PROVEN:
        _grant_by_proof(home, registry, terms, crowd, tell)
        return
    for lane in registry.lanes():
        _grant_on_word(home, registry, terms, crowd, lane)


def withdraw_due(home: Home, registry: Registry, wishes: Wishes, before_round: int) -> list[SiteId]:
    """Let every patient withdraw who wants to before ``before_round``; return their sites.

    A withdrawal handed in twice is withdrawn once.
    """
    due = [one for one in wishes.withdrawals if one.before_round == before_round]
    for one in due:
        paper = read_papers(home, one.site)[one.patient]
        registry.withdraw(
            GrantId(paper["grant"]), bytes.fromhex(paper["code"]), now=datetime.now(UTC)
        )
    return [one.site for one in due]


def read_papers(home: Home, site: SiteId) -> dict[PatientId, dict[str, str]]:
    """Return what each patient of a site keeps."""
    papers: dict[PatientId, dict[str, str]]
    papers = json.loads((home.patients / f"{site}.json").read_text())
    return papers


def _grant_on_word(
    home: Home, registry: Registry, terms: StudyTerms, crowd: Crowd, lane: Lane
) -> None:
    """Let a hospital grant for its patients: leaves to the registry, openings to its own book."""
    openings = OpeningStore(home.site(lane.site) / "openings.db")
    granted = []
    for patient in crowd.granting(lane.site):
        opening, code = new_opening(
            patient,
            openings.hospital_salt,
            crowd.terms(terms, lane.site, patient),
            entropy=secrets.token_bytes,
        )
        granted.append((patient, opening, code))
    receipts = registry.publish_many(
        lane,
        [(opening.leaf(), code.revoke_hash) for _, opening, code in granted],
        now=datetime.now(UTC),
    )
    openings.add_many(
        [
            (patient, opening, receipt)
            for (patient, opening, _), receipt in zip(granted, receipts, strict=True)
        ]
    )
    papers = {
        patient: {"grant": receipt.grant, "code": code.secret.hex()}
        for (patient, _, code), receipt in zip(granted, receipts, strict=True)
    }
    _keep_papers(home, lane.site, papers)


def _grant_by_proof(
    home: Home, registry: Registry, terms: StudyTerms, crowd: Crowd, tell: Tell
) -> None:
    """Let every patient enrol at her hospital and grant by her own proof, all in one epoch."""
    granting = {site: crowd.granting(site) for site in crowd.decisions}
    # An order drawn from a seed says who is where, as a seeded noise says what it hides.
    order = random.SystemRandom() if crowd.seed is None else random.Random(crowd.seed)  # noqa: S311 - see above
    desks = Desks.open(home, terms, registry)
    with SemaphoreWorkers(WORKERS) as workers:
        members = enrol(desks, granting, workers, tell=tell)
        wishes = [(one, crowd.terms(terms, one.site, one.person.patient)) for one in members]
        papers = grant(desks, wishes, workers, shuffle=order.shuffle, tell=tell)
    desks.close()
    for site in granting:
        of_site = (one for one in zip(members, papers, strict=True) if one[0].site == site)
        _keep_papers(home, site, _papers_of(of_site))


def _papers_of(kept: Iterable[tuple[Member, Paper]]) -> dict[PatientId, dict[str, str]]:
    return {
        member.person.patient: {
            "grant": paper.grant,
            "code": paper.code.secret.hex(),
            "secret": str(member.secret),
            "payout_secret": str(paper.payout_secret),
        }
        for member, paper in kept
    }


def _keep_papers(home: Home, site: SiteId, papers: Mapping[PatientId, Mapping[str, str]]) -> None:
    file = home.patients / f"{site}.json"
    write_whole(file, json.dumps(papers, indent=1).encode(), mode=PRIVATE)
