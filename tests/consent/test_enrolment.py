"""A person joins once, by a hospital's word, and acts by whom her policy says, to the day."""

from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consent import enrolment
from consent.enrolment import (
    CarerUnusable,
    CommitmentUnusable,
    EnrolmentGroup,
    EnrolmentRootStale,
    MemberUnknown,
    SiteNotEnrolling,
    WardOfAge,
)
from consent.enrolment_log import EnrolmentDamaged, EnrolmentRootUnknown, rebuild
from consent.proofing import (
    CARER,
    SELF,
    Enrolment,
    NotSignedByHospital,
    Proofing,
    Removal,
    minor,
)
from protocol.errors import ConsentError, StorageError
from protocol.ids import SiteId
from zk.lean_imt import LeanIMT
from zk.poseidon import FIELD
from zk.semaphore import GroupFull

NORTH, SOUTH = SiteId("north"), SiteId("south")
STEWARD = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_STEWARD = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KEYS = {
    NORTH: STEWARD.public_key().public_bytes_raw(),
    SOUTH: OTHER_STEWARD.public_key().public_bytes_raw(),
}
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
UNTIL = date(2026, 12, 1)
COMES_OF_AGE = datetime(2026, 12, 1, tzinfo=UTC)


def enrolled(commitment, policy=SELF):
    return Enrolment(
        site=NORTH,
        commitment=commitment,
        at=NOW.isoformat(),
        proofing=Proofing.IN_PERSON,
        policy=policy,
    ).signed_by(STEWARD)


def ended(commitment):
    return Removal(site=NORTH, commitment=commitment, at=NOW.isoformat()).signed_by(STEWARD)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "enrolment.db"


@pytest.fixture
def group(path):
    opened = EnrolmentGroup(path, KEYS)
    yield opened
    opened.close()


@pytest.fixture
def family(group):
    """Persons 1 and 2, and the ward 5 for whom 4 acts until 1 December."""
    group.enrol(enrolled(1), now=NOW)
    group.enrol(enrolled(2), now=NOW)
    group.enrol(enrolled(4, CARER), now=NOW)
    group.enrol(enrolled(5, minor(UNTIL, 4)), now=NOW)
    return group


# Joining


def test_members_stand_in_the_order_of_joining_under_the_root(group):
    for commitment in (30, 10, 20):
        group.enrol(enrolled(commitment), now=NOW)
    assert group.members(now=NOW) == [30, 10, 20]
    assert group.root(now=NOW) == LeanIMT([30, 10, 20]).root
    group.check_root(group.root(now=NOW), now=NOW)


def test_a_commitment_joins_once_even_after_it_was_removed(group):
    group.enrol(enrolled(1), now=NOW)
    for _ in range(2):
        with pytest.raises(CommitmentUnusable, match="before"):
            group.enrol(enrolled(1), now=NOW)
    group.remove(ended(1), now=NOW)
    with pytest.raises(CommitmentUnusable, match="before"):
        group.enrol(enrolled(1), now=NOW)
    assert group.members(now=NOW) == [0]


@pytest.mark.parametrize("commitment", [0, -1, FIELD])
def test_what_is_no_commitment_does_not_join(group, commitment):
    with pytest.raises(CommitmentUnusable, match="field"):
        group.enrol(enrolled(commitment), now=NOW)


def test_nobody_joins_without_the_signature_of_the_hospital_named(group):
    with pytest.raises(NotSignedByHospital):
        group.enrol(replace(enrolled(1), site=SOUTH), now=NOW)
    with pytest.raises(NotSignedByHospital):
        group.enrol(replace(enrolled(1), commitment=2), now=NOW)
    with pytest.raises(SiteNotEnrolling):
        group.enrol(replace(enrolled(1), site=SiteId("west")), now=NOW)
    assert group.log() == []


def test_a_full_group_takes_nobody(group, monkeypatch):
    def full(members):
        raise GroupFull(members)

    monkeypatch.setattr(enrolment, "check_members", full)
    with pytest.raises(GroupFull):
        group.enrol(enrolled(1), now=NOW)
    assert group.members(now=NOW) == []


