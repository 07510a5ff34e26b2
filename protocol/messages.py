"""What the parties say to one another: study terms, round plans, contributions, receipts.

Every message is a frozen pydantic model: parsing is validation, an unknown field is refused, and
``canonical(message)`` gives the one byte string that is hashed and signed. Byte strings travel as
hexadecimal, field elements as decimal strings (JSON numbers of other languages end at 2**53), and
real numbers that are signed as decimal text.

The order of a round::

    RoundCall ──▶ site ──▶ RoundKey (signed) ─┐
    RoundPlan with the roster ──▶ site ──▶ Contribution (signed) ──▶ gate ──▶ the secure sum
                                                      │              (protocol/summation.py)
                                                      └── Refusal                │
                                                                 Receipt (countersigned)
                                                                                 │
                                                                   RoundClosed ──▶ market
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from protocol.errors import FederationError
from protocol.ids import SLUG, KeyId, SiteId, StudyId

PROTOCOL_VERSION: Final = 1
SITES_MAX: Final = 64
ROUNDS_MAX: Final = 10_000
SITES_MIN: Final = 3
"""With two sites each learns the other's update by subtracting its own from the sum."""

BN254_SCALARS: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the group whose exponents statements are made of (EIP-197)."""


class MalformedMessage(FederationError):
    """A message's fields are missing, of another type or out of range."""

    code = "malformed-message"

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        super().__init__(f"a {what} that was received cannot be used: {why}")


def _slug(text: str) -> str:
    if not SLUG.fullmatch(text):
        raise ValueError("an id is 1 to 40 lower-case letters, digits and inner dashes")
    return text


def _element(value: object) -> object:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 78):
            raise ValueError("a field element is a decimal number")
        return int(value)
    return value


Hex = Annotated[
    bytes,
    BeforeValidator(lambda value: bytes.fromhex(value) if isinstance(value, str) else value),
    PlainSerializer(lambda value: value.hex(), return_type=str, when_used="json"),
]
Key32 = Annotated[Hex, Field(min_length=32, max_length=32)]
Signature = Annotated[Hex, Field(max_length=64)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, AfterValidator(_slug)]
Site = Annotated[SiteId, AfterValidator(lambda value: SiteId(_slug(value)))]
Study = Annotated[StudyId, AfterValidator(lambda value: StudyId(_slug(value)))]
Element = Annotated[
    int,
    BeforeValidator(_element),
    Field(ge=0, lt=BN254_SCALARS),
    PlainSerializer(str, return_type=str, when_used="json"),
]
Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
GroupKeyId = Annotated[KeyId, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=2**40)]
Round = Annotated[int, Field(ge=1, le=ROUNDS_MAX)]


class Message(BaseModel):
    """Base of all messages: frozen, and closed to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyMessage = TypeVar("AnyMessage", bound=Message)


def canonical(message: Message, *, without: frozenset[str] = frozenset()) -> bytes:
    """Return the bytes of ``message`` that are hashed and signed: sorted, compact JSON."""
    body = message.model_dump(mode="json", exclude=set(without))
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(message: Message) -> str:
    """Return the SHA-256 of the canonical bytes, in hexadecimal."""
    return hashlib.sha256(canonical(message)).hexdigest()


def body(message: Message) -> dict[str, Any]:
    """Return the JSON object that carries ``message`` in a frame."""
    return message.model_dump(mode="json")


def read(kind: type[AnyMessage], received: object) -> AnyMessage:
    """Parse a received JSON object as ``kind``.

    Raises:
        MalformedMessage: It is not one; the message names the first field that is wrong.
    """
    try:
        return kind.model_validate(received)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise MalformedMessage(kind.__name__, f"{where}: {first['msg']}") from error


class SignedMessage(Message):
    """A message under one signature; ``label`` keeps kinds of messages apart."""

    label: ClassVar[bytes]
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what is signed: the label, and everything but the signature."""
        return b"bithive " + self.label + b"\n" + canonical(self, without=frozenset({"signature"}))

    def signed_by(self, sign: Callable[[bytes], bytes]) -> Self:
        """Return this message with ``sign``'s signature."""
        return self.model_copy(update={"signature": sign(self.signed_bytes())})


class SiteMessage(SignedMessage):
    """A message that a site signs."""

    site: Site


class Join(SiteMessage):
    """A site's answer to the server's roll call; ``nonce`` makes it fresh."""

    label = b"join"
    terms: Digest
    nonce: Digest
    key_id: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]


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


class Epoch(Message):
    """The consent registry's signed state: the root that proofs of this round refer to."""

    registry: Slug
    number: Annotated[int, Field(ge=0)]
    root: Element
    at: Annotated[str, Field(max_length=40)]
    signature: Signature


class ChunkState(Message):
    """One chunk of a site's lane: its leaves, and the siblings from its node to the root."""

    chunk: Annotated[int, Field(ge=0, lt=2**20)]
    leaves: Annotated[tuple[Element, ...], Field(min_length=1, max_length=64)]
    siblings: Annotated[tuple[Element, ...], Field(max_length=32)]


