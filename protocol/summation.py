"""The messages of a secure sum: from a set of uploads to integers that nobody can take apart.

::

    Commitment (server)  ──▶ every site of the roster ──▶ Endorsement      one per round and site
    endorsements         ──▶ every site of the roster ──▶ Unmasking        tag; sealed reveals;
                                                          SurplusNoise     where noise is shared
    sum, unmaskings      ──▶ a quorum                 ──▶ Partial          opening by quorum only
    all of it            ──▶ the sites in the sum     ──▶ Opening          the integers' hash

The protocol, what it hides from whom, and why the order matters: ``fl_client/summation.py``.
A group key's messages are here too: ``DealtKey`` where members open, ``KeyCommitment`` and
``KeyPart`` where a quorum does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from protocol.canonical import (
    Count,
    Digest,
    GroupKeyId,
    Key32,
    Message,
    Round,
    SignedMessage,
    Site,
    SiteMessage,
    Study,
)
from protocol.ids import SiteId
from protocol.messages import Receipt
from protocol.terms import SITES_MAX, SITES_MIN

EPOCHS_MAX = 10**6
Sites = Annotated[tuple[Site, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
KeyEpoch = Annotated[int, Field(ge=1, le=EPOCHS_MAX)]
Residue = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")]


class Commitment(SignedMessage):
    """The one set of uploads that a round adds up, and its sum, fixed before anything is shown.

    ``uploads_root`` is the Merkle root over the receipts' sites and ciphertext hashes, sorted by
    site, and ``sum_sha256`` the hash of the encrypted sum.
    """

    label = b"commitment"
    study: Study
    round: Round
    plan: Digest
    key_id: GroupKeyId
    length: Annotated[int, Field(ge=1, le=10**9)]
    uploads_root: Digest
    sum_sha256: Digest
    receipts: Annotated[tuple[Receipt, ...], Field(min_length=1, max_length=SITES_MAX)]

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """The sites whose uploads are in the sum."""
        return tuple(receipt.site for receipt in self.receipts)

    @property
    def weight(self) -> int:
        """The proven patients of all sites in the sum."""
        return sum(receipt.proven_patients for receipt in self.receipts)

    @model_validator(mode="after")
    def _sorted(self) -> Commitment:
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("the receipts of a commitment are sorted and name a site once")
        return self


class Endorsement(SiteMessage):
    """A site's word that it knows no other commitment for this round, and never will.

    ``nonce`` is 32 random bytes: the challenge of the tags depends on every endorser's.
    """

    label = b"endorsement"
    commitment: Digest
    nonce: Digest


class Unmasking(SiteMessage):
    """A site's tag of its own upload, one residue per prime; its sealed reveals ride beside it.

    ``tag`` is empty where the site's upload is not in the sum.
    """

    label = b"unmasking"
    commitment: Digest
    challenge: Digest
    tag: Annotated[tuple[Residue, ...], Field(max_length=8)]


class SurplusNoise(SiteMessage):
    """The seeds of noise that the received set can spare, where sites share the noise of a sum.

    It rides beside the site's ``Unmasking``, in the clear: what is left without it is private.
    """

    label = b"surplus noise"
    commitment: Digest
    seeds: Annotated[tuple[Key32, ...], Field(max_length=SITES_MAX)]


class Fault(Message):
    """A site's signed tag that is not the tag of the upload it signed, kept for an auditor.

    ``word`` is the claim with its signature; ``evidence`` the tag that the upload gives.
    """

    what: Literal["tag-false"]
    word: Unmasking
    evidence: Annotated[dict[str, Annotated[str, Field(max_length=400)]], Field(max_length=8)]

    @property
    def site(self) -> SiteId:
        """Whose word it is."""
        return self.word.site


class Partial(SiteMessage):
    """A site's share of a decryption by quorum; the share rides beside it as a blob."""

    label = b"partial"
    commitment: Digest
    quorum: Sites
    share_sha256: Digest


class Opening(SiteMessage):
    """A site's signed statement of what it opened; the sums ride beside it as a blob."""

    label = b"opening"
    commitment: Digest
    integers_sha256: Digest
    weight: Count


class DealtKey(SignedMessage):
    """A group key as its dealer announces it: sealed once, its wrapping key sealed to each site.

    ``threshold`` sites together recover the wrapping key from their shares of it.
    """

    label = b"dealt key"
    study: Study
    epoch: KeyEpoch
    dealer: Site
    sites: Sites
    threshold: Annotated[int, Field(ge=2, le=SITES_MAX)]
    key_id: GroupKeyId
    sealed_sha256: Digest


class KeyCommitment(SiteMessage):
    """A site's commitment to its part of a collective key, made before it sees another's part."""

    label = b"key commitment"
    study: Study
    epoch: KeyEpoch
    sites: Sites
    public_sha256: Digest


class KeyPart(SiteMessage):
    """A site's part of a collective key: the public polynomial and sealed shares ride beside."""

    label = b"key part"
    study: Study
    epoch: KeyEpoch
    commitments: Digest


class KeyRequest(Message):
    """The server's call for a new group key of these sites."""

    terms: Digest
    study: Study
    epoch: KeyEpoch
    sites: Sites


class ShareRequest(Message):
    """The server's call for a share of a wrapping key, on behalf of the recipient."""

    key_id: GroupKeyId
    recipient: Site
