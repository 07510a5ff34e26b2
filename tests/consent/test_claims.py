"""A pool is split to the base unit, and every share is claimed once, by whom it is for, or not."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from consent import claims
from consent.claims import (
    ClaimBook,
    ClaimedAlready,
    GroupTooSmall,
    PayoutDiffers,
    PayoutExhausted,
    PayoutUnknown,
    PoolTooSmall,
    RecipientUnusable,
    SmallGroups,
    claim_message,
    share_of,
)
from protocol.errors import StorageError
from protocol.ids import SiteId, StudyId
from storage.database import writing
from zk import fast, groth16
from zk.groth16 import ProofInvalid
from zk.lean_imt import LeanIMT
from zk.semaphore import GroupFull, GroupRootWrong, MessageWrong, ScopeWrong, SemaphoreProof

FILE = Path(__file__).parents[1] / "vectors" / "zk" / "semaphore_claims.json"
VECTORS = json.loads(FILE.read_text())
MEMBERS = [int(member) for member in VECTORS["members"]]
STUDY, NORTH, SOUTH = StudyId("study"), SiteId("north"), SiteId("south")
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
POOL = 10**18 + 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "claims.db"


@pytest.fixture
def book(path):
    opened = ClaimBook(path, registry="registry")
    opened.open_payout(STUDY, 5, NORTH, MEMBERS, pool=POOL)
    yield opened
    opened.close()


def claim(book, name, *, epoch=5, site=NORTH, recipient=None, verifier=fast.verify):
    vector = VECTORS[name]
    proof = SemaphoreProof.from_json(json.dumps(vector["proof"]))
    return book.claim(
        proof,
        STUDY,
        epoch,
        site,
        recipient or vector["recipient"],
        now=NOW,
        verifier=verifier,
    )


# The split


@given(st.integers(1, 10**30), st.integers(1, 200))
def test_all_shares_together_are_the_pool_and_no_two_differ_by_more_than_one(pool, shares):
    pool += shares
    split = [share_of(pool, shares, order) for order in range(shares)]
    assert sum(split) == pool
    assert max(split) - min(split) <= 1


def test_what_is_left_over_goes_to_who_claims_first(book):
    first, second = claim(book, "first"), claim(book, "second")
    assert (first.amount, second.amount) == (POOL // 20 + 1, POOL // 20 + 1)
    assert POOL % 20 == 3
    assert claim(book, "last").amount == POOL // 20 + 1
    assert share_of(POOL, 20, 3) == POOL // 20


# Opening a payout


def test_the_group_is_the_tree_over_the_payout_ids(book):
    payout = book.payout(STUDY, 5, NORTH)
    assert payout.root == LeanIMT(MEMBERS).root
    assert (payout.shares, payout.pool, payout.small) == (20, POOL, False)
    assert book.members(payout) == MEMBERS


def test_a_payout_id_that_two_grants_name_is_one_share(book):
    copied = book.open_payout(STUDY, 6, NORTH, [*MEMBERS, MEMBERS[3]], pool=POOL)
    assert copied.shares == 20


def test_opening_again_gives_the_same_payout_and_never_another(book):
    assert book.open_payout(STUDY, 5, NORTH, MEMBERS, pool=POOL) == book.payout(STUDY, 5, NORTH)
    for members, pool in ((MEMBERS, POOL + 1), ([*MEMBERS, 7], POOL), (MEMBERS[::-1], POOL)):
        with pytest.raises(PayoutDiffers):
            book.open_payout(STUDY, 5, NORTH, members, pool=pool)
    assert book.members(book.payout(STUDY, 5, NORTH)) == MEMBERS


def test_fewer_than_twenty_are_refused(book):
    with pytest.raises(GroupTooSmall) as refused:
        book.open_payout(STUDY, 6, NORTH, MEMBERS[:19], pool=POOL)
    assert (refused.value.found, refused.value.needed) == (19, 20)
    with pytest.raises(PayoutUnknown):
        book.payout(STUDY, 6, NORTH)


def test_fewer_than_twenty_are_told_so_where_that_is_the_rule(path):
    book = ClaimBook(path, registry="registry", small_groups=SmallGroups.WARN)
    assert book.open_payout(STUDY, 6, NORTH, MEMBERS[:2], pool=POOL).small
    assert not book.open_payout(STUDY, 7, NORTH, MEMBERS, pool=POOL).small
    with pytest.raises(GroupTooSmall):
        book.open_payout(STUDY, 8, NORTH, [], pool=POOL)


def test_the_smallest_group_can_be_set(path):
    book = ClaimBook(path, registry="registry", group_min=5)
    assert not book.open_payout(STUDY, 6, NORTH, MEMBERS[:5], pool=POOL).small


def test_a_pool_that_gives_somebody_nothing_is_refused(book):
    with pytest.raises(PoolTooSmall):
        book.open_payout(STUDY, 6, NORTH, MEMBERS, pool=19)


def test_a_group_beyond_the_circuit_is_refused(book, monkeypatch):
    def full(members):
        raise GroupFull(members)

    monkeypatch.setattr(claims, "check_members", full)
    with pytest.raises(GroupFull):
        book.open_payout(STUDY, 6, NORTH, MEMBERS, pool=POOL)


# Claiming


@pytest.mark.parametrize("verifier", [groth16.verify, fast.verify], ids=["reference", "fast"])
def test_a_member_claims_without_a_name(book, verifier):
    kept = claim(book, "first", verifier=verifier)
    assert (kept.recipient, kept.site, kept.epoch, kept.paid_at) == ("wallet:first", NORTH, 5, None)
    assert kept.at == "2026-11-21"
    assert book.unpaid() == [kept]


def test_a_second_claim_is_refused_and_says_what_was_kept(book):
    kept = claim(book, "first")
    with pytest.raises(ClaimedAlready) as refused:
        claim(book, "first")
    assert refused.value.claim == kept
    with pytest.raises(ClaimedAlready):  # a fresh proof of hers, for another recipient
        claim(book, "first_elsewhere")
    assert book.unpaid() == [kept]


def test_a_proof_that_was_seen_pays_nobody_else(book):
    with pytest.raises(MessageWrong):
        claim(book, "first", recipient="wallet:thief")
    assert book.unpaid() == []


@pytest.mark.parametrize("name", ["next_epoch", "foreign_site", "other_registry"])
def test_a_proof_for_another_payout_is_refused(book, name):
    with pytest.raises(ScopeWrong):
        claim(book, name)


def test_a_proof_about_another_group_is_refused(book):
    with pytest.raises(GroupRootWrong):
        claim(book, "foreign_group")


def test_a_claim_to_a_payout_that_was_not_opened_is_refused(book):
    with pytest.raises(PayoutUnknown):
        claim(book, "next_epoch", epoch=6)
    with pytest.raises(PayoutUnknown):
        claim(book, "foreign_site", site=SOUTH)


def test_the_same_identity_claims_from_the_next_epoch_too(book):
    book.open_payout(STUDY, 6, NORTH, MEMBERS, pool=POOL)
    first, next_one = claim(book, "first"), claim(book, "next_epoch", epoch=6)
    assert first.nullifier != next_one.nullifier
    assert first.id != next_one.id


def test_a_proof_that_does_not_hold_is_refused(book):
    vector = VECTORS["first"]
    proof = SemaphoreProof.from_json(
        json.dumps(vector["proof"] | {"nullifier": VECTORS["second"]["proof"]["nullifier"]})
    )
    with pytest.raises(ProofInvalid):
        book.claim(proof, STUDY, 5, NORTH, "wallet:first", now=NOW, verifier=fast.verify)


@pytest.mark.parametrize("recipient", ["", "two words", "wallet:é", "a" * 129, "line\n"])
def test_a_recipient_is_an_account_or_an_address(recipient):
    with pytest.raises(RecipientUnusable):
        claim_message(recipient)


def test_more_claims_than_shares_are_refused(path):
    """No honest group makes them possible; the pool is safe even so."""
    book = ClaimBook(path, registry="registry", small_groups=SmallGroups.WARN)
    payout = book.open_payout(STUDY, 5, NORTH, MEMBERS, pool=POOL)
    with writing(book._engine) as connection:
        connection.execute(sa.text("UPDATE payouts SET shares = 1"))
    claim(book, "first")
    with pytest.raises(PayoutExhausted):
        claim(book, "second")
    assert payout.shares == 20


# Paying


def test_a_claim_is_unpaid_until_it_is_marked_once(book):
    kept = claim(book, "first")
    other = claim(book, "second")
    book.mark_paid(kept.id, now=NOW)
    book.mark_paid(kept.id, now=NOW.replace(day=25))
    assert book.unpaid() == [other]
    with pytest.raises(ClaimedAlready) as refused:
        claim(book, "first")
    assert refused.value.claim.paid_at == "2026-11-21"


def test_what_is_owed_is_what_was_promised_less_what_was_paid(book):
    assert book.owed(STUDY, NORTH) == POOL
    kept = claim(book, "first")
    assert book.owed(STUDY, NORTH) == POOL  # claimed, and not paid
    book.mark_paid(kept.id, now=NOW)
    book.open_payout(STUDY, 6, NORTH, MEMBERS, pool=5 * POOL)
    assert book.owed(STUDY, NORTH) == 6 * POOL - kept.amount
    assert book.owed(STUDY, SOUTH) == book.owed(StudyId("other"), NORTH) == 0


def test_payouts_come_by_hospital_and_study_in_the_order_of_their_epochs(book):
    book.open_payout(STUDY, 4, NORTH, MEMBERS, pool=POOL)
    book.open_payout(STUDY, 6, SOUTH, MEMBERS, pool=POOL)
    assert [one.epoch for one in book.payouts(STUDY, NORTH)] == [4, 5]
    assert book.payouts(STUDY, NORTH)[1] == book.payout(STUDY, 5, NORTH)
    assert book.payouts(StudyId("other"), NORTH) == []


def test_what_is_to_be_paid_is_in_an_order_that_does_not_say_who_came_first(book):
    names = ["first", "second", "last"]
    kept = [claim(book, name) for name in names]
    assert book.unpaid() == sorted(kept, key=lambda one: one.id)


def test_a_claim_survives_the_process_and_is_not_made_twice_after_it(book, path):
    kept = claim(book, "first")
    again = ClaimBook(path, registry="registry")
    assert again.unpaid() == [kept]
    with pytest.raises(ClaimedAlready):
        claim(again, "first")
    again.close()


def test_what_the_disk_refused_was_not_claimed_and_can_be(book, monkeypatch):
    def full(*_arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(book._engine.dialect, "do_commit", full)
        with pytest.raises((StorageError, sqlite3.OperationalError)):
            claim(book, "first")
    assert book.unpaid() == []
    claim(book, "first")


def _claim_in_a_process(path, outcomes):
    book = ClaimBook(path, registry="registry")
    for name in ("first", "second", "last"):
        try:
            outcomes.put(claim(book, name).id)
        except ClaimedAlready:
            outcomes.put(None)
    book.close()


@pytest.mark.slow
def test_processes_that_claim_at_once_claim_each_share_once(book, path):
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    workers = [context.Process(target=_claim_in_a_process, args=(path, outcomes)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [outcomes.get(timeout=60) for _ in range(9)]
    for worker in workers:
        worker.join(60)
    made = [one for one in found if one is not None]
    assert sorted(made) == [one.id for one in book.unpaid()]
    assert sum(one.amount for one in book.unpaid()) == 3 * (POOL // 20 + 1)


def test_the_file_holds_nothing_that_leads_from_a_claim_to_a_member(book, path):
    claim(book, "second")
    book.close()
    with sqlite3.connect(path) as connection:
        [row] = connection.execute("SELECT * FROM claims").fetchall()
        members = {one for (one,) in connection.execute("SELECT member FROM payout_members")}
    assert not members & set(row)
    assert "2026-11-21T" not in str(row)
