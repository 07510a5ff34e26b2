"""The messages of a secure sum: from a set of uploads to integers that nobody can take apart.

::

    Commitment (server)  ──▶ every site of the roster ──▶ Endorsement      one per round and site
    endorsements         ──▶ every site of the roster ──▶ Unmasking        tag; sealed reveals
    sum, unmaskings      ──▶ a quorum                 ──▶ Partial          opening by quorum only
    all of it            ──▶ the sites in the sum     ──▶ Opening          the integers' hash

The protocol, what it hides from whom, and why the order matters: ``fl_client/summation.py``.
A group key's messages are here too: ``DealtKey`` where members open, ``KeyCommitment`` and
``KeyPart`` where a quorum does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from protocol.ids import SiteId
from protocol.messages import (
    SITES_MAX,
    SITES_MIN,
    Count,
    Digest,
    GroupKeyId,
    Message,
    Receipt,
    Round,
    Signature,
    Site,
    Study,
    canonical,
)

UNSIGNED = frozenset({"signature"})
EPOCHS_MAX = 10**6
Sites = Annotated[tuple[Site, ...], Field(min_length=SITES_MIN, max_length=SITES_MAX)]
KeyEpoch = Annotated[int, Field(ge=1, le=EPOCHS_MAX)]
Residue = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")]


class Commitment(Message):
    """The one set of uploads that a round adds up, and its sum, fixed before anything is shown.

    ``uploads_root`` is the Merkle root over the receipts' sites and ciphertext hashes, sorted by
    site, and ``sum_sha256`` the hash of the encrypted sum.
    """

    study: Study
    round: Round
    plan: Digest
    key_id: GroupKeyId
    length: Annotated[int, Field(ge=1, le=10**9)]
    uploads_root: Digest
    sum_sha256: Digest
    receipts: Annotated[tuple[Receipt, ...], Field(min_length=1, max_length=SITES_MAX)]
    signature: Signature = b""

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

    def signed_bytes(self) -> bytes:
        """Return what the server signs."""
        return b"bithive commitment\n" + canonical(self, without=UNSIGNED)


class Endorsement(Message):
    """A site's word that it knows no other commitment for this round, and never will.

    ``nonce`` is 32 random bytes: the challenge of the tags depends on every endorser's.
    """

    commitment: Digest
    site: Site
    nonce: Digest
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive endorsement\n" + canonical(self, without=UNSIGNED)


class Unmasking(Message):
    """A site's tag of its own upload, one residue per prime; its sealed reveals ride beside it.

    ``tag`` is empty where the site's upload is not in the sum.
    """

    commitment: Digest
    challenge: Digest
    site: Site
    tag: Annotated[tuple[Residue, ...], Field(max_length=8)]
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive unmasking\n" + canonical(self, without=UNSIGNED)


class Partial(Message):
    """A site's share of a decryption by quorum; the share rides beside it as a blob."""

    commitment: Digest
    site: Site
    quorum: Sites
    share_sha256: Digest
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive partial\n" + canonical(self, without=UNSIGNED)


class Opening(Message):
    """A site's signed statement of what it opened; the sums ride beside it as a blob."""

    commitment: Digest
    site: Site
    integers_sha256: Digest
    weight: Count
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive opening\n" + canonical(self, without=UNSIGNED)


class DealtKey(Message):
    """A group key as its dealer announces it: sealed once, its wrapping key sealed to each site.

    ``threshold`` sites together recover the wrapping key from their shares of it.
    """

    study: Study
    epoch: KeyEpoch
    dealer: Site
    sites: Sites
    threshold: Annotated[int, Field(ge=2, le=SITES_MAX)]
    key_id: GroupKeyId
    sealed_sha256: Digest
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the dealer signs."""
        return b"bithive dealt key\n" + canonical(self, without=UNSIGNED)


class KeyCommitment(Message):
    """A site's commitment to its part of a collective key, made before it sees another's part."""

    study: Study
    epoch: KeyEpoch
    site: Site
    sites: Sites
    public_sha256: Digest
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive key commitment\n" + canonical(self, without=UNSIGNED)


class KeyPart(Message):
    """A site's part of a collective key: the public polynomial and sealed shares ride beside."""

    study: Study
    epoch: KeyEpoch
    site: Site
    commitments: Digest
    signature: Signature = b""

    def signed_bytes(self) -> bytes:
        """Return what the site signs."""
        return b"bithive key part\n" + canonical(self, without=UNSIGNED)
