"""A grant's proof serves for exactly what it says, by whoever may act for an enrolled person."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.enrolment import EnrolmentGroup, EnrolmentRootStale
from consent.enrolment_log import EnrolmentRootUnknown
from consent.grants_by_proof import (
    GrantOfAnother,
    PayoutIdUnusable,
    check_grant_proof,
    check_withdrawal_proof,
)
from consent.lanes import Lane
from consent.proofing import CARER, SELF, Enrolment, Proofing, Removal, minor
from protocol.ids import SiteId, StudyId
from zk import fast, groth16
from zk.groth16 import ProofInvalid
from zk.poseidon import FIELD
from zk.semaphore import MessageWrong, ScopeWrong, SemaphoreProof

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "semaphore_grants.json"
VECTORS = json.loads(FILE.read_text())
PEOPLE = [int(commitment) for commitment in VECTORS["commitments"]]
NULLIFIERS = [int(nullifier) for nullifier in VECTORS["nullifiers"]]
STEWARD = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NORTH, STUDY = SiteId("north"), StudyId("study")
LANE = Lane(STUDY, NORTH, "scans", first_chunk=0, chunk_count=2, chunk_size=4)
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
COMES_OF_AGE = datetime(2026, 12, 1, tzinfo=UTC)


def enrolled(person, policy=SELF):
    return Enrolment(
        site=NORTH,
        commitment=PEOPLE[person],
        at=NOW.isoformat(),
        proofing=Proofing.IN_PERSON,
        policy=policy,
    ).signed_by(STEWARD)


@pytest.fixture
def group():
    """Persons 0 to 3, and the ward 5 for whom 4 acts until 1 December; 6 is nobody."""
    opened = EnrolmentGroup(":memory:", {NORTH: STEWARD.public_key().public_bytes_raw()})
    for person in range(4):
        opened.enrol(enrolled(person), now=NOW)
    opened.enrol(enrolled(4, CARER), now=NOW)
    opened.enrol(enrolled(5, minor(date(2026, 12, 1), PEOPLE[4])), now=NOW)
    yield opened
    opened.close()


def proof_of(vector):
    return SemaphoreProof.from_json(json.dumps(vector))


def check_grant(name, group, *, now=NOW, verifier=fast.verify, registry="registry", **changes):
    vector = VECTORS[name]
    asked = {
        "study": STUDY,
        "leaf": int(vector["grant"]["leaf"]),
        "lane": LANE,
        "payout_id": int(vector["grant"]["payoutId"]),
        "revoke_hash": bytes.fromhex(vector["grant"]["revokeHash"]),
    } | changes
    return check_grant_proof(
        proof_of(vector["proof"]),
        **asked,
        registry=registry,
        group=group,
        now=now,
        verifier=verifier,
    )


def check_withdrawal(name, group, *, leaf=1001, study=STUDY, registry="registry"):
    proof = proof_of(VECTORS[name])
    check_withdrawal_proof(
        proof, study, leaf, NULLIFIERS[1], registry=registry, group=group, verifier=fast.verify
    )


def test_the_group_is_the_one_the_proofs_were_made_for(group):
    assert group.members(now=NOW) == [int(one) for one in VECTORS["members_before"]]
    assert group.members(now=COMES_OF_AGE) == [int(one) for one in VECTORS["members_after"]]


@pytest.mark.parametrize("verifier", [groth16.verify, fast.verify], ids=["reference", "fast"])
def test_an_enrolled_person_grants_and_has_one_nullifier_in_the_study(group, verifier):
    assert check_grant("by_self", group, verifier=verifier) == NULLIFIERS[1]


def test_a_change_of_terms_has_the_same_nullifier_and_another_person_another(group):
    assert check_grant("by_self_again", group) == check_grant("by_self", group)
    assert check_grant("by_carer", group) != check_grant("by_self", group)


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": 1002},
        {"payout_id": 7},
        {"revoke_hash": hashlib.sha256(b"another").digest()},
        {"registry": "another"},
        {"lane": Lane(STUDY, NORTH, "scans", first_chunk=2, chunk_count=2, chunk_size=4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_proof_serves_for_no_other_grant(group, change):
    with pytest.raises(MessageWrong):
        check_grant("by_self", group, **change)


def test_a_proof_serves_for_no_other_study(group):
    other = StudyId("another")
    lane = Lane(other, NORTH, "scans", first_chunk=0, chunk_count=2, chunk_size=4)
    with pytest.raises(ScopeWrong):
        check_grant("by_self", group, study=other, lane=lane)


@pytest.mark.parametrize("payout_id", [0, -1, FIELD])
def test_a_payout_id_is_the_commitment_of_an_identity(group, payout_id):
    with pytest.raises(PayoutIdUnusable):
        check_grant("by_self", group, payout_id=payout_id)


def test_a_stranger_cannot_grant(group):
    with pytest.raises(EnrolmentRootUnknown):
        check_grant("by_stranger", group)


def test_a_strangers_proof_with_the_groups_root_written_in_does_not_hold(group):
    stranger = VECTORS["by_stranger"]
    root = VECTORS["by_self"]["proof"]["merkleTreeRoot"]
    forged = proof_of(stranger["proof"] | {"merkleTreeRoot": root})
    grant = stranger["grant"]
    with pytest.raises(ProofInvalid):
        check_grant_proof(
            forged,
            STUDY,
            int(grant["leaf"]),
            LANE,
            int(grant["payoutId"]),
            bytes.fromhex(grant["revokeHash"]),
            registry="registry",
            group=group,
            now=NOW,
            verifier=fast.verify,
        )


def test_a_proof_made_while_others_joined_serves_for_a_day(group):
    check_grant("by_self_early", group, now=NOW + timedelta(hours=24))
    with pytest.raises(EnrolmentRootStale):
        check_grant("by_self_early", group, now=NOW + timedelta(hours=25))


def test_nobody_grants_with_a_proof_from_before_somebody_left(group):
    removal = Removal(site=NORTH, commitment=PEOPLE[2], at=NOW.isoformat()).signed_by(STEWARD)
    group.remove(removal, now=NOW)
    with pytest.raises(EnrolmentRootStale, match="left"):
        check_grant("by_self", group)


# Wards and carers


def test_the_carer_grants_in_the_wards_place_until_her_day_and_not_on_it(group):
    assert check_grant("by_carer", group, now=COMES_OF_AGE - timedelta(seconds=1)) == NULLIFIERS[4]
    with pytest.raises(EnrolmentRootStale):
        check_grant("by_carer", group, now=COMES_OF_AGE)


def test_the_ward_grants_alone_from_her_day_and_not_before(group):
    with pytest.raises(EnrolmentRootUnknown):
        check_grant("by_ward", group, now=COMES_OF_AGE - timedelta(seconds=1))
    assert check_grant("by_ward", group, now=COMES_OF_AGE) == NULLIFIERS[5]


# Withdrawing


def test_who_granted_withdraws(group):
    check_withdrawal("withdrawal", group)


def test_who_was_removed_since_still_withdraws(group):
    removal = Removal(site=NORTH, commitment=PEOPLE[1], at=NOW.isoformat()).signed_by(STEWARD)
    group.remove(removal, now=NOW)
    check_withdrawal("withdrawal", group)


def test_another_member_does_not_withdraw(group):
    with pytest.raises(GrantOfAnother):
        check_withdrawal("withdrawal_by_another", group)


def test_a_withdrawal_is_of_one_grant_in_one_study_and_registry(group):
    with pytest.raises(MessageWrong):
        check_withdrawal("withdrawal", group, leaf=1002)
    with pytest.raises(MessageWrong):
        check_withdrawal("withdrawal", group, registry="another")
    with pytest.raises(ScopeWrong):
        check_withdrawal("withdrawal", group, study=StudyId("another"))


def test_a_grant_is_no_withdrawal_and_a_withdrawal_no_grant(group):
    grant = proof_of(VECTORS["by_self"]["proof"])
    with pytest.raises(MessageWrong):
        check_withdrawal_proof(grant, STUDY, 1001, NULLIFIERS[1], registry="registry", group=group)