# Leaving


def test_who_was_removed_has_0_in_her_place_and_no_older_root_serves(group):
    group.enrol(enrolled(1), now=NOW)
    group.enrol(enrolled(2), now=NOW)
    before = group.root(now=NOW)
    group.remove(ended(1), now=NOW)
    assert group.members(now=NOW) == [0, 2]
    with pytest.raises(EnrolmentRootStale, match="left"):
        group.check_root(before, now=NOW)
    group.check_past_root(before)
    group.check_root(group.root(now=NOW), now=NOW)


def test_only_the_hospital_that_enrolled_removes_and_only_once(group):
    group.enrol(enrolled(1), now=NOW)
    by_other = Removal(site=SOUTH, commitment=1, at=NOW.isoformat()).signed_by(OTHER_STEWARD)
    with pytest.raises(MemberUnknown):
        group.remove(by_other, now=NOW)
    with pytest.raises(NotSignedByHospital):
        group.remove(replace(ended(2), commitment=1), now=NOW)
    with pytest.raises(MemberUnknown):
        group.remove(ended(3), now=NOW)
    group.remove(ended(1), now=NOW)
    with pytest.raises(MemberUnknown):
        group.remove(ended(1), now=NOW)


# Roots


def test_a_root_that_others_joined_after_serves_for_24_hours(group):
    group.enrol(enrolled(1), now=NOW)
    first = group.root(now=NOW)
    group.check_root(first, now=NOW + 100 * DAY)  # it is the newest
    later = NOW + 100 * DAY
    group.enrol(enrolled(2), now=later)
    group.enrol(enrolled(3), now=later + 20 * HOUR)
    group.check_root(first, now=later + 24 * HOUR)
    with pytest.raises(EnrolmentRootStale, match="24 hours"):
        group.check_root(first, now=later + 24 * HOUR + timedelta(seconds=1))
    group.check_past_root(first)


def test_a_root_that_never_was_is_refused(group):
    group.enrol(enrolled(1), now=NOW)
    for check in (lambda root: group.check_root(root, now=NOW), group.check_past_root):
        with pytest.raises(EnrolmentRootUnknown):
            check(LeanIMT([1, 2]).root)


def test_the_root_0_of_an_emptied_group_is_refused_though_it_is_in_the_log(group):
    """The circuit would accept anybody under it."""
    group.enrol(enrolled(1), now=NOW)
    group.remove(ended(1), now=NOW)
    assert group.root(now=NOW) == 0 == group.log()[-1].root
    for check in (lambda root: group.check_root(root, now=NOW), group.check_past_root):
        with pytest.raises(EnrolmentRootUnknown):
            check(0)


# Wards and carers


def test_before_her_day_the_carer_acts_in_the_wards_place(family):
    assert family.members(now=COMES_OF_AGE - timedelta(seconds=1)) == [1, 2, 4]


def test_from_her_day_on_the_ward_acts_and_no_proof_of_her_carer_serves(family):
    before = family.root(now=NOW)
    family.check_root(before, now=COMES_OF_AGE - timedelta(seconds=1))
    # Nobody does anything at midnight; the check itself sees what day it is.
    with pytest.raises(EnrolmentRootStale, match="left"):
        family.check_root(before, now=COMES_OF_AGE)
    assert family.members(now=COMES_OF_AGE) == [1, 2, 5]
    family.check_root(LeanIMT([1, 2, 5]).root, now=COMES_OF_AGE)


def test_the_day_is_that_of_utc(family):
    in_the_east = timezone(timedelta(hours=8))
    assert family.members(now=datetime(2026, 12, 1, 7, 59, tzinfo=in_the_east))[2] == 4
    assert family.members(now=datetime(2026, 12, 1, 8, 0, tzinfo=in_the_east))[2] == 5


