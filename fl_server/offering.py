"""Offer a study's job to the hospitals, and believe only what a hospital signed of it.

A hospital whose officer has not approved the job is not called: it waits, or it refused, and the
roll call says which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy.signatures import check_signature
from protocol.canonical import body, read
from protocol.errors import ConfigurationError, FederationError
from protocol.frames import Frame, encode
from protocol.jobs import CODE_BLOB, JobAnswer, JobManifest, JobOffer, instant
from protocol.terms import StudyTerms

JOB_FILE = "job.json"
CODE_FILE = "code.zip"
"""Beside it, where the job carries code."""


@dataclass(frozen=True)
class Offering:
    """One study's job, and the key that it is offered with."""

    job: JobManifest
    terms: StudyTerms
    sign: Callable[[bytes], bytes]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    bundle: bytes | None = None
    """The code that the job names, which every hospital checks and an officer reads."""

    def frame(self, nonce: str) -> bytes:
        """Return the offer: signed now, with the manifest and the terms that it names."""
        offer = JobOffer(job=self.job.hash, nonce=nonce, at=instant(self.clock()))
        return encode(
            "offer",
            {
                "offer": body(offer.signed_by(self.sign)),
                "manifest": body(self.job),
                "terms": body(self.terms),
            },
            {} if self.bundle is None else {CODE_BLOB: self.bundle},
        )

    def answer(self, reply: Frame, nonce: str) -> JobAnswer | None:
        """Return what a hospital of the study signed in answer to this offer, or None."""
        try:
            found = read(JobAnswer, reply.body)
            identity = self.terms.identity(found.site)
            if identity is None or (found.job, found.nonce) != (self.job.hash, nonce):
                return None
            check_signature(
                identity.signing_key,
                found.signature,
                found.signed_bytes(),
                what="answer to a job",
                who=found.site,
            )
        except FederationError:
            return None
        return found


class OfferedCodeChanged(ConfigurationError):
    """The code beside a study's job is not the code that the job names."""

    code = "offered-code-changed"

    def __init__(self, path: Path, wanted: str) -> None:
        self.path = path
        self.wanted = wanted
        super().__init__(
            f"{path} is not the code that the study was founded with (SHA-256 {wanted}), and no "
            "hospital would take it; put that bundle back, or found another study for another code"
        )


def read_offering(
    folder: Path, terms: StudyTerms, sign: Callable[[bytes], bytes]
) -> Offering | None:
    """Return what the server's folder offers, or None where it holds no job.

    Raises:
        OfferedCodeChanged: Its code was changed since, or is not there.
    """
    path = folder / JOB_FILE
    if not path.is_file():
        return None
    job = JobManifest.model_validate_json(path.read_bytes())
    bundle = read_code(folder, job.code) if job.carries_code else None
    return Offering(job, terms, sign, bundle=bundle)


def check_offering(folder: Path) -> None:
    """Return if the server's folder can offer what it holds.

    Raises:
        OfferedCodeChanged: The job's code was changed since, or is not there.
    """
    path = folder / JOB_FILE
    if path.is_file():
        job = JobManifest.model_validate_json(path.read_bytes())
        if job.carries_code:
            read_code(folder, job.code)


def read_code(folder: Path, sha256: str) -> bytes:
    """Return the code of a server's folder.

    Raises:
        OfferedCodeChanged: It is not there, or another one.
    """
    path = folder / CODE_FILE
    bundle = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(bundle).hexdigest() != sha256:
        raise OfferedCodeChanged(path, sha256)
    return bundle
