"""What a researcher asks of a hospital, on one page that an officer can approve or refuse.

A ``JobManifest`` is the study's request in the officer's terms: which data, for what purpose, what
it costs each patient in epsilon, what is paid, which code would run. The server of the study signs
it, and its hash names the job: whatever is changed makes another job, which nobody has approved.

::

    JobOffer (signed, fresh) + JobManifest + StudyTerms ──▶ site ──▶ JobAnswer (signed, fresh)

What holds, each line a test in tests/protocol/test_jobs.py:

1. The hash covers every field but the signature.
2. A manifest with an unknown field, purpose, time or version is refused.
3. A signature over an offer, an answer or a manifest is none over another of them.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from protocol.canonical import Digest, Key32, Round, SignedMessage, SiteMessage, Slug, Study
from protocol.units import TOTAL_SUPPLY

DECLARATIVE: Final = "declarative"
"""The code of a job that carries none: the site runs its own, as the study's terms say."""
CODE_BLOB: Final = "code"
"""The blob of an offer that holds the job's code, where it carries any."""
INSTANT: Final = "%Y-%m-%dT%H:%M:%SZ"
DATASETS_MAX: Final = 16
PURPOSES_MAX: Final = 16
REASON_MAX: Final = 400
JobState = Literal["pending", "approved", "refused"]


def _instant(text: str) -> str:
    if datetime.strptime(text, INSTANT).replace(tzinfo=UTC).strftime(INSTANT) != text:
        raise ValueError("a time is written as 2026-11-21T12:00:00Z")
    return text


def _shown(text: str) -> str:
    if not text.isprintable():  # it is shown at the server, on a terminal perhaps
        raise ValueError("a reason holds characters that cannot be shown")
    return text


def _amount(value: object) -> object:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 30):
            raise ValueError("an amount is a decimal number of base units")
        return int(value)
    return value


Instant = Annotated[str, Field(max_length=20), AfterValidator(_instant)]
"""A UTC time in whole seconds."""
Amount = Annotated[
    int,
    BeforeValidator(_amount),
    Field(ge=0, le=TOTAL_SUPPLY),
    PlainSerializer(str, return_type=str, when_used="json"),
]
"""Base units of BTT; decimal text in JSON."""
PurposeCode = Annotated[str, Field(pattern=r"^DUO:[0-9]{7}$")]
Code = Annotated[str, Field(pattern=r"^(declarative|[0-9a-f]{64})$")]


def instant(moment: datetime) -> str:
    """Return a time as messages carry it.

    >>> instant(datetime(2026, 11, 21, 12, tzinfo=UTC))
    '2026-11-21T12:00:00Z'
    """
    return moment.astimezone(UTC).strftime(INSTANT)


def moment_of(text: str) -> datetime:
    """Return the time that an ``Instant`` says."""
    return datetime.strptime(text, INSTANT).replace(tzinfo=UTC)


class JobManifest(SignedMessage):
    """What a study asks of every hospital; signed with the server key that its terms name.

    ``terms`` is the digest of the study's terms and ``code`` the SHA-256 of the bundle the job
    carries, or ``declarative``. ``epsilon`` and ``delta`` are what the whole job may cost each
    ``unit``. ``price`` is what the researcher pays for it, to all hospitals together. Nobody can
    approve the job from ``expires`` on, and an approval ends then.
    """

    label = b"job"
    version: Literal[1] = 1
    study: Study
    terms: Digest
    code: Code = DECLARATIVE
    model: Slug
    algorithm: Slug
    datasets: Annotated[tuple[Slug, ...], Field(min_length=1, max_length=DATASETS_MAX)]
    purposes: Annotated[tuple[PurposeCode, ...], Field(min_length=1, max_length=PURPOSES_MAX)]
    rounds: Round
    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Annotated[float, Field(gt=0, lt=0.1)]
    unit: Literal["patient", "site"]
    price: Amount
    researcher: Annotated[str, Field(min_length=1, max_length=120)]
    researcher_key: Key32
    expires: Instant

    @property
    def hash(self) -> str:
        """The job's name: the SHA-256 of what is signed, in hexadecimal."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()

    @property
    def carries_code(self) -> bool:
        """Whether Python comes with the job."""
        return self.code != DECLARATIVE

    def expired(self, now: datetime) -> bool:
        """Say whether the job has ended at ``now``."""
        return now >= moment_of(self.expires)

    @model_validator(mode="after")
    def _sorted(self) -> JobManifest:
        for named in (self.datasets, self.purposes):
            if list(named) != sorted(set(named)):
                raise ValueError("data sets and purposes of a job are sorted and named once")
        return self


class JobOffer(SignedMessage):
    """The server's word that it offers this job now; ``nonce`` is answered."""

    label = b"job offer"
    job: Digest
    nonce: Digest
    at: Instant


class JobAnswer(SiteMessage):
    """How a job stands at a hospital. Who decided, and why it was approved, stays there."""

    label = b"job answer"
    job: Digest
    nonce: Digest
    state: JobState
    reason: Annotated[str, Field(max_length=REASON_MAX), AfterValidator(_shown)] = ""


class SignOff(SiteMessage):
    """A hospital's word that it left: it finished what was under way and answers no more."""

    label = b"sign off"
    at: Instant
