"""Grants wait for their batch, withdrawals never do, and nothing accepted is lost or doubled."""

from __future__ import annotations

import hashlib
import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consent.batching import GrantQueue
from consent.lanes import LanePolicy
from consent.publication import Checked, LaneFull, LeafUnusable
from consent.registry import Registry
from consent.withdrawal import GrantUnknown, WithdrawalCodeWrong
from protocol.ids import GrantId, SiteId, StudyId
from tests.consent.test_registry_proven import STEWARD, grant_of
from tests.consent.test_registry_proven import group as group  # noqa: PLC0414 - a fixture
from zk import fast

pytestmark = pytest.mark.slow

STUDY, NORTH = StudyId("study"), SiteId("north")
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Believing(Registry):
    """A registry that takes a person's number for her proof; proofs are tested elsewhere."""

    def check_grant(self, lane, grant, **_how):
        person, leaf = grant
        revoke_hash = hashlib.sha256(b"%d" % leaf).digest()
        return Checked(lane, leaf, revoke_hash, nullifier=person, payout_id=person, proof="{}")


@pytest.fixture
def queue(path, key, tmp_path):
    opened = Queue(path, key, tmp_path / "queue.db")
    yield opened
    opened.close()


class Queue:
    def __init__(self, path, key, file, shuffle=lambda _grants: None):
        self.registry = Believing(path, registry_id="registry", signing_key=key)
        self.lane = self.registry.open_lane(STUDY, NORTH, "scans", 8, 4, policy=LanePolicy.PROVEN)
        self.queue = GrantQueue(file, self.registry, interval=HOUR, shuffle=shuffle)

    def close(self):
        self.queue.close()
        self.registry.close()

    def accept(self, person, leaf):
        return self.queue.accept(self.lane, (person, leaf), group=None, now=NOW)

    def withdraw(self, grant, leaf):
        return self.queue.withdraw(grant, b"%d" % leaf, now=NOW)

    def live(self):
        return [leaf for leaf in self.registry.leaves(self.lane) if leaf]


def test_grants_of_an_interval_appear_in_one_epoch(queue):
    for person in (1, 2, 3):
        queue.accept(person, 10 + person)
    assert queue.live() == []
    assert queue.queue.waiting() == 3
    receipts = queue.queue.publish_due(now=NOW)
    assert {receipt.epoch for receipt in receipts} == {1}
    assert queue.live() == [11, 12, 13]
    assert queue.queue.waiting() == 0


def test_a_batch_waits_its_interval(queue):
    queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    queue.accept(2, 12)
    assert queue.queue.publish_due(now=NOW + HOUR - timedelta(seconds=1)) == []
    assert len(queue.queue.publish_due(now=NOW + HOUR)) == 1
    assert queue.queue.publish_due(now=NOW + 3 * HOUR) == []


def test_withdrawals_do_not_keep_a_batch_waiting(queue):
    first = queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    queue.accept(2, 12)
    queue.registry.withdraw(first, b"11", now=NOW + HOUR - timedelta(seconds=1))
    assert len(queue.queue.publish_due(now=NOW + HOUR)) == 1


def test_the_order_in_a_batch_does_not_depend_on_the_order_of_arrival(path, key, tmp_path):
    """With one shuffle, every order of arrival gives the same places."""
    seen = set()
    for number, order in enumerate(itertools.permutations((1, 2, 3))):
        shuffle = random.Random(5).shuffle
        queue = Queue(
            tmp_path / f"registry-{number}.db", key, tmp_path / f"queue-{number}.db", shuffle
        )
        for person in order:
            queue.accept(person, 10 + person)
        queue.queue.publish_due(now=NOW)
        seen.add(tuple(queue.live()))
        queue.close()
    assert len(seen) == 1


def test_a_withdrawal_ends_a_grant_that_waits_and_a_published_one_at_once(queue):
    waits = queue.accept(1, 11)
    assert queue.withdraw(waits, 11) is None
    assert queue.queue.publish_due(now=NOW) == []
    published = queue.accept(2, 12)
    queue.queue.publish_due(now=NOW + HOUR)
    assert queue.withdraw(published, 12).epoch == 2
    assert queue.live() == []


def test_who_withdraws_is_not_surprised_by_a_change_that_still_waited(queue):
    first = queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    queue.accept(1, 12)
    queue.withdraw(first, 11)
    queue.queue.publish_due(now=NOW + 2 * HOUR)
    assert queue.live() == []


def test_who_withdraws_a_change_that_waits_withdraws_what_it_would_replace(queue):
    queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    change = queue.accept(1, 12)
    assert queue.withdraw(change, 12).index == 0
    assert queue.live() == []
    assert queue.withdraw(change, 12) is None  # again, likewise
    assert queue.queue.publish_due(now=NOW + HOUR) == []


def test_the_code_of_a_grant_that_was_replaced_while_it_waited_ends_its_heir(queue):
    first, second = queue.accept(1, 11), queue.accept(1, 12)
    third = queue.accept(1, 13)
    queue.queue.publish_due(now=NOW)
    assert queue.live() == [13]
    with pytest.raises(WithdrawalCodeWrong):
        queue.withdraw(first, 12)
    assert queue.withdraw(first, 11).grant == third
    assert queue.live() == []
    assert queue.withdraw(second, 12).grant == third
    later = queue.accept(1, 14)
    assert queue.withdraw(first, 11).grant == third  # what was granted anew stands, ...
    assert queue.queue.waiting() == 0  # ... once it is published
    assert queue.withdraw(later, 14) is None


