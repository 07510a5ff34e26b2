"""Everybody who read the same events sees the same run, in Python and in the page's script."""

import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portal.live
from fl_server.live import RunEvent
from portal.live.chart import chart_of
from portal.live.events import public
from portal.live.terminal import sparkline
from portal.live.view import View, milliseconds
from portal.live.wording import duration_text, measure_text, size_text, texts
from tests.portal.live_run import NOON, SITES
from tests.portal.test_live_events import run_events

FOLD = Path(portal.live.__file__).parent / "static" / "fold.js"
SCRIPT = """
const run = await import(process.argv[1])
let text = ""
for await (const chunk of process.stdin) text += chunk
const { cases, texts } = JSON.parse(text)
const say = (key, values = {}) => texts[key].replace(/\\{(\\w+)\\}/g, (_, name) => values[name])
console.log(JSON.stringify(cases.map(({ view, events, now }) => {
  const after = events.reduce(run.fold, view)
  const name = run.measure(after)
  const left = run.remaining(after, now)
  return {
    view: after, measure: name, left: left === null ? null : run.durationText(left, say),
    states: Object.keys(after.sites).sort().map((site) => run.stateOf(after, site)),
    codes: Object.keys(after.sites).sort().map((site) => run.refusalOf(after, site)),
    closed: run.closed(after), sent: run.sizeText(run.sent(after)),
    charts: [name, "seconds"].map((one) => {
      const points = one === null ? [] : run.curve(after, one)
      const chart = run.chartOf(points, after.total, one === "seconds")
      const values = points.map(([, value]) => run.measureText(value))
      return [values, chart.values.map(([, text]) => text),
        chart.rounds.map(([, text]) => text), chart.line.split(" ").length]
    }),
  }
})))
"""


def numbered(events):
    return [
        public(replace(event, position=place), rounds=10, sites=SITES)
        for place, event in enumerate(events, 1)
    ]


histories = st.lists(run_events, max_size=30).map(numbered)


@given(histories, st.data())
def test_an_event_that_came_before_changes_nothing(events, data):
    seen = data.draw(st.integers(0, len(events)))
    view = View().all_after(events[:seen])
    assert view.all_after(events[:seen]) == view
    assert view.all_after(events) == View().all_after(events)


@given(histories, st.integers(0, 10**7))
def test_the_time_left_is_never_negative(events, waited):
    left = View().all_after(events).remaining(NOON + timedelta(milliseconds=waited))
    assert left is None or left >= 0


def history(*events):
    return View().all_after(
        numbered([RunEvent(at=(NOON + timedelta(seconds=s)).isoformat(), **e) for s, e in events])
    )


def test_the_time_left_is_known_as_soon_as_a_round_was_closed():
    begun = (0, {"kind": "run", "code": "started"})
    first = (0, {"kind": "phase", "round": 1, "phase": "uploads"})
    closed = (30, {"kind": "closed", "round": 1, "seconds": 30.0})
    now = NOON + timedelta(seconds=40)
    assert history(begun, first).remaining(now) is None
    assert history(begun, first, closed).remaining(now) == 9 * 30 - 10


def test_a_server_that_failed_and_was_started_again_is_running():
    failed = (9, {"kind": "run", "code": "too-few-sites"})
    view = history((0, {"kind": "run", "code": "started"}), failed)
    assert (view.outcome, view.code) == ("failed", "too-few-sites")
    again = history(
        (0, {"kind": "run", "code": "started"}), failed, (20, {"kind": "run", "code": "started"})
    )
    assert (again.outcome, again.code) == (None, None)


def test_a_refusal_is_shown_until_the_next_round():
    begun = (0, {"kind": "run", "code": "started"})
    site = {"site": "lakeside"}
    refused = (
        2,
        {"kind": "refused", "round": 1, "phase": "uploads", "code": "certificate-stale"} | site,
    )
    lifted = (3, {"kind": "answered", "round": 1, "phase": "unmasking"} | site)
    called = (9, {"kind": "answered", "round": 2, "phase": "roster"} | site)
    assert history(begun, refused, lifted).sites["lakeside"].code == "certificate-stale"
    assert history(begun, refused, lifted, called).sites["lakeside"].code is None


def test_after_the_last_round_nobody_stands_as_refused():
    begun = (0, {"kind": "run", "code": "started"})
    joined = (1, {"kind": "joined", "site": "lakeside"})
    refused = (2, {"kind": "refused", "round": 10, "phase": "closing", "code": "quorum-missing"})
    refused = (2, refused[1] | {"site": "lakeside"})
    view = history(begun, joined, refused)
    assert (view.state("lakeside"), view.refusal("lakeside")) == ("refused", "quorum-missing")
    ended = history(begun, joined, refused, (3, {"kind": "run", "round": 10, "code": "finished"}))
    assert (ended.state("lakeside"), ended.refusal("lakeside")) == ("done", None)
    assert ended.state("meadow") == "absent"
    stopped = history(begun, joined, refused, (3, {"kind": "run", "code": "too-few-sites"}))
    assert stopped.state("lakeside") == "refused"


