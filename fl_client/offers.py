"""Read the offer of a job as hostile: what an officer is shown must be what would run.

The manifest is a page of words; the agent obeys the study's terms. So each word of the one must be
what the other says, both must be the server's, and the terms must know this hospital by its keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from consent.purposes import purposes_in
from fl_client.job_code import check_code
from privacy.keys import SiteKeys
from privacy.signatures import check_signature
from privacy.statement import PrivacyStatement
from protocol.canonical import MalformedMessage, digest, read
from protocol.errors import FederationError
from protocol.frames import Frame
from protocol.ids import SiteId
from protocol.jobs import CODE_BLOB, DECLARATIVE, JobManifest, JobOffer
from protocol.terms import StudyTerms

PURPOSE_BITS: Final = 0xFFFF


class JobFalse(FederationError):
    """The manifest of a job does not say what its study would do."""

    code = "job-false"

    def __init__(self, field: str) -> None:
        self.field = field
        super().__init__(
            f"the job's {field} is not what the terms of its study say; ask whoever offered it for "
            "a manifest made from the terms"
        )


@dataclass(frozen=True)
class Offered:
    """What a checked offer holds."""

    offer: JobOffer
    manifest: JobManifest
    terms: StudyTerms
    bundle: bytes | None = None
    """The code that the manifest names, where it names any."""


def read_offer(request: Frame) -> Offered:
    """Return the offer in a frame, once it is whole and signed.

    Raises:
        MalformedMessage: A part is missing or is none, or a text would not be shown as it is.
        JobFalse: The manifest and the terms are not of each other.
        BadSignature: The server that the terms name signed no such offer or manifest.
        CodeUnreadable: The code is not the manifest's, or could not be shown as it would run.
    """
    offer = read(JobOffer, request.body.get("offer"))
    manifest = read(JobManifest, request.body.get("manifest"))
    terms = read(StudyTerms, request.body.get("terms"))
    for name, text in (("title", terms.title), ("researcher", manifest.researcher)):
        if not text.isprintable():  # such as what moves a terminal's cursor, or turns letters round
            raise MalformedMessage("job", f"its {name} holds characters that cannot be shown")
    check_manifest(manifest, terms)
    if offer.job != manifest.hash:
        raise JobFalse("hash")
    check_signature(
        terms.server_key, offer.signature, offer.signed_bytes(), what="offer", who="the server"
    )
    bundle = request.blobs.get(CODE_BLOB)
    check_code(manifest, bundle)
    return Offered(offer, manifest, terms, bundle)


def check_manifest(manifest: JobManifest, terms: StudyTerms) -> None:
    """Return if the manifest says what the terms say, and the terms' server signed it.

    Raises:
        JobFalse: A field says something else.
        BadSignature: It is not signed.
    """
    privacy = terms.privacy
    said = {
        "study": (manifest.study, terms.study),
        "terms": (manifest.terms, digest(terms)),
        "model": (manifest.model, terms.training.network),
        "algorithm": (manifest.algorithm, terms.training.algorithm),
        "data sets": (manifest.datasets, (terms.consent.dataset,)),
        "purposes": (manifest.purposes, purposes_of(terms)),
        "rounds": (manifest.rounds, terms.rounds),
        "epsilon": (manifest.epsilon, privacy.epsilon),
        "delta": (manifest.delta, privacy.delta),
        "unit": (manifest.unit, unit_of(terms)),
        "code": (manifest.code, code_of(terms)),
    }
    for field, (told, meant) in said.items():
        if told != meant:
            raise JobFalse(field)
    signed = manifest.signed_bytes()
    check_signature(terms.server_key, manifest.signature, signed, what="job", who="the server")


def check_addressed(terms: StudyTerms, site: SiteId, keys: SiteKeys) -> None:
    """Return if the terms name this hospital by its own keys.

    Raises:
        JobFalse: They do not: somebody else would answer in its name.
    """
    identity = terms.identity(site)
    known = (keys.signing_public, keys.agreement_public)
    if identity is None or (identity.signing_key, identity.agreement_key) != known:
        raise JobFalse("list of hospitals")


def purposes_of(terms: StudyTerms) -> tuple[str, ...]:
    """Return the purposes that the study's patients must have granted, as DUO codes, sorted."""
    return tuple(sorted(one.code for one in purposes_in(terms.consent.required & PURPOSE_BITS)))


def code_of(terms: StudyTerms) -> str:
    """Return the hash of the code that the terms would run, or that they run none."""
    features = terms.training.features
    return DECLARATIVE if features is None else features.bundle


def unit_of(terms: StudyTerms) -> Literal["patient", "site"]:
    """Return what the study's epsilon protects."""
    return "site" if terms.privacy.mechanism == "site-level" else "patient"


def asked_of(terms: StudyTerms) -> PrivacyStatement:
    """Return what the whole study may cost, with everything an epsilon means nothing without."""
    privacy = terms.privacy
    sampling = (
        "none" if privacy.sampling_rate == 1 else f"Poisson at rate {privacy.sampling_rate:g}"
    )
    if privacy.mechanism == "summed":
        sampling += ", noise summed over sites"
    return PrivacyStatement(
        privacy.epsilon, privacy.delta, unit_of(terms), sampling, privacy.accountant
    )
