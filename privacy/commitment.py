"""What a set of uploads is bound to before anything about it is shown, checked by everybody alike.

The server commits to one received set and its encrypted sum; the sites endorse that commitment, a
site one per round; the challenge of the tags (``privacy.tags``) follows from both, so neither a
server that has seen the tags nor a site that has seen the others' can choose its part to fit::

    uploads_root = Merkle root over (site, SHA-256 of its ciphertext), sorted by site [1]
    challenge    = SHA-256(label, digest of the commitment, digests of the endorsements by site)

Two commitments of one round would need two quorums. Honest sites endorse one, so with c dishonest
sites among n and quorums of t that takes 2t <= n + c; t is chosen larger (``sharing.quorum``).

What holds, each a test in tests/privacy/test_commitment.py:

1. A commitment of other receipts, of a site outside the roster, unsigned or of too few is refused.
2. Endorsements count once per site, only under its signature, and only for this commitment.
3. Any endorsement more, less or changed gives an unrelated challenge.

References:
    [1] RFC 6962, section 2.1. [2] Bonawitz et al., CCS 2017, section 6 (consistency of the set).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from privacy.sharing import QuorumMissing
from privacy.signatures import check_signature, check_site_message, registered
from protocol.canonical import digest
from protocol.errors import FederationError
from protocol.ids import SiteId
from protocol.messages import Receipt, RoundCall, RoundKey, RoundPlan
from protocol.summation import Commitment, Endorsement
from protocol.terms import SiteIdentity, StudyTerms
from storage.merkle import leaf_hash, root

CHALLENGE_LABEL: Final = b"bithive challenge\n"


class CommitmentRefused(FederationError):
    """A commitment is not one that this round's sums may be opened under."""

    code = "commitment-refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the server's commitment to the round's uploads is refused: {why}")


def uploads_root(receipts: Sequence[Receipt]) -> str:
    """Return the root that binds which ciphertext each site sent, in hexadecimal.

    Args:
        receipts: Sorted by site.
    """
    leaves = [leaf_hash(upload_entry(one.site, one.ciphertext_sha256)) for one in receipts]
    return root(leaves).hex()


def upload_entry(site: SiteId, ciphertext_sha256: str) -> bytes:
    """Return the tree's entry for one upload."""
    return json.dumps([site, ciphertext_sha256], separators=(",", ":")).encode()


def check_commitment(
    commitment: Commitment, plan: RoundPlan, terms: StudyTerms, *, threshold: int
) -> None:
    """Return if ``commitment`` is one for this plan, whoever asks.

    Its set must itself be a quorum: of a victim and colluders alone, few as they may be, the
    colluders would subtract their own updates. A quorum of n sites has two honest ones in it as
    long as the colluders are no more than ``sharing.colluders(n)``.

    Args:
        commitment: From the server; hostile.
        plan: The round's.
        terms: The study's.
        threshold: The quorum of the sites that the round's call named.

    Raises:
        CommitmentRefused: It is for something else, of too few sites, or inconsistent in itself.
        BadSignature: The server did not sign it, or a site its receipt.
    """
    check_signature(
        terms.server_key,
        commitment.signature,
        commitment.signed_bytes(),
        what="commitment",
        who="the server",
    )
    if (commitment.study, commitment.round) != (plan.study, plan.round):
        raise CommitmentRefused("it is for another study or round")
    if commitment.plan != digest(plan):
        raise CommitmentRefused("it is for another plan of the round")
    if commitment.key_id != plan.key_id or commitment.length != terms.training.parameters:
        raise CommitmentRefused("it names another key or length than the plan")
    if len(commitment.receipts) < max(terms.sites_min, threshold):
        raise CommitmentRefused(f"a sum of {len(commitment.receipts)} sites shows too much of each")
    if not set(commitment.sites) <= set(plan.sites):
        raise CommitmentRefused("it names a site that is not in the round's roster")
    for receipt in commitment.receipts:
        _check_receipt(receipt, plan, registered(terms, receipt.site))
    if commitment.uploads_root != uploads_root(commitment.receipts):
        raise CommitmentRefused("its root is not that of its receipts")


def check_endorsements(
    commitment: Commitment,
    endorsements: Sequence[Endorsement],
    plan: RoundPlan,
    terms: StudyTerms,
    *,
    threshold: int,
) -> None:
    """Return if a quorum of the roster endorsed exactly this commitment.

    Raises:
        QuorumMissing: Fewer than ``threshold`` sites did.
        CommitmentRefused: One endorses something else, or a site is named twice or out of order.
        BadSignature: A site did not sign what is shown in its name.
    """
    sites = [one.site for one in endorsements]
    if sites != sorted(set(sites)) or not set(sites) <= set(plan.sites):
        raise CommitmentRefused("its endorsements are not by sites of the roster, once each")
    if any(one.commitment != digest(commitment) for one in endorsements):
        raise CommitmentRefused("a site endorsed another commitment of this round")
    if len(sites) < threshold:
        raise QuorumMissing(len(sites), threshold)
    for one in endorsements:
        check_site_message(terms, one, "endorsement")


def envelope_for(key: RoundKey, call: RoundCall, holder: SiteId) -> str | None:
    """Return the hash of the envelope that ``key``'s site sealed for ``holder``, None for no such.

    A holder that shows an envelope of this hash, and the key it opens by, shows what the dealer
    put into it: the dealer signed the hash.
    """
    others = [site for site in call.sites if site != key.site]
    if len(key.envelopes) != len(others) or holder not in others:
        return None
    return key.envelopes[others.index(holder)]


def challenge(commitment: Commitment, endorsements: Sequence[Endorsement]) -> bytes:
    """Return the 32-byte seed of the tags' coefficients.

    Args:
        commitment: The round's.
        endorsements: Sorted by site, as ``check_endorsements`` demands.
    """
    together = hashlib.sha256(CHALLENGE_LABEL + bytes.fromhex(digest(commitment)))
    for one in endorsements:
        together.update(bytes.fromhex(digest(one)))
    return together.digest()


def _check_receipt(receipt: Receipt, plan: RoundPlan, identity: SiteIdentity) -> None:
    if (receipt.study, receipt.round, receipt.model_sha256) != (plan.study, plan.round, plan.model):
        raise CommitmentRefused("one of its receipts is not of this round")
    check_signature(
        identity.signing_key,
        receipt.site_signature,
        receipt.site_bytes(),
        what="receipt",
        who=receipt.site,
    )
