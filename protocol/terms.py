"""What a study is: everything a hospital reads before it takes part, and what stays fixed after.

``StudyTerms`` names the hospitals, the model and its training, the differential privacy, the
consent that patients must have given, and how sums are encrypted and opened. Every call
and plan carries its digest, so no two parties go on under different terms.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from protocol.canonical import ROUNDS_MAX, Digest, Key32, Message, Round, Site, Slug, Study
from protocol.ids import SiteId

PROTOCOL_VERSION: Final = 1
SITES_MAX: Final = 64
SITES_MIN: Final = 3
"""With two sites each learns the other's update by subtracting its own from the sum."""


class SiteIdentity(Message):
    """A registered hospital: its public keys, raw 32 bytes each."""

    site: Site
    signing_key: Key32
    agreement_key: Key32


class PrivacyTerms(Message):
    """The differential privacy a study demands; unit of privacy: the patient, or else the site.

    ``epsilon`` and ``delta`` bound the whole study under add-or-remove-one-patient adjacency,
    ``sampling_rate`` is the probability with which each patient enters a step, and
    ``noise_multiplier`` the standard deviation of the noise over ``clipping_norm``. Whose noise it
    is says ``mechanism``: each site's own (``per-site``); together that of ``honest`` sites, the
    fewest in a sum whose noise nobody else knows, added as integers of which ``grid`` make a
    clipping norm (``summed``, one step a round); or each site's own, on its whole update, which
    hides sites (``site-level``).
    """

    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Annotated[float, Field(gt=0, lt=0.1)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)]
    clipping_norm: Annotated[float, Field(gt=0, le=1e6)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    accountant: Literal["rdp", "prv"]
    mechanism: Literal["per-site", "summed", "site-level"] = "per-site"
    honest: Annotated[int, Field(ge=1, le=SITES_MAX)] = 1
    grid: Annotated[int, Field(ge=1, le=2**20)] = 1

    @model_validator(mode="after")
    def _one_step(self) -> PrivacyTerms:
        if self.mechanism == "summed" and self.steps != 1:
            raise ValueError("a round of summed noise is one step")
        return self

    def gradients(self, proven_patients: int) -> int:
        """Return the per-patient gradients one round of ``proven_patients`` is paid for.

        It is the expectation steps x sampling rate x patients, rounded down: the sizes of the
        real Poisson batches are part of what the mechanism hides.
        """
        return math.floor(self.steps * self.sampling_rate * proven_patients)


Shape = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=1, max_length=4)
]


class FeatureTerms(Message):
    """A researcher's own step before training: code that makes one patient's features.

    ``bundle`` is the SHA-256 of the code, ``function`` its ``module:function``, and ``input_shape``
    what a hospital's loader gives of each record. What comes out has the ``input_shape`` of the
    training terms. The function gets ``seconds`` for each patient, and each takes as long: at most
    ``records_max`` records come of it.
    """

    bundle: Digest
    function: Annotated[
        str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,80}:[A-Za-z_][A-Za-z0-9_]{0,80}$")
    ]
    input_shape: Shape
    records_max: Annotated[int, Field(ge=1, le=64)] = 16
    seconds: Annotated[int, Field(ge=1, le=60)] = 2


class TrainingTerms(Message):
    """The model and how it is trained; learning rates are per step and per round.

    ``views`` is how many of a drawn patient's records are averaged into her one gradient. What
    ``algorithm`` does with the fields after it is in ``models/algorithms``: ``proximal`` is
    FedProx's mu or Ditto's lambda, ``adam_*`` are FedAdam's constants, ``personal_*`` are the steps
    of Ditto's personal model, which no one but its site sees. Without ``features`` the network sees
    what the hospital's loader gives, and the field is not written at all.
    """

    network: Slug
    input_shape: Annotated[tuple[int, ...], Field(min_length=1, max_length=4)]
    tensor_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    reference_patients: Annotated[int, Field(ge=1, le=10**6)]
    learning_rate: Annotated[float, Field(gt=0, le=1e4)]
    server_learning_rate: Annotated[float, Field(gt=0, le=1e4)]
    server_momentum: Annotated[float, Field(ge=0, lt=1)]
    augment: bool
    views: Annotated[int, Field(ge=1, le=64)] = 1
    algorithm: Literal["fedavg", "fedavgm", "fedadam", "fedprox", "scaffold", "fedbn", "ditto"] = (
        "fedavg"
    )
    proximal: Annotated[float, Field(ge=0, le=1e4)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    adam_tau: Annotated[float, Field(gt=0, le=1e4)] = 1e-3
    personal_steps: Annotated[int, Field(ge=1, le=100_000)] = 20
    personal_learning_rate: Annotated[float, Field(gt=0, le=1e4)] = 0.1
    features: FeatureTerms | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Terms from before there were features keep their bytes, and so their digests.
        fields: dict[str, Any] = written(self)
        if self.features is None:
            del fields["features"]
        return fields

    @property
    def parameters(self) -> int:
        """The number of parameters, over all tensors."""
        return sum(self.tensor_sizes)


CERTIFICATE_DAYS_MAX: Final = 31
"""A certificate covers at most a month, so that expiry dates are looked at again."""


class ConsentTerms(Message):
    """What a patient must have agreed to, and the registry and circuit that show it.

    Days count from 1970-01-01. ``key_hash`` names the verification key of ``circuit``.
    """

    registry: Slug
    registry_key: Key32
    dataset: Slug
    required: Annotated[int, Field(ge=1, lt=2**32)]
    from_day: Annotated[int, Field(ge=0, lt=2**16)]
    through_day: Annotated[int, Field(ge=0, lt=2**16)]
    circuit: Literal["cover8", "cover64"]
    key_hash: Digest

    @model_validator(mode="after")
    def _short(self) -> ConsentTerms:
        if not 0 <= self.through_day - self.from_day <= CERTIFICATE_DAYS_MAX:
            raise ValueError(f"a certificate covers at most {CERTIFICATE_DAYS_MAX} days")
        return self


class StudyTerms(Message):
    """Everything a hospital reads before it takes part; fixed for the whole study.

    ``opening`` says who can decrypt a sum: every hospital that holds the group key, or only a
    quorum of them together. A new group key is made after ``key_rounds`` rounds at the latest.
    """

    version: Literal[1] = PROTOCOL_VERSION
    study: Study
    title: Annotated[str, Field(max_length=200)]
    rounds: Round
    sites: Annotated[tuple[SiteIdentity, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
    server_key: Key32
    training: TrainingTerms
    privacy: PrivacyTerms
    consent: ConsentTerms
    encryption: Slug
    sites_min: Annotated[int, Field(ge=SITES_MIN, le=SITES_MAX)] = SITES_MIN
    opening: Literal["members", "threshold"] = "members"
    key_rounds: Annotated[int, Field(ge=1, le=ROUNDS_MAX)] = 10

    def identity(self, site: SiteId) -> SiteIdentity | None:
        """Return the registered identity of ``site``, or None where it does not take part."""
        return next((one for one in self.sites if one.site == site), None)

    @model_validator(mode="after")
    def _each_once(self) -> StudyTerms:
        # Who holds two keys of one study would count as two honest hospitals.
        for of_site in ("site", "signing_key", "agreement_key"):
            if len({getattr(one, of_site) for one in self.sites}) < len(self.sites):
                raise ValueError(f"two hospitals of a study share their {of_site}")
        if self.sites_min > len(self.sites):
            raise ValueError("a study needs no more hospitals than it names")
        return self