def test_a_carer_alone_has_no_place(group):
    group.enrol(enrolled(4, CARER), now=NOW)
    assert group.members(now=NOW) == []


def test_a_carer_acts_for_one_ward(family):
    with pytest.raises(CarerUnusable, match="another ward"):
        family.enrol(enrolled(6, minor(UNTIL, 4)), now=NOW)


@pytest.mark.parametrize("carer", [1, 99])
def test_a_carer_must_be_enrolled_as_one(family, carer):
    with pytest.raises(CarerUnusable, match="as a carer"):
        family.enrol(enrolled(6, minor(UNTIL, carer)), now=NOW)


def test_a_removed_carer_takes_no_ward(group):
    group.enrol(enrolled(4, CARER), now=NOW)
    group.remove(ended(4), now=NOW)
    with pytest.raises(CarerUnusable, match="removed"):
        group.enrol(enrolled(5, minor(UNTIL, 4)), now=NOW)


def test_without_her_carer_nobody_acts_for_the_ward_until_her_day(family):
    family.remove(ended(4), now=NOW)
    assert family.members(now=NOW) == [1, 2, 0]
    assert family.members(now=COMES_OF_AGE) == [1, 2, 5]


def test_a_carer_removed_after_the_wards_day_changes_nothing(family):
    family.members(now=COMES_OF_AGE)
    family.remove(ended(4), now=COMES_OF_AGE)
    assert family.members(now=COMES_OF_AGE) == [1, 2, 5]


def test_a_removed_ward_has_no_carer_acting_and_does_not_come_back(family):
    family.remove(ended(5), now=NOW)
    assert family.members(now=NOW) == [1, 2, 0]
    assert family.members(now=COMES_OF_AGE + DAY) == [1, 2, 0]


def test_who_is_of_age_is_not_enrolled_as_a_ward(group):
    group.enrol(enrolled(4, CARER), now=NOW)
    with pytest.raises(WardOfAge):
        group.enrol(enrolled(5, minor(NOW.date(), 4)), now=NOW)


# The log and the file


def test_anybody_rebuilds_the_group_from_its_log(family):
    family.remove(ended(2), now=NOW)
    tree = rebuild(family.log())
    assert (tree.leaves(), tree.root) == ([1, 0, 4], family.root(now=NOW))


@pytest.mark.parametrize("field", ["sequence", "place", "leaf", "left", "root"])
def test_a_log_of_which_an_entry_was_changed_is_refused(family, field):
    log = family.log()
    value = getattr(log[1], field)
    log[1] = replace(log[1], **{field: not value if field == "left" else value + 3})
    with pytest.raises(EnrolmentDamaged):
        rebuild(log)
    with pytest.raises(EnrolmentDamaged):
        rebuild(family.log()[1:])


def test_a_file_that_was_altered_is_refused(family, path):
    family.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER enrolment_log_refuse_update")
        connection.execute("UPDATE enrolment_log SET leaf = root WHERE sequence = 2")
    with pytest.raises(EnrolmentDamaged):
        EnrolmentGroup(path, KEYS)


def test_the_log_refuses_to_be_rewritten(family):
    for change in ("UPDATE enrolment_log SET leaf = root", "DELETE FROM enrolment_log"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), family._engine.begin() as open_:
            open_.exec_driver_sql(change)


def test_another_process_sees_the_same_group_and_goes_on_with_it(family, path):
    other = EnrolmentGroup(path, KEYS)
    assert other.members(now=NOW) == family.members(now=NOW)
    other.enrol(enrolled(9), now=NOW)
    assert family.members(now=NOW) == [1, 2, 4, 9]
    family.remove(ended(1), now=NOW)
    assert other.root(now=NOW) == LeanIMT([0, 2, 4, 9]).root
    other.close()


