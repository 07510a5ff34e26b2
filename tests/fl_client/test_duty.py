"""Only an officer of this hospital stops it and lets it go on, and what she ordered is recorded."""

import pytest

from fl_client.decisions import Decisions
from fl_client.duty import Duty
from identity.roles import Actor, Permission, PermissionMissing, Role
from protocol.errors import DiskFull
from tests.fl_client.job_world import OFFICER, SITE, STEWARD, STRANGER, Clock

OPERATOR = Actor("operator", frozenset({Role.OPERATOR}))
ORDERS = ("pause", "resume", "drain", "leave")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rounds():
    return []


@pytest.fixture
def record(tmp_path):
    return Decisions(tmp_path)


@pytest.fixture
def duty(tmp_path, record, clock, rounds):
    return Duty(tmp_path / "site.db", SITE, record, clock=clock, under_way=lambda: rounds)


def test_each_order_is_recorded_with_who_gave_it_and_why(duty, record):
    for order in ORDERS:
        duty.order(order, OFFICER, reason="the scanner moves")
    assert [one.kind for one in record.all()] == ["paused", "resumed", "draining", "leaving"]
    assert {(one.subject, one.who, one.reason) for one in record.all()} == {
        ("duty", "officer-1", "the scanner moves")
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("actor", [STEWARD, STRANGER, OPERATOR, Actor("nobody", frozenset())])
def test_nobody_else_orders_anything_and_the_attempt_is_on_record(duty, record, order, actor):
    with pytest.raises(PermissionMissing):
        duty.order(order, actor)
    assert duty.standing().state == "running"
    (denied,) = record.all()
    may = Permission.LEAVE_FEDERATION if order == "leave" else Permission.PAUSE_SITE
    assert (denied.kind, denied.subject, denied.who) == ("permission-denied", may, actor.name)


def test_a_site_that_left_is_brought_back_by_the_right_to_leave(duty, record):
    duty.order("leave", OFFICER)
    with pytest.raises(PermissionMissing):
        duty.order("resume", STEWARD)
    assert record.all()[-1].subject == Permission.LEAVE_FEDERATION
    assert duty.order("resume", OFFICER).state == "running"


def test_a_full_disk_keeps_no_site_running_and_lets_none_go_on(duty, record, monkeypatch):
    def full(*_, **__):
        raise DiskFull("audit.db")

    monkeypatch.setattr(record, "add", full)
    with pytest.raises(DiskFull):
        duty.order("pause", OFFICER)
    assert duty.standing().state == "paused"
    with pytest.raises(DiskFull):
        duty.order("resume", OFFICER)
    assert duty.standing().state == "paused"


def test_no_drain_takes_longer_than_an_hour_whatever_is_under_way(duty, clock, rounds):
    rounds.append(("lesions", 3))
    assert duty.order("drain", OFFICER).state == "draining"
    clock.pass_(minutes=59)
    assert duty.standing().state == "draining"
    clock.pass_(minutes=1)
    assert duty.standing().state == "paused"
