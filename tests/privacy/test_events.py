"""An event that no mechanism could have is never made, and merging loses no step."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.events import (
    DpSgdEvent,
    ImpossibleEvent,
    SiteLevelEvent,
    SummedNoiseEvent,
    event_fields,
    merged,
    read_event,
)

counts = st.integers(1, 5)
events = st.one_of(
    st.builds(DpSgdEvent, st.sampled_from([0.5, 1.0]), st.sampled_from([1.0, 2.0]), counts),
    st.builds(SiteLevelEvent, st.sampled_from([1.0, 2.0]), counts),
    st.builds(
        SummedNoiseEvent,
        st.sampled_from([0.5, 1.0]),
        st.just(10.0),
        st.just(8.0),
        counts,
        st.just(3),
        counts,
    ),
)


@given(st.lists(events))
def test_merging_keeps_every_step_and_forgets_the_order(run):
    found = merged(run)
    assert found == merged(run[::-1])
    assert sum(event.steps for event in found) == sum(event.steps for event in run)
    assert len({(type(event), repr(event)) for event in found}) == len(found)


@given(events)
def test_an_event_written_down_and_read_is_the_event(event):
    assert read_event(json.loads(json.dumps(event_fields(event)))) == event


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "laplace", "scale": 1.0},
        {"kind": "site-level", "noise_multiplier": 1.0},
        {"kind": "site-level", "noise_multiplier": 1.0, "rounds": 1, "more": 1},
        {"kind": "site-level", "noise_multiplier": "1.0", "rounds": 1},
        {"kind": "site-level", "noise_multiplier": -1.0, "rounds": 1},
        {},
    ],
)
def test_what_no_event_says_is_not_read(fields):
    with pytest.raises((KeyError, TypeError, ImpossibleEvent)):
        read_event(fields)


@pytest.mark.parametrize(
    ("noise_multiplier", "rounds"),
    [(0.0, 1), (-1.0, 1), (math.nan, 1), (math.inf, 1), (1.0, 0), (1.0, 1.5), (1.0, True)],
)
def test_a_site_event_that_cannot_be_is_refused(noise_multiplier, rounds):
    with pytest.raises(ImpossibleEvent):
        SiteLevelEvent(noise_multiplier, rounds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"sensitivity": 0.0},
        {"sensitivity": math.inf},
        {"sensitivity": math.nan},
        {"share_deviation": 0.1},
        {"share_deviation": math.nan},
        {"share_deviation": math.inf},
        {"honest": 0},
        {"honest": 2.0},
        {"dimension": 0},
        {"steps": 0},
        {"steps": 10**9},
        {"sensitivity": 1e9},
    ],
)
def test_a_sum_that_cannot_be_is_refused(wrong):
    right = {
        "sampling_rate": 0.5,
        "sensitivity": 100.0,
        "share_deviation": 40.0,
        "honest": 5,
        "dimension": 10,
        "steps": 3,
    }
    SummedNoiseEvent(**right)
    with pytest.raises(ImpossibleEvent):
        SummedNoiseEvent(**(right | wrong))


def test_shares_of_noise_add_up_like_one_gaussian():
    event = SummedNoiseEvent(1.0, 10.0, 20.0, honest=4, dimension=1, steps=1)
    assert event.noise_multiplier == 4.0
