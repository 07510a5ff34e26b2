"""What the parties say to one another in a round: calls, plans, contributions, receipts.

The messages of the secure sum are in ``protocol/summation.py``, what all are made of in
``protocol/canonical.py``, and what a study has agreed on in ``protocol/terms.py``.

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

from typing import Annotated, Literal

from pydantic import Field, model_validator

from protocol.canonical import (
    Count,
    Decimal,
    Digest,
    Element,
    GroupKeyId,
    Hex,
    Key32,
    Message,
    Round,
    Signature,
    SignedMessage,
    Site,
    SiteMessage,
    Slug,
    Study,
    canonical,
)
from protocol.ids import SiteId
from protocol.terms import SITES_MAX, SITES_MIN


class Join(SiteMessage):
    """A site's answer to the server's roll call; ``nonce`` makes it fresh."""

    label = b"join"
    terms: Digest
    nonce: Digest
    key_id: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]


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
