"""What leaves with an event is from closed lists, so no patient is in it; nothing else is read."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_server.live import KINDS, RunEvent
from portal.live.events import (
    MEASURES,
    NUMBERS,
    PHASES,
    TEXT_MAX,
    LiveEvent,
    LiveEventUnreadable,
    public,
)
from tests.portal.live_run import NOON, SITES

PATIENT = ("4711", "Ada Example", "1975-05-04", "b3f1-77aa", 4711)
"""What a hospital knows of one: a number, a name, a birthday, a code."""

moments = st.integers(0, 10**7).map(lambda ms: (NOON + timedelta(milliseconds=ms)).isoformat())
counts = st.integers(0, 2**53 - 1)
run_events = st.builds(
    RunEvent,
    kind=st.sampled_from(KINDS),
    round=st.integers(0, 500),
    phase=st.sampled_from(("", *PHASES)),
    site=st.sampled_from((None, *SITES)),
    code=st.sampled_from(("", "started", "finished", "no-answer", "certificate-stale")),
    seconds=st.none() | st.floats(0, 1e6),
    bytes=st.none() | counts,
    numbers=st.dictionaries(st.sampled_from(NUMBERS), st.floats(0, 1e6)),
    at=moments,
    position=st.integers(1, 10**6),
)


def told(event):
    return public(event, rounds=10, sites=SITES)


@given(run_events)
def test_an_event_is_read_as_it_was_told(event):
    assert LiveEvent.read(told(event).text()) == told(event)


@given(run_events)
def test_what_was_told_is_what_the_server_wrote(event):
    sent = told(event)
    assert (sent.position, sent.kind, sent.round) == (event.position, event.kind, event.round)
    assert (sent.phase or "", sent.site, sent.code or "") == (event.phase, event.site, event.code)
    assert (sent.seconds, sent.bytes, sent.numbers) == (event.seconds, event.bytes, event.numbers)


@pytest.mark.parametrize("fact", PATIENT)
def test_no_fact_about_a_patient_leaves_whatever_field_it_stands_in(fact):
    event = RunEvent(
        "answered",
        3,
        phase=str(fact),
        site=str(fact),
        code=str(fact),
        numbers={str(fact): 1.0, "patient": 4711.0, "patients": 4711.0, "auc": 0.9},
        at=NOON.isoformat(),
        position=5,
    )
    text = told(event).text()
    assert str(fact) not in text
    assert "4711" not in text
    assert LiveEvent.read(text).numbers == {"auc": 0.9}


def test_a_site_that_is_none_of_the_studys_is_left_out():
    event = RunEvent("joined", site="elsewhere", at=NOON.isoformat(), position=1)
    assert told(event).site is None


def test_the_sites_and_rounds_of_the_study_come_where_a_server_begins():
    begun = told(RunEvent("run", code="started", at=NOON.isoformat(), position=1))
    assert (begun.rounds, begun.sites) == (10, tuple(sorted(SITES)))
    assert told(RunEvent("run", code="finished", at=NOON.isoformat(), position=2)).sites == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.9", None])
def test_a_number_that_is_none_is_left_out(value):
    event = RunEvent("metrics", 1, numbers={"auc": value}, at=NOON.isoformat(), position=1)
    assert told(event).numbers == {}


GOOD = '{"position":1,"at":"2026-11-21T12:00:00.000Z","kind":"closed","round":1%s}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        GOOD % ',"patient":"4711"',
        GOOD % ',"phase":"Ada Example"',
        GOOD % ',"code":"4711"',
        GOOD % ',"site":"../north"',
        GOOD % ',"site":7',
        GOOD % ',"sites":["north","SOUTH"]',
        GOOD % ',"bytes":-1',
        GOOD % ',"bytes":true',
        GOOD % ',"seconds":NaN',
        GOOD % ',"numbers":{"patients":3}',
        GOOD % ',"numbers":[]',
        GOOD.replace("closed", "gossip") % "",
        GOOD.replace("Z", "") % "",
        GOOD.replace('"round":1', '"round":"1"') % "",
        GOOD % f',"code":"{"a" * TEXT_MAX}"',
    ],
)
def test_what_is_no_event_is_refused(text):
    with pytest.raises(LiveEventUnreadable):
        LiveEvent.read(text)


def test_the_plain_one_is_read():
    event = LiveEvent.read(GOOD % "")
    assert event == LiveEvent(1, datetime(2026, 11, 21, 12, tzinfo=UTC), "closed", 1)


def test_measures_are_numbers_that_may_be_told():
    assert set(MEASURES) < set(NUMBERS)
