"""Make a study's job, and let the officers of a demonstration decide on it.

The job is made from the study's terms, signed with its server's key, and lies in the server's
folder, from where the engine offers it. A demonstration has no officer at each hospital: it offers
the job at every door, the very frame that the engine sends, and decides there in an officer's name.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_client.job_code import JobCode
from fl_client.offers import check_addressed, code_of, purposes_of, read_offer, unit_of
from fl_server.offering import JOB_FILE, Offering, read_offering
from identity.roles import Actor, Role
from portal.home import Home
from portal.officer.desk import OfficerDesk
from portal.site_settings import site_keys
from privacy.signatures import signing_key
from protocol.canonical import canonical, digest, read
from protocol.frames import decode
from protocol.ids import SiteId
from protocol.jobs import JobManifest, instant
from protocol.terms import StudyTerms
from storage.files import write_whole

JOB_DAYS: Final = 30
"""As long as the study's consent certificates can last."""
RESEARCHER: Final = "researcher of the demonstration"
DEMONSTRATION: Final = "the demonstration's officer"


@dataclass(frozen=True)
class Asking:
    """Who asks for the job, and what it pays in base units of BTT."""

    researcher: str
    key: bytes
    price: int


def job_of(
    terms: StudyTerms, asking: Asking, sign: Callable[[bytes], bytes], *, now: datetime
) -> JobManifest:
    """Return the job of a study, which says what the terms say."""
    return JobManifest(
        study=terms.study,
        terms=digest(terms),
        code=code_of(terms),
        model=terms.training.network,
        algorithm=terms.training.algorithm,
        datasets=(terms.consent.dataset,),
        purposes=purposes_of(terms),
        rounds=terms.rounds,
        epsilon=terms.privacy.epsilon,
        delta=terms.privacy.delta,
        unit=unit_of(terms),
        price=asking.price,
        researcher=asking.researcher,
        researcher_key=asking.key,
        expires=instant(now + timedelta(days=JOB_DAYS)),
    ).signed_by(sign)


def keep_job(
    home: Home, terms: StudyTerms, *, price: int, now: datetime, researcher: str = RESEARCHER
) -> None:
    """Put the study's job into the server's folder, once."""
    path = home.server / JOB_FILE
    if path.is_file():
        return
    server: Ed25519PrivateKey = signing_key(home.server / "server.key")
    key = signing_key(home.market / "researcher.key").public_key().public_bytes_raw()
    asking = Asking(researcher, key, price)
    write_whole(path, canonical(job_of(terms, asking, server.sign, now=now)))


def price_of(home: Home) -> int | None:
    """Return what the study's job pays, in base units; None where there is no job yet.

    Raises:
        MalformedMessage: The file holds no job.
    """
    path = home.server / JOB_FILE
    return read(JobManifest, json.loads(path.read_bytes())).price if path.is_file() else None


def decide_for_demonstration(home: Home, terms: StudyTerms) -> None:
    """Offer the study's job at every hospital of a home and approve it there, once.

    Raises:
        JobOverBudget: A data steward's cap leaves less than the job asks.
    """
    server = signing_key(home.server / "server.key")
    offering = read_offering(home.server, terms, server.sign)
    assert offering is not None
    for identity in terms.sites:
        decide_at(home, identity.site, offering)


def decide_at(home: Home, site: SiteId, offering: Offering) -> None:
    """Approve the job at one hospital, and its code if it brings any, where nobody decided yet."""
    folder = home.site(site)
    offered = read_offer(decode(offering.frame(secrets.token_hex(32))))
    check_addressed(offered.terms, site, site_keys(folder))
    desk = OfficerDesk(folder, site)
    job = desk.book.keep(offered.manifest, offered.terms)
    if offered.bundle is not None:
        JobCode(folder / "site.db").keep(offered.bundle, named=[])
    if job.decision is None:
        officer = Actor(DEMONSTRATION, frozenset({Role.OFFICER}), site=site)
        if offered.bundle is not None and not desk.book.code_allowed():
            desk.book.allow_code(officer, reason="allowed for a demonstration")
        desk.approve(job.hash, officer, "approved for a demonstration on data made for it")
