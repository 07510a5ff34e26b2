"""A person who proves her grants has one live leaf in a study, and ends it by code or by proof."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consent.enrolment import EnrolmentGroup, EnrolmentRootStale
from consent.epochs import EpochLine
from consent.grants_by_proof import GrantOfAnother, PayoutIdUnusable
from consent.lanes import LaneDiffers, LanePolicy, LaneUnknown
from consent.log import rebuild
from consent.proofing import (
    CARER,
    SELF,
    Enrolment,
    NotSignedByHospital,
    Proofing,
    Removal,
    minor,
)
from consent.publication import (
    Checked,
    LaneFull,
    LaneProvenOnly,
    LeafUnusable,
    ProvenGrant,
    publish,
)
from consent.reader import EpochUnknown
from consent.rebuilding import LogBroken, rebuild_registry
from consent.withdrawal import (
    GrantOfAnotherSite,
    GrantReplaced,
    GrantUnknown,
    NotProven,
    SiteWithdrawal,
    WithdrawalCodeWrong,
)
from protocol.ids import GrantId, SiteId, StudyId
from zk import fast
from zk.groth16 import ProofInvalid
from zk.semaphore import MessageWrong, ScopeWrong, SemaphoreProof

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "semaphore_grants.json"
VECTORS = json.loads(FILE.read_text())
PEOPLE = [int(commitment) for commitment in VECTORS["commitments"]]
NULLIFIERS = [int(nullifier) for nullifier in VECTORS["nullifiers"]]
STEWARD = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STUDY, NORTH, SOUTH = StudyId("study"), SiteId("north"), SiteId("south")
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
COMES_OF_AGE = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def group():
    opened = people_in(":memory:")
    yield opened
    opened.close()


def people_in(database):
    """Persons 0 to 3, and the ward 5 for whom 4 acts until 1 December; 6 is nobody."""
    opened = EnrolmentGroup(database, {NORTH: STEWARD.public_key().public_bytes_raw()})
    policies = [SELF, SELF, SELF, SELF, CARER, minor(date(2026, 12, 1), PEOPLE[4])]
    for commitment, policy in zip(PEOPLE, policies, strict=False):
        opened.enrol(
            Enrolment(
                site=NORTH,
                commitment=commitment,
                at=NOW.isoformat(),
                proofing=Proofing.IN_PERSON,
                policy=policy,
            ).signed_by(STEWARD),
            now=NOW,
        )
    return opened


@pytest.fixture
def lane(registry):
    return registry.open_lane(STUDY, NORTH, "scans", 8, 4, policy=LanePolicy.PROVEN)


def proof_of(vector):
    return SemaphoreProof.from_json(json.dumps(vector))


def grant_of(name):
    vector = VECTORS[name]
    return ProvenGrant(
        leaf=int(vector["grant"]["leaf"]),
        revoke_hash=bytes.fromhex(vector["grant"]["revokeHash"]),
        payout_id=int(vector["grant"]["payoutId"]),
        proof=proof_of(vector["proof"]),
    )


@pytest.fixture
def grant(registry, lane, group):
    def publish(name, *, now=NOW, into=lane, **changes):
        return registry.publish_proven(
            into,
            replace(grant_of(name), **changes),
            group=group,
            now=now,
            verifier=fast.verify,
        )

    return publish


@pytest.fixture
def withdraw(registry, group):
    def by_proof(grant_id, name="withdrawal"):
        return registry.withdraw_proven(
            grant_id, proof_of(VECTORS[name]), group=group, now=NOW, verifier=fast.verify
        )

    return by_proof


@pytest.fixture
def live(registry, lane):
    """How many leaves live, after holding tree, log and database against each other."""

    def count():
        leaves = registry.leaves(lane)
        assert rebuild(registry.log()) == registry.epoch().root
        assert leaves == registry.leaves_at(lane, registry.epoch().number)
        return sum(leaf != 0 for leaf in leaves)

    return count


def test_a_proven_grant_is_published_with_a_receipt_that_says_so(registry, lane, grant, live):
    receipt = grant("by_self")
    receipt.check(registry.public_key)
    assert (receipt.leaf, receipt.policy, receipt.proven) == (1001, "proven", True)
    assert receipt.replaces is None
    assert live() == 1
    entry = registry.log()[0]
    assert entry.nullifier == NULLIFIERS[1]
    assert entry.payout_id == int(VECTORS["by_self"]["grant"]["payoutId"])
    assert SemaphoreProof.from_json(entry.proof) == grant_of("by_self").proof


def test_new_terms_replace_the_old_leaf_in_one_epoch(registry, lane, grant, live):
    first = grant("by_self")
    second = grant("by_self_again")
    assert second.replaces == first.grant
    assert second.epoch == registry.epoch().number == first.epoch + 1
    assert registry.leaves(lane)[:2] == [0, second.leaf]
    assert live() == 1


def test_a_person_has_one_live_leaf_in_a_study_over_all_its_lanes(registry, group, grant, lane):
    other = registry.open_lane(STUDY, SOUTH, "scans", 8, 4, policy=LanePolicy.PROVEN)
    with pytest.raises(MessageWrong):  # the proof names its lane
        grant("by_self", into=other)
    first = grant("by_self")
    grant("by_carer")
    assert grant("by_self_again").replaces == first.grant
    assert registry.live_count(lane) == 2


def test_the_database_itself_refuses_a_second_live_leaf_of_a_nullifier(registry, path, grant):
    grant("by_self")
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        connection.execute(
            "INSERT INTO grants SELECT 1, 'x', lane, x'01', revoke_hash, nullifier, payout_id, "
            "proof, NULL, NULL FROM grants"
        )
    connection.close()


def test_a_proof_that_was_shown_publishes_nothing_again(registry, grant, live):
    grant("by_self")
    with pytest.raises(LeafUnusable):
        grant("by_self")
    grant("by_self_again")
    with pytest.raises(LeafUnusable):  # the older terms do not come back
        grant("by_self")
    assert live() == 1
    assert registry.epoch().number == 2


def test_who_withdrew_may_grant_anew(registry, grant, withdraw, live):
    first = grant("by_self")
    withdraw(first.grant)
    assert live() == 0
    assert grant("by_self_again").replaces is None
    assert live() == 1


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"leaf": 1002}, MessageWrong),
        ({"revoke_hash": bytes(32)}, MessageWrong),
        ({"payout_id": 7}, MessageWrong),
        ({"payout_id": 0}, PayoutIdUnusable),
        ({"proof": replace(grant_of("by_self").proof, points=bytes(256))}, ProofInvalid),
        ({"proof": grant_of("by_self_again").proof}, MessageWrong),
    ],
    ids=["leaf", "hash", "payout id", "no payout id", "points", "another proof"],
)
def test_nothing_but_what_was_proven_is_published(registry, grant, live, change, refusal):
    with pytest.raises(refusal):
        grant("by_self", **change)
    assert live() == 0
    assert registry.epoch().number == 0


def test_a_grant_for_another_study_is_refused(registry, grant):
    other = registry.open_lane(StudyId("another"), NORTH, "scans", 8, 4)
    with pytest.raises(ScopeWrong):
        grant("by_self", into=other)


def test_a_lane_of_another_registry_or_policy_is_refused(registry, lane, grant):
    for foreign in (
        replace(lane, chunk_count=3),
        replace(lane, policy=LanePolicy.HOSPITAL),
    ):
        with pytest.raises(LaneUnknown):
            grant("by_self", into=foreign)


def test_a_lane_for_proven_grants_takes_no_others(registry, lane):
    with pytest.raises(LaneProvenOnly, match="patient"):
        registry.publish(lane, 7, bytes(32), now=NOW)
    assert registry.epoch().number == 0


def test_a_lane_keeps_its_policy(registry, lane, open_registry):
    with pytest.raises(LaneDiffers, match="policy"):
        registry.open_lane(STUDY, NORTH, "scans", 8, 4, policy=LanePolicy.HOSPITAL)
    assert open_registry().lanes()[0].policy is LanePolicy.PROVEN


def test_a_full_lane_is_refused_and_the_old_grant_stays(registry, group, grant, lane, live):
    first = grant("by_self")
    for leaf in range(2, 9):  # fill it with a hospital's word, behind the policy's back
        with registry._changing() as (connection, history, key):
            registry._history = None
            publish(
                connection,
                history,
                key,
                [Checked(lane, leaf, bytes(32), leaf, leaf, "{}")],
                NOW.isoformat(),
            )
    with pytest.raises(LaneFull):
        grant("by_self_again")
    assert registry.leaves(lane)[0] == first.leaf


def test_of_one_call_all_are_published_or_none(registry, lane, group, live):
    def publish(*names):
        return registry.publish_proven_many(
            [(lane, grant_of(name)) for name in names],
            group=group,
            now=NOW,
            verifier=fast.verify,
        )

    with pytest.raises(LeafUnusable, match="twice"):
        publish("by_self", "by_self_again")
    assert live() == 0
    receipts = publish("by_self", "by_carer")
    assert {receipt.epoch for receipt in receipts} == {1}
    assert publish() == []
    assert live() == 2


def test_who_left_while_the_proof_was_verified_does_not_grant(registry, lane, group, live):
    removal = Removal(site=NORTH, commitment=PEOPLE[2], at=NOW.isoformat()).signed_by(STEWARD)

    def verify_slowly(*arguments):
        fast.verify(*arguments)
        group.remove(removal, now=NOW)

    with pytest.raises(EnrolmentRootStale):
        registry.publish_proven(
            lane, grant_of("by_self"), group=group, now=NOW, verifier=verify_slowly
        )
    assert live() == 0


# Wards and carers


def test_a_carer_grants_until_the_wards_day_and_the_ward_alone_from_then_on(grant, live):
    grant("by_carer", now=COMES_OF_AGE - timedelta(seconds=1))
    with pytest.raises(EnrolmentRootStale):
        grant("by_carer", now=COMES_OF_AGE)
    receipt = grant("by_ward", now=COMES_OF_AGE)
    assert receipt.proven
    assert live() == 2  # the carer's terms end on that day, which her hospital sees to


# Withdrawing


def test_a_person_withdraws_by_proof(registry, grant, withdraw, live):
    first = grant("by_self")
    receipt = withdraw(first.grant)
    receipt.check(registry.public_key)
    assert (receipt.grant, receipt.epoch) == (first.grant, 2)
    assert live() == 0
    assert withdraw(first.grant) == receipt
    assert registry.epoch().number == 2


def test_nobody_else_withdraws_by_proof(registry, grant, withdraw, live):
    first = grant("by_self")
    with pytest.raises(GrantOfAnother):
        withdraw(first.grant, "withdrawal_by_another")
    with pytest.raises(GrantUnknown):
        withdraw(GrantId("00"))
    assert live() == 1


def test_a_proof_ends_the_leaf_it_names_and_no_later_one(grant, withdraw, live):
    first = grant("by_self")
    second = grant("by_self_again")
    with pytest.raises(GrantReplaced, match=second.grant):
        withdraw(first.grant)
    with pytest.raises(MessageWrong):
        withdraw(second.grant)
    assert live() == 1


def test_a_hospitals_grant_is_withdrawn_by_its_code_only(registry, withdraw):
    open_lane = registry.open_lane(STUDY, SOUTH, "scans", 8, 4)
    receipt = registry.publish(open_lane, 7, bytes(32), now=NOW)
    assert (receipt.policy, receipt.proven) == ("hospital", False)
    with pytest.raises(NotProven, match="code"):
        withdraw(receipt.grant)


def test_the_code_of_a_replaced_grant_ends_what_took_its_place(registry, lane, chain, live):
    codes, receipts = chain
    with pytest.raises(WithdrawalCodeWrong):
        registry.withdraw(receipts[0].grant, codes[1], now=NOW)
    withdrawal = registry.withdraw(receipts[0].grant, codes[0], now=NOW)
    assert withdrawal.grant == receipts[-1].grant
    assert live() == 0
    for receipt, code in zip(receipts, codes, strict=True):
        assert registry.withdraw(receipt.grant, code, now=NOW) == withdrawal


@pytest.fixture
def chain(registry, lane):
    """Three grants of one person, each in the place of the one before, with their codes."""
    codes = [b"one", b"two", b"three"]
    receipts = []
    for leaf, code in enumerate(codes, 1):
        with registry._changing() as (connection, history, key):
            registry._history = None
            revoke_hash = hashlib.sha256(code).digest()
            checked = Checked(lane, leaf, revoke_hash, nullifier=9, payout_id=8, proof="{}")
            receipts += publish(connection, history, key, [checked], NOW.isoformat())
    return codes, receipts


# A hospital ends what is in its own lanes


def ended_by(site, grant_id, key=STEWARD):
    return SiteWithdrawal(site, grant_id, NOW.isoformat()).signed_by(key)


def test_a_hospital_ends_a_grant_of_its_own_patient(registry, grant, live):
    statement = ended_by(NORTH, grant("by_self").grant)
    public_key = STEWARD.public_key().public_bytes_raw()
    receipt = registry.withdraw_for_site(statement, public_key, now=NOW)
    assert registry.withdraw_for_site(statement, public_key, now=NOW) == receipt
    assert live() == 0


def test_a_hospital_ends_no_grant_of_another_and_nobody_ends_one_in_its_name(registry, grant, live):
    first, public_key = grant("by_self").grant, STEWARD.public_key().public_bytes_raw()
    stranger = Ed25519PrivateKey.generate()
    for statement, refusal in (
        (ended_by(SOUTH, first), GrantOfAnotherSite),
        (ended_by(NORTH, first, stranger), NotSignedByHospital),
        (replace(ended_by(NORTH, first), at=""), NotSignedByHospital),
        (ended_by(NORTH, GrantId("00")), GrantUnknown),
    ):
        with pytest.raises(refusal):
            registry.withdraw_for_site(statement, public_key, now=NOW)
    assert live() == 1


# What the patient's page asks


def test_the_payout_ids_of_a_lane_are_those_of_its_live_grants_by_leaf(registry, grant, withdraw):
    first = grant("by_self")
    grant("by_carer")
    mine, hers = (int(VECTORS[name]["grant"]["payoutId"]) for name in ("by_self", "by_carer"))
    assert registry.payout_ids(STUDY, NORTH) == [mine, hers]
    withdraw(first.grant)
    assert registry.payout_ids(STUDY, NORTH) == [hers]
    assert registry.payout_ids(STUDY, NORTH, epoch=2) == [mine, hers]
    assert registry.payout_ids(STUDY, NORTH, epoch=1) == [mine]
    assert registry.payout_ids(STUDY, NORTH, epoch=0) == []
    assert registry.payout_ids(STUDY, SOUTH) == []


def test_a_lane_is_read_as_of_any_epoch(registry, lane, grant):
    first, second = grant("by_self"), grant("by_self_again")
    past = [registry.leaves_at(lane, number)[:2] for number in range(3)]
    assert past == [[0, 0], [first.leaf, 0], [0, second.leaf]]
    assert registry.epoch_at(2) == registry.epoch()
    assert registry.epoch_at(1).number == 1


def test_an_epoch_that_was_not_is_refused(registry, lane):
    for ask in (
        lambda: registry.leaves_at(lane, 1),
        lambda: registry.epoch_at(1),
        lambda: registry.payout_ids(STUDY, NORTH, epoch=-1),
    ):
        with pytest.raises(EpochUnknown):
            ask()


def test_the_log_comes_in_pages_that_join(registry, grant, withdraw):
    withdraw(grant("by_self").grant)
    grant("by_self_again")
    whole = registry.log_page()
    assert [line.epoch.number for line in whole] == [0, 1, 2, 3]
    joined, after = [], -1
    while page := registry.log_page(after=after, epochs_max=2):
        joined += page
        after = page[-1].epoch.number
    assert joined == whole


# What an observer checks in the log


@pytest.fixture
def observed(registry, group, grant, withdraw):
    """The log of three grants and a withdrawal, and all roots of the enrolment group."""
    grant("by_self_early")
    withdraw(grant("by_self").grant)
    grant("by_carer")
    return registry.log_page(), {change.root for change in group.log()}


def test_an_observer_verifies_every_grants_proof(registry, observed):
    lines, roots = observed
    rebuilt = rebuild_registry(
        lines, registry.public_key, verifier=fast.verify, enrolment_roots=roots
    )
    assert rebuilt.proofs_verified == 3
    assert set(rebuilt.nullifiers) == {NULLIFIERS[4]}


def test_an_observer_notices_a_grant_by_somebody_who_was_never_enrolled(registry, observed):
    lines, _ = observed
    with pytest.raises(LogBroken, match="group"):
        rebuild_registry(lines, registry.public_key, verifier=fast.verify, enrolment_roots=set())


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": 1002},
        {"revoke_hash": bytes(32)},
        {"revoke_hash": b""},
        {"payout_id": 7},
        {"nullifier": 7},
        {"proof": "{}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_observer_notices_a_registry_that_signs_what_was_not_proven(
    registry, key, observed, change
):
    lines, _ = observed
    lied = [replace(one, **change) if one.leaf else one for one in lines[1].changes]
    forged = EpochLine.sealed(
        lines[1].epoch,
        lines[1].lanes,
        lied,
        before=bytes.fromhex(lines[0].head.head),
        signing_key=key,
    )
    with pytest.raises(LogBroken, match="proof"):
        rebuild_registry([lines[0], forged], registry.public_key, verifier=fast.verify)
