"""Epsilon agrees with an independent accountant, and the cautious bound is never the smaller."""

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import (
    EpsilonUnreachable,
    epsilon,
    noise_multiplier_for,
)
from privacy.events import DpSgdEvent, ImpossibleEvent

DELTA = 1e-5
RUNS = [
    [DpSgdEvent(0.5, 1.6, 20)],
    [DpSgdEvent(0.2, 1.0, 60)],
    [DpSgdEvent(1.0, 3.0, 30)],
    [DpSgdEvent(0.05, 0.8, 200)],
    [DpSgdEvent(0.5, 2.0, 6), DpSgdEvent(0.3, 1.5, 6)],
]
events = st.builds(
    DpSgdEvent, st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([1.0, 3.0]), st.integers(1, 30)
)


@pytest.mark.parametrize("run", RUNS)
def test_prv_agrees_with_googles_accountant_to_one_percent(run):
    other = PLDAccountant()
    for event in run:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        step = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        other.compose(dp_accounting.SelfComposedDpEvent(step, event.steps))
    assert abs(epsilon(run, DELTA) / other.get_epsilon(DELTA) - 1.0) < 0.01


@pytest.mark.parametrize("run", RUNS)
def test_the_renyi_bound_is_never_below_prv(run):
    assert epsilon(run, DELTA, "rdp") >= epsilon(run, DELTA, "prv")


@settings(max_examples=15, deadline=None)
@given(events, events)
def test_more_of_anything_costs_more_and_order_does_not_matter(first, second):
    both = epsilon([first, second], DELTA, "rdp")
    assert both >= epsilon([first], DELTA, "rdp")
    assert both == epsilon([second, first], DELTA, "rdp")
    longer = DpSgdEvent(first.sampling_rate, first.noise_multiplier, first.steps + 1)
    assert epsilon([longer], DELTA, "rdp") >= epsilon([first], DELTA, "rdp")


def test_splitting_a_run_into_rounds_changes_nothing():
    whole, tenth = DpSgdEvent(0.5, 1.6, 20), DpSgdEvent(0.5, 1.6, 2)
    assert epsilon([tenth] * 10, DELTA) == epsilon([whole], DELTA)


def test_more_noise_costs_less_and_larger_draws_cost_more():
    assert epsilon([DpSgdEvent(0.5, 2.0, 20)], DELTA) < epsilon([DpSgdEvent(0.5, 1.6, 20)], DELTA)
    assert epsilon([DpSgdEvent(0.6, 1.6, 20)], DELTA) > epsilon([DpSgdEvent(0.5, 1.6, 20)], DELTA)


def test_nothing_done_costs_nothing():
    assert epsilon([], DELTA) == 0.0


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_the_noise_found_stays_within_the_limit_and_wastes_little(accountant):
    noise = noise_multiplier_for(4.0, DELTA, 0.5, 10, accountant)
    assert 3.97 < epsilon([DpSgdEvent(0.5, noise, 10)], DELTA, accountant) <= 4.0


def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(EpsilonUnreachable):
        noise_multiplier_for(1e-6, DELTA, 1.0, 1000)


@pytest.mark.parametrize(
    ("sampling_rate", "noise_multiplier", "steps"),
    [(0.0, 1.0, 1), (1.5, 1.0, 1), (math.nan, 1.0, 1), (0.5, 0.0, 1), (0.5, -1.0, 1),
     (0.5, math.inf, 1), (0.5, math.nan, 1), (0.5, 1.0, 0), (0.5, 1.0, 10**9)],
)  # fmt: skip
def test_an_event_that_no_mechanism_has_is_refused(sampling_rate, noise_multiplier, steps):
    with pytest.raises(ImpossibleEvent):
        DpSgdEvent(sampling_rate, noise_multiplier, steps)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ImpossibleEvent):
        epsilon([DpSgdEvent(0.5, 1.0, 1)], delta)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_limits_nothing_is_refused(limit):
    with pytest.raises(ImpossibleEvent):
        noise_multiplier_for(limit, DELTA, 0.5, 10)
