"""Readers follow a run by its events while it is written, in order and without gaps."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from fl_server.live import RunEvent, RunEvents
from fl_server.reporter import Reporter
from fl_server.standing import summary
from fl_server.store import ServerStore
from protocol.progress import Step, silent
from tests.fl_server.records import SITES, closing, model, planned, terms


@pytest.fixture
def source(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def store(source):
    made = ServerStore(source)
    made.found(terms(), model())
    return made


@pytest.fixture
def reader(store, source):
    return ServerStore(source)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_events_come_in_order_from_one_position_to_the_next(store, reader):
    for number in range(1, 4):
        store.events.append(RunEvent("metrics", number, numbers={"auc": number / 4}))
    found = reader.events.since(1)
    assert [one.position for one in found] == [2, 3]
    assert [one.numbers["auc"] for one in found] == [0.5, 0.75]
    assert reader.events.since(0, limit=2)[-1].position == 2
    assert reader.events.last() == 3
    assert reader.events.since(3) == []


def test_an_event_is_stored_with_what_it_tells_of(store, reader):
    store.events.tell(RunEvent("phase", 1, "uploads"))
    assert reader.events.since() == []
    store.plan(planned())
    assert [one.phase for one in reader.events.since()] == ["uploads"]


def test_an_event_whose_transaction_failed_comes_with_the_next(store, reader):
    store.events.tell(RunEvent("phase", 1, "uploads"))
    store.plan(planned())
    store.events.tell(RunEvent("phase", 1, "unmasking"))
    with pytest.raises(Exception, match=r"(?i)unique|constraint"):
        store.plan(planned())
    store.events.append(RunEvent("phase", 1, "opening"))
    assert [one.phase for one in reader.events.since()] == ["uploads", "unmasking", "opening"]


def test_writers_at_once_leave_no_gap(source, store, reader):
    def write(kind):
        events = ServerStore(source).events
        for number in range(10):
            events.append(RunEvent(kind, number))

    writers = [threading.Thread(target=write, args=(kind,)) for kind in ("metrics", "phase")]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.position for one in reader.events.since()] == list(range(1, 21))


def test_a_run_is_waiting_then_running_then_finished(store, reader):
    assert summary(reader).state == "waiting"
    report = Reporter(store.events, silent)
    report.run("started")
    assert summary(reader).state == "running"
    report.run("too-few-sites")
    assert summary(reader).state == "too-few-sites"
    assert summary(reader).run == store.run()


def test_sites_stand_where_their_last_event_left_them(store, reader):
    clock = Clock()
    report = Reporter(store.events, silent, clock=clock)
    report.run("started")
    report.enter(1, "roster", deadline=60.0)
    for site in SITES[:2]:
        report(Step("join", 0, site))
    report.enter(1, "uploads", deadline=3600.0, quorum=2, asked=2)
    clock.now += 7.0
    report.uploaded(SITES[0], 21_000_000)
    report.refused(SITES[1], "certificate-stale")
    store.events.flush()
    now = summary(reader)
    assert (now.round, now.phase, now.deadline_seconds) == (1, "uploads", 3600.0)
    first, second, third = (now.sites[site] for site in SITES)
    assert (first.state, first.bytes, first.seconds) == ("answered", 21_000_000, 7.0)
    assert (second.state, second.code) == ("refused", "certificate-stale")
    assert third.state == "absent"
    report.enter(1, "unmasking", deadline=600.0)
    store.events.flush()
    assert summary(reader).sites[SITES[0]].state == "asked"
    report.late(1, SITES[1], "late-answer", 5)
    assert summary(reader).sites[SITES[1]].state == "late"


def test_the_time_left_is_the_median_of_rounds_less_what_this_one_took(store, reader):
    clock = Clock()
    report = Reporter(store.events, silent, clock=clock)
    assert summary(reader).eta_seconds is None
    for number, seconds in enumerate((10.0, 100.0, 12.0), 1):
        report.enter(number, "roster", deadline=60.0)
        clock.now += seconds
        store.plan(planned(number))
        report.closed(number, receipts=3)
        store.close(closing(number), model(number))
    left = terms().rounds - 3
    assert summary(reader).eta_seconds == pytest.approx(12.0 * left)
    report.enter(4, "roster", deadline=60.0)
    clock.now += 2.0
    report(Step("call", 4, SITES[0]))
    store.events.flush()
    assert summary(reader).eta_seconds == pytest.approx(12.0 * left - 2.0)


def test_a_wall_clock_an_hour_off_changes_stamps_alone(store):
    clock = Clock()
    wrong = RunEvents(
        store.database, now=lambda: datetime.now(UTC) - timedelta(hours=1, minutes=clock.now)
    )
    report = Reporter(wrong, silent, clock=clock)
    report.enter(1, "uploads", deadline=60.0)
    clock.now += 3.0
    report.uploaded(SITES[0], 1)
    wrong.flush()
    first, second = wrong.since()
    assert first.at > second.at  # backwards, as the clock went
    assert (first.position, second.position) == (1, 2)
    assert second.seconds == 3.0


def test_metrics_are_kept_by_round_and_name(store, reader):
    store.events.append(RunEvent("metrics", 1, numbers={"auc": 0.8}))
    store.events.append(RunEvent("metrics", 1, numbers={"loss": 0.3}))
    assert summary(reader).metrics == {1: {"auc": 0.8, "loss": 0.3}}


def test_an_event_has_no_field_for_words(store):
    report = Reporter(store.events, silent)
    report(Step("refuse", 1, SITES[0], note="certificate-stale: 3 patients withdrew"))
    report(Step("leave-out", 1, SITES[0], note="3 patients withdrew"))
    report(Step("decline", 0, SITES[0], note="endorsement: summation-refused"))
    store.events.flush()
    assert [(one.kind, one.code) for one in store.events.since()] == [
        ("refused", "summation-refused")
    ]