def test_a_site_is_training_until_its_update_came():
    begun = (0, {"kind": "run", "code": "started"})
    joined = (1, {"kind": "joined", "site": "meadow"})
    asked = (2, {"kind": "phase", "round": 1, "phase": "uploads", "numbers": {"asked": 6}})
    came = (3, {"kind": "answered", "round": 1, "phase": "uploads", "site": "meadow", "bytes": 9})
    view = history(begun, joined, asked)
    assert (view.state("meadow"), view.state("harbour"), view.answers) == ("training", "absent", 0)
    view = history(begun, joined, asked, came)
    assert (view.state("meadow"), view.answers, view.asked) == ("accepted", 1, 6)
    assert view.rounds[1].updates == 1


def test_a_site_that_is_asked_twice_in_a_phase_is_counted_once():
    begun = (0, {"kind": "run", "code": "started"})
    joined = (1, {"kind": "joined", "phase": "roster", "round": 1, "site": "meadow"})
    asked = (2, {"kind": "phase", "round": 1, "phase": "unmasking", "numbers": {"asked": 6}})
    came = {"kind": "answered", "round": 1, "phase": "unmasking", "site": "meadow"}
    other = came | {"site": "harbour", "kind": "refused", "code": "no-answer"}
    assert history(begun, joined, asked, (3, came), (4, came), (5, other)).answers == 2


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_a_curve_of_one_line_has_a_block_for_each_of_the_last_values(values):
    assert len(sparkline(values)) == min(len(values), 40)


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(-1e5, 1e5)), max_size=40),
    st.integers(0, 500),
    st.booleans(),
)
def test_every_point_of_a_curve_is_inside_its_drawing(points, total, from_zero):
    points = sorted({number: abs(value) for number, value in points}.items())
    chart = chart_of(points, total=total, from_zero=from_zero)
    for place in filter(None, chart.line.split(" ")):
        x, y = map(float, place.split(","))
        assert 44 <= x <= 346
        assert 12 <= y <= 164
    assert 2 <= len(chart.values) <= 12
    assert len(chart.rounds) <= 8


def test_the_pages_script_sees_the_same_run():
    if shutil.which("node") is None:
        pytest.skip("no node here; the page's own test compares too, in Chromium")
    draw = random.Random(7)
    cases, expected = [], []
    for _ in range(60):
        events = numbered([_any_event(draw) for _ in range(draw.randrange(40))])
        seen = draw.randrange(len(events) + 1)
        before, after = View().all_after(events[:seen]), View().all_after(events)
        now = NOON + timedelta(seconds=draw.randrange(200))
        rest = [event.body() for event in events[max(seen - 2, 0) :]]
        cases.append({"view": before.body(), "events": rest, "now": milliseconds(now)})
        expected.append(_seen_here(after, now))
    sent = json.dumps({"cases": cases, "texts": {key: one["en"] for key, one in texts().items()}})
    answer = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT, FOLD.as_uri()],
        input=sent.encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(answer.stdout) == json.loads(json.dumps(expected))


def _seen_here(view, now):
    left = view.remaining(now)
    return {
        "view": view.body(),
        "measure": view.measure,
        "left": None if left is None else duration_text(left, "en"),
        "states": [view.state(site) for site in sorted(view.sites)],
        "codes": [view.refusal(site) for site in sorted(view.sites)],
        "closed": view.closed,
        "sent": size_text(view.bytes),
        "charts": [_chart(view, name) for name in (view.measure, "seconds")],
    }


def _chart(view, name):
    points = view.curve(name) if name else []
    chart = chart_of(points, total=view.total, from_zero=name == "seconds")
    return [
        [measure_text(value) for _, value in points],
        [text for _, text in chart.values],
        [text for _, text in chart.rounds],
        len(chart.line.split(" ")),
    ]


def _any_event(draw):
    kind = draw.choice(
        ["run", "phase", "joined", "answered", "refused", "late", "closed", "metrics"]
    )
    codes = {"run": ["started", "started", "finished", "too-few-sites"], "refused": ["no-answer"]}
    return RunEvent(
        kind,
        draw.randrange(12),
        phase=draw.choice(["", "roster", "uploads", "unmasking", "opening", "scoring"]),
        site=draw.choice([None, *SITES]),
        code=draw.choice(codes.get(kind, [""])),
        seconds=draw.choice([None, draw.random() * 100, draw.random() * 9000]),
        bytes=draw.choice([None, draw.randrange(10**9), draw.randrange(2000)]),
        numbers=draw.choice(
            [{}, {"asked": 6.0}, {"auc": draw.random(), "loss": 5 * draw.random()}]
        ),
        at=(NOON + timedelta(milliseconds=draw.randrange(100_000))).isoformat(),
    )


def test_both_languages_have_every_text():
    for key, one in texts().items():
        assert set(one) == {"en", "zh"}, key
        assert sorted(re.findall(r"\{\w+\}", one["en"])) == sorted(
            re.findall(r"\{\w+\}", one["zh"])
        ), key