def test_a_change_of_what_was_withdrawn_elsewhere_is_never_published(queue):
    first = queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    queue.accept(1, 12)
    queue.registry.withdraw(first, b"11", now=NOW)  # by her hospital, beside the queue
    assert queue.queue.publish_due(now=NOW + HOUR) == []
    queue.accept(1, 13)  # anew, and not a change
    queue.queue.publish_due(now=NOW + 2 * HOUR)
    assert queue.live() == [13]


def test_the_first_batch_waits_too(queue):
    queue.queue.begin(now=NOW)
    queue.accept(1, 11)
    assert queue.queue.publish_due(now=NOW) == []
    queue.queue.begin(now=NOW + HOUR)  # a restart does not begin it anew
    assert queue.queue.due(now=NOW) == NOW + HOUR
    assert len(queue.queue.publish_due(now=NOW + HOUR)) == 1


def test_receipts_are_given_again_to_the_byte(queue):
    for person in (1, 2):
        queue.accept(person, 10 + person)
    queue.queue.publish_due(now=NOW)
    queue.accept(1, 13)
    (second,) = queue.queue.publish_due(now=NOW + HOUR)
    assert second.replaces is not None
    assert queue.registry.receipt(second.grant) == second
    assert queue.registry.receipts(queue.lane, 2) == [second]
    assert [one.leaf for one in queue.registry.receipts(queue.lane, 1)] == [11, 12]
    with pytest.raises(GrantUnknown):
        queue.registry.receipt(GrantId("00"))


def test_after_a_batch_the_file_does_not_tell_who_came_first(path, key, tmp_path):
    """Whatever the order of arrival, the same bytes are left."""
    left = set()
    for number, order in enumerate(itertools.permutations((1, 2, 3))):
        file = tmp_path / f"queue-{number}.db"
        queue = Queue(tmp_path / f"registry-{number}.db", key, file)
        for person in order:
            queue.accept(person, 10 + person)
        assert (11).to_bytes(32, "big") in file.with_name(file.name + "-wal").read_bytes()
        queue.queue.publish_due(now=NOW)
        queue.queue.forget_past()
        assert file.with_name(file.name + "-wal").read_bytes() == b""
        left.add(file.read_bytes()[100:])  # after SQLite's header, which counts changes
        queue.close()
    assert len(left) == 1


def test_of_one_person_the_last_grant_is_published(queue):
    queue.accept(1, 11)
    queue.accept(1, 12)
    assert queue.queue.waiting() == 1
    queue.queue.publish_due(now=NOW)
    assert queue.live() == [12]


def test_a_code_of_another_is_refused_and_the_grant_waits_on(queue):
    waits = queue.accept(1, 11)
    with pytest.raises(WithdrawalCodeWrong):
        queue.withdraw(waits, 12)
    with pytest.raises(GrantUnknown):
        queue.withdraw(GrantId("00"), 11)
    assert queue.queue.waiting() == 1


def test_a_leaf_is_accepted_once(queue):
    queue.accept(1, 11)
    with pytest.raises(LeafUnusable):
        queue.accept(1, 11)
    queue.queue.publish_due(now=NOW)
    with pytest.raises(LeafUnusable):
        queue.accept(1, 11)


def test_a_lane_is_full_when_those_who_wait_fill_it(queue):
    for person in range(1, 9):
        queue.accept(person, 10 + person)
    with pytest.raises(LaneFull):
        queue.accept(9, 19)
    queue.accept(8, 28)  # a change takes no place more
    assert len(queue.queue.publish_due(now=NOW)) == 8


def test_a_crash_between_publishing_and_noting_it_doubles_nothing(queue, monkeypatch):
    queue.accept(1, 11)
    publish = queue.registry.publish_checked

    def publish_and_die(grants, *, now):
        publish(grants, now=now)
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.registry, "publish_checked", publish_and_die)
    with pytest.raises(KeyboardInterrupt):
        queue.queue.publish_due(now=NOW)
    monkeypatch.setattr(queue.registry, "publish_checked", publish)
    assert queue.queue.waiting() == 1
    queue.accept(2, 12)
    assert len(queue.queue.publish_due(now=NOW + HOUR)) == 1
    assert queue.live() == [11, 12]


def test_a_proof_is_verified_when_it_is_accepted(registry, tmp_path, group):
    lane = registry.open_lane(STUDY, NORTH, "scans", 8, 4, policy=LanePolicy.PROVEN)
    queue = GrantQueue(tmp_path / "queue.db", registry, interval=HOUR, shuffle=lambda _grants: None)
    queue.accept(lane, grant_of("by_self"), group=group, now=NOW, verifier=fast.verify)
    (receipt,) = queue.publish_due(now=NOW)
    assert receipt.proven
    assert registry.leaves(lane)[0] == grant_of("by_self").leaf
    queue.close()


@example(steps=[("grant", 1), ("publish", 1), ("grant", 1), ("withdraw", 1)])
@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["grant", "withdraw", "publish"]), st.integers(1, 3)),
        max_size=12,
    )
)
def test_whoever_withdrew_last_has_no_live_leaf_and_whoever_granted_last_gets_one(
    tmp_path_factory, steps
):
    folder = tmp_path_factory.mktemp("queue")
    queue = Queue(folder / "registry.db", STEWARD, folder / "queue.db")
    newest, granted = {}, []
    for number, (step, person) in enumerate(steps):
        if step == "grant" and number < 8:
            newest[person] = queue.accept(person, 100 + number), 100 + number
            granted.append((person, 100 + number))
        elif step == "withdraw" and newest.get(person):
            queue.withdraw(*newest[person])
            newest[person] = None
            assert not {leaf for who, leaf in granted if who == person} & set(queue.live())
        elif step == "publish":
            queue.queue.publish_due(now=NOW + number * HOUR)
    queue.queue.publish_due(now=NOW + 100 * HOUR)
    assert sorted(queue.live()) == sorted(one[1] for one in newest.values() if one)
    queue.close()