class RoundCall(SignedMessage):
    """The server's signed call for round keys; masks are agreed between ``sites`` alone.

    ``previous`` is the digest of the last round's manifest, zeros for the first.
    """

    label = b"round call"
    study: Study
    terms: Digest
    round: Round
    sites: Annotated[tuple[Site, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
    previous: Digest

    @model_validator(mode="after")
    def _sorted(self) -> RoundCall:
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("the sites of a call are sorted and named once")
        return self


class RoundKey(SiteMessage):
    """A site's signed answer to a call: what the others need to know of its round secrets.

    ``public_key`` is X25519's and ``seed_sha256`` commits to its self seed. Shares of both ride
    beside it, sealed to each other site of the call by ``sealing_key``, whose private half is
    forgotten at once; ``envelopes`` are their SHA-256 in the order of the call.
    """

    label = b"round key"
    study: Study
    round: Round
    call: Digest
    public_key: Key32
    seed_sha256: Digest
    sealing_key: Key32
    envelopes: Annotated[tuple[Digest, ...], Field(min_length=SITES_MIN - 1, max_length=SITES_MAX)]


class RoundPlan(SignedMessage):
    """The server's signed plan of one round; the model rides beside it as a blob.

    ``steps`` are the public quantisation step sizes, one per tensor of the model. ``roster`` are
    the round keys of the sites whose masks cancel, sorted by site. ``previous`` is the digest of
    the last round's manifest, zeros for the first.
    """

    label = b"round plan"
    study: Study
    terms: Digest
    round: Round
    model: Digest
    key_id: GroupKeyId
    steps: Annotated[tuple[float, ...], Field(min_length=1, max_length=10_000)]
    epoch: Epoch
    call: Digest
    roster: Annotated[tuple[RoundKey, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
    previous: Digest

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """The sites of the roster, in its order."""
        return tuple(key.site for key in self.roster)

    @model_validator(mode="after")
    def _sorted(self) -> RoundPlan:
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("the roster of a plan is sorted and names a site once")
        return self


class Manifest(SignedMessage):
    """What became of a round, signed by the server; each names the one before it.

    ``commitment`` and ``integers_sha256`` are zeros where the round closed without an update, and
    ``model_sha256`` is the model after it.
    """

    label = b"manifest"
    study: Study
    round: Round
    plan: Digest
    commitment: Digest
    integers_sha256: Digest
    model_sha256: Digest
    previous: Digest


class TrainRequest(Message):
    """A plan, the lane of the site it is sent to, and the manifest the plan goes on from.

    ``wait_seconds`` is how long the server waits for uploads of the round at most, 0 where it does
    not say: a site that wants to stop does not wait for the round's sum for ever.
    """

    plan: RoundPlan
    manifest: Manifest | None = None
    chunks: Annotated[tuple[ChunkState, ...], Field(max_length=4096)]
    wait_seconds: Annotated[int, Field(ge=0, le=2**32)] = 0


class CoverageCertificate(Message):
    """A proof that the patients counted in one chunk have live consent (see zk/cover.py)."""

    circuit: Literal["cover8", "cover64"]
    chunk: Annotated[int, Field(ge=0, lt=2**20)]
    key_hash: Digest
    public_inputs: Annotated[tuple[Element, ...], Field(min_length=10, max_length=10)]
    proof: Annotated[Hex, Field(min_length=256, max_length=256)]


class Receipt(Message):
    """One site's contribution to one round: signed by the site, then by the server.

    It binds consent, privacy and the ciphertext to the payment. ``gradients`` is the number of
    per-patient clipped gradients that entered the update, see ``PrivacyTerms.gradients``.
    """

    study: Study
    round: Round
    site: Site
    ciphertext_sha256: Digest
    consent_root: Element
    certificates: Annotated[tuple[Digest, ...], Field(max_length=4096)]
    proven_patients: Count
    gradients: Count
    epsilon_spent: Decimal
    delta: Decimal
    clipping_norm: Decimal
    model_sha256: Digest
    site_key: Key32
    site_signature: Signature = b""
    server_signature: Signature = b""

    def site_bytes(self) -> bytes:
        """Return what the site signs: everything but the signatures."""
        unsigned = frozenset({"site_signature", "server_signature"})
        return b"bithive contribution\n" + canonical(self, without=unsigned)

    def server_bytes(self) -> bytes:
        """Return what the server countersigns: the contribution and the site's signature."""
        return b"bithive receipt\n" + canonical(self, without=frozenset({"server_signature"}))


class Contribution(Message):
    """A site's answer to a plan; the ciphertext rides beside it as a blob."""

    receipt: Receipt
    encryption: Slug
    key_id: GroupKeyId
    length: Annotated[int, Field(ge=1, le=10**9)]
    certificates: Annotated[tuple[CoverageCertificate, ...], Field(max_length=4096)]


class Refusal(Message):
    """Why a site's update did not count."""

    site: Site
    round: Round
    code: Annotated[str, Field(max_length=60)]
    reason: Annotated[str, Field(max_length=1000)]


class RoundClosed(Message):
    """What the server announces when a round is over; the market settles it."""

    study: Study
    round: Round
    server_key: Key32
    model_sha256: Digest
    manifest: Digest
    receipts: Annotated[tuple[Receipt, ...], Field(max_length=SITES_MAX)]
    refused: Annotated[tuple[Refusal, ...], Field(max_length=SITES_MAX)] = ()
