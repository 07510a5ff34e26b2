"""A patient's own grant and withdrawal: a Semaphore proof instead of a signature with a name.

A grant's proof has

    scope     number_for("bithive-grant-scope-1", study)
    message   number_for("bithive-grant-1", registry, leaf, lane, payout id, revoke hash)

and a withdrawal's, of the same scope and so with the same nullifier,

    message   number_for("bithive-withdrawal-1", registry, leaf)

where ``number_for`` is ``zk.semaphore``'s SHA-256 of compact JSON; leaf and payout id are decimal
text, the lane is the number of its first chunk, the hash is 64 hexadecimal digits. The nullifier is
the same for all that one identity says in one study, in whatever hospital's lane and registry, and
unrelated between studies: who keeps at most one live leaf per nullifier counts every person once.

    >>> hex(grant_scope(StudyId("busi-2026")))[:18]
    '0xa54e5debd1738749'

What holds (tests/consent/test_grants_by_proof.py):

1. A proof serves for the study, registry, leaf, lane, payout id and revoke hash it was made for.
2. Only who may act for an enrolled person now can grant; who granted can withdraw for ever.
3. What is hashed equals what ``zk/semaphore/node/page.js`` hashes, in committed vectors.

A proof that was published can be shown again by anybody. That changes nothing as long as no leaf
is ever published twice, which the registry sees to.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from consent.enrolment import EnrolmentGroup
from consent.lanes import Lane
from protocol.errors import ConsentError
from protocol.ids import StudyId
from zk import groth16
from zk.poseidon import FIELD
from zk.semaphore import SemaphoreProof, Verifier, check, number_for

HASH_BYTES: Final = 32


class GrantOfAnother(ConsentError):
    """A withdrawal was proven by somebody else than who granted."""

    code = "grant-of-another"

    def __init__(self) -> None:
        super().__init__(
            "the proof is not by the identity that gave this grant; "
            "withdraw with the code on its paper, or from where it was given"
        )


class PayoutIdUnusable(ConsentError):
    """A payout id is no identity commitment."""

    code = "payout-id-unusable"

    def __init__(self) -> None:
        super().__init__(
            "the payout id is not the commitment of an identity; make one for this study"
        )


def grant_scope(study: StudyId) -> int:
    """Return the scope of everything that is granted or withdrawn in a study."""
    return number_for("bithive-grant-scope-1", study)


def grant_message(registry: str, leaf: int, lane: Lane, payout_id: int, revoke_hash: bytes) -> int:
    """Return what a grant's proof says.

    Args:
        registry: The registry's id.
        leaf: The commitment to be published.
        lane: The lane it goes into.
        payout_id: The commitment of the identity that claims for it.
        revoke_hash: SHA-256 of the withdrawal code, 32 bytes.
    """
    assert len(revoke_hash) == HASH_BYTES
    parts = (registry, str(leaf), lane.first_chunk, str(payout_id), revoke_hash.hex())
    return number_for("bithive-grant-1", *parts)


def withdrawal_message(registry: str, leaf: int) -> int:
    """Return what a withdrawal's proof says."""
    return number_for("bithive-withdrawal-1", registry, str(leaf))


def check_grant_proof(  # noqa: PLR0917 - what is granted, in the order of the message
    proof: SemaphoreProof,
    study: StudyId,
    leaf: int,
    lane: Lane,
    payout_id: int,
    revoke_hash: bytes,
    *,
    registry: str,
    group: EnrolmentGroup,
    now: datetime,
    verifier: Verifier = groth16.verify,
) -> int:
    """Return the nullifier if an enrolled person, or who acts for her, grants exactly this.

    Args:
        proof: From anybody.
        study: The lane's.
        leaf: As in ``grant_message``, like the next three.
        lane: Of the registry.
        payout_id: From anybody.
        revoke_hash: 32 bytes.
        registry: The registry's id.
        group: The enrolment group.
        now: With a time zone.
        verifier: The reference, or ``zk.fast.verify``.

    Raises:
        PayoutIdUnusable: It is 0 or no element of the field.
        ScopeWrong, MessageWrong: The proof is for another study, or says something else.
        EnrolmentRootUnknown, EnrolmentRootStale: It refers to no state of the group that serves.
        ProofInvalid: It does not hold.
    """
    assert lane.study == study
    if not 0 < payout_id < FIELD:
        raise PayoutIdUnusable
    group.check_root(proof.root, now=now)
    return check(
        proof,
        root=proof.root,
        scope=grant_scope(study),
        message=grant_message(registry, leaf, lane, payout_id, revoke_hash),
        verifier=verifier,
    )


def check_withdrawal_proof(
    proof: SemaphoreProof,
    study: StudyId,
    leaf: int,
    nullifier: int,
    *,
    registry: str,
    group: EnrolmentGroup,
    verifier: Verifier = groth16.verify,
) -> None:
    """Return if the identity that granted ``leaf`` withdraws it.

    Any root that the group ever had will do: who was removed since can still end what she granted.

    Args:
        proof: From anybody.
        study: The grant's.
        leaf: The grant's.
        nullifier: The grant's, as ``check_grant_proof`` returned it.
        registry: The registry's id.
        group: The enrolment group.
        verifier: The reference, or ``zk.fast.verify``.

    Raises:
        GrantOfAnother: The proof is by another identity.
        ScopeWrong, MessageWrong: It is for another study, or for another grant.
        EnrolmentRootUnknown: It refers to a group that never was.
        ProofInvalid: It does not hold.
    """
    if proof.nullifier != nullifier:
        raise GrantOfAnother
    group.check_past_root(proof.root)
    check(
        proof,
        root=proof.root,
        scope=grant_scope(study),
        message=withdrawal_message(registry, leaf),
        verifier=verifier,
    )