def test_what_the_disk_refused_did_not_happen(family, monkeypatch):
    root = family.root(now=NOW)

    def full(*_arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(family._engine.dialect, "do_commit", full)
        with pytest.raises((StorageError, sqlite3.OperationalError)):
            family.enrol(enrolled(9), now=NOW)
    assert family.root(now=NOW) == root
    family.enrol(enrolled(9), now=NOW)
    assert family.members(now=NOW) == [1, 2, 4, 9]


def test_the_file_holds_no_word_of_who_somebody_is(family, path):
    family.close()
    with sqlite3.connect(path) as connection:
        texts = {
            text
            for table in ("enrolments", "enrolment_log")
            for row in connection.execute(f"SELECT * FROM {table}")
            for text in row
            if isinstance(text, str)
        }
    times = {NOW.isoformat(), UNTIL.isoformat()}
    assert texts == {"north", "in-person", "self", "carer", "minor"} | times


def _enrol_ten(path, first):
    group = EnrolmentGroup(path, KEYS)
    for commitment in range(first, first + 10):
        group.enrol(enrolled(commitment), now=NOW)
    group.close()


@pytest.mark.slow
def test_processes_that_enrol_at_once_lose_nobody(group, path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_enrol_ten, args=(path, first)) for first in (100, 200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(group.members(now=NOW)) == [*range(100, 110), *range(200, 210), *range(300, 310)]
    assert rebuild(group.log()).root == group.root(now=NOW)


# Any interleaving


class Machine(RuleBasedStateMachine):
    """Two instances over one file, beside a model that works each state out from the beginning."""

    database = ":memory:"

    def __init__(self):
        super().__init__()
        first = EnrolmentGroup(self.database, KEYS)
        self.groups = [first, EnrolmentGroup(first._engine, KEYS)]
        self.now = NOW
        self.persons = []  # [commitment, until, carer], in the order of their places
        self.carers = {}  # commitment: has a ward
        self.removed = set()
        self.next = 1

    def expected(self):
        leaves = []
        for commitment, until, carer in self.persons:
            acting = commitment if until is None or self.now.date() >= until else carer
            gone = commitment in self.removed or acting in self.removed
            leaves.append(0 if gone else acting)
        return leaves

    def new(self):
        self.next += 1
        return self.next

    @rule(which=st.integers(0, 1))
    def enrol_somebody(self, which):
        commitment = self.new()
        self.groups[which].enrol(enrolled(commitment), now=self.now)
        self.persons.append([commitment, None, None])

    @rule(which=st.integers(0, 1), days=st.integers(1, 4))
    def enrol_a_ward(self, which, days):
        carer, ward = self.new(), self.new()
        until = (self.now + days * DAY).date()
        self.groups[which].enrol(enrolled(carer, CARER), now=self.now)
        self.groups[1 - which].enrol(enrolled(ward, minor(until, carer)), now=self.now)
        self.carers[carer] = True
        self.persons.append([ward, until, carer])

    @precondition(lambda self: self.next > 1)
    @rule(which=st.integers(0, 1), data=st.data())
    def remove_somebody(self, which, data):
        commitment = data.draw(st.integers(2, self.next))
        if commitment in self.removed:
            with pytest.raises(MemberUnknown):
                self.groups[which].remove(ended(commitment), now=self.now)
        else:
            self.groups[which].remove(ended(commitment), now=self.now)
            self.removed.add(commitment)

    @precondition(lambda self: self.next > 1)
    @rule(which=st.integers(0, 1), data=st.data())
    def enrol_again(self, which, data):
        commitment = data.draw(st.integers(2, self.next))
        with pytest.raises(ConsentError):
            self.groups[which].enrol(enrolled(commitment), now=self.now)

    @rule(hours=st.integers(1, 40))
    def wait(self, hours):
        self.now += hours * HOUR

    @invariant()
    def both_hold_what_the_model_says(self):
        for group in self.groups:
            assert group.members(now=self.now) == self.expected()
            assert group.root(now=self.now) == LeanIMT(self.expected()).root

    @invariant()
    def the_log_leads_to_the_root(self):
        assert rebuild(self.groups[0].log()).root == self.groups[1].root(now=self.now)

    def teardown(self):
        self.groups[0].close()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
