"""Epsilon agrees with an independent accountant, and the cautious bound is never the smaller."""

import logging
import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import accounting
from privacy.accounting import (
    EpsilonUnreachable,
    UnitsMixed,
    epsilon,
    noise_multiplier_for,
    statement,
)
from privacy.events import DpSgdEvent, ImpossibleEvent, SiteLevelEvent, SummedNoiseEvent
from privacy.renyi import WHOLE_ORDERS

DELTA = 1e-5
SUM = SummedNoiseEvent(0.5, 100.0, 80.0, 4, 10_000, 20)
GRID = [
    [DpSgdEvent(0.5, 1.6, 20)],
    [DpSgdEvent(0.2, 1.0, 60)],
    [DpSgdEvent(1.0, 3.0, 30)],
    [DpSgdEvent(0.05, 0.8, 200)],
    [DpSgdEvent(0.1, 10.0, 10)],
    [DpSgdEvent(0.5, 0.7, 10)],
    [SiteLevelEvent(4.0, 10)],
    [DpSgdEvent(0.5, 2.0, 6), DpSgdEvent(0.3, 1.5, 6)],
    [DpSgdEvent(0.5, 2.0, 6), DpSgdEvent(1.0, 8.0, 6), DpSgdEvent(0.02, 1.0, 100)],
]
SUMS = [
    [SUM],
    [SummedNoiseEvent(1.0, 100.0, 120.0, 9, 1_000_000, 40)],
    [SUM, DpSgdEvent(0.5, 2.0, 6)],
]
events = st.builds(
    DpSgdEvent, st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([1.0, 3.0]), st.integers(1, 30)
)


def by_google(accountant, run, delta=DELTA):
    """Compose the run there, a sum of wide shares as the Gaussian it is close to."""
    for event in run:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        step = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, event.steps))
    return accountant.get_epsilon(delta)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
@pytest.mark.parametrize("run", GRID)
def test_prv_agrees_with_googles_accountant_to_one_percent(run, delta):
    assert epsilon(run, delta) == pytest.approx(by_google(PLDAccountant(), run, delta), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
@pytest.mark.parametrize("run", GRID + SUMS)
def test_rdp_agrees_with_googles_accountant_to_one_percent(run, delta):
    # The same orders there: a sum of shares that is sampled has a bound at whole ones only.
    between = [] if SUM in run else [1.0 + tenth / 10 for tenth in range(5, 80)]
    other = by_google(RdpAccountant(orders=[*between, *WHOLE_ORDERS]), run, delta)
    assert epsilon(run, delta, "rdp") == pytest.approx(other, rel=0.01)


@pytest.mark.parametrize("run", GRID)
def test_the_renyi_bound_is_never_below_prv(run):
    assert epsilon(run, DELTA, "rdp") >= epsilon(run, DELTA, "prv")


@pytest.mark.parametrize("run", SUMS)
def test_a_sum_of_shares_is_never_below_the_tight_bound_of_a_central_gaussian(run):
    assert epsilon(run, DELTA) >= by_google(PLDAccountant(), run)
    assert statement(run, DELTA, "prv").accountant == "rdp", "PRV knows no sum of shares"


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
    assert statement([], DELTA).epsilon == 0.0


def test_patients_and_sites_are_never_added():
    with pytest.raises(UnitsMixed):
        epsilon([DpSgdEvent(0.5, 1.6, 20), SiteLevelEvent(4.0, 10)], DELTA)
    patients = SiteLevelEvent(4.0, 10).for_patients()
    assert patients == DpSgdEvent(1.0, 2.0, 10)
    epsilon([DpSgdEvent(0.5, 1.6, 20), patients], DELTA, "rdp")


@pytest.fixture
def broken_prv(monkeypatch):
    accounting._cost.cache_clear()
    answers = []
    monkeypatch.setattr(accounting, "_prv", lambda *_: answers[0])
    yield answers
    accounting._cost.cache_clear()


@pytest.mark.parametrize("answer", [math.inf, math.nan, -1.0])
def test_a_prv_without_an_answer_is_replaced_and_said(broken_prv, caplog, answer):
    broken_prv.append(answer)
    run = [DpSgdEvent(0.5, 1.6, 20)]
    with caplog.at_level(logging.WARNING, "bithive.privacy"):
        found = statement(run, DELTA)
    assert (found.epsilon, found.accountant) == (epsilon(run, DELTA, "rdp"), "rdp")
    assert "accountant-without-answer" in caplog.text


def test_a_prv_above_the_cautious_bound_counts_and_is_said(broken_prv, caplog):
    broken_prv.append(100.0)
    with caplog.at_level(logging.WARNING, "bithive.privacy"):
        found = statement([DpSgdEvent(0.5, 1.6, 20)], DELTA)
    assert (found.epsilon, found.accountant) == (100.0, "prv")
    assert "accountants-disagree" in caplog.text


@pytest.mark.slow
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
