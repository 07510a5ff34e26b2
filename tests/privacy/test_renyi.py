"""The divergences of a sum of discrete Gaussians bound what its probabilities say, both ways."""

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.events import DpSgdEvent, SiteLevelEvent, SummedNoiseEvent
from privacy.renyi import WHOLE_ORDERS, divergence, tau_of

REACH = 400
"""Integers far enough out that nothing of these narrow sums is beyond."""


def law(share_deviation, honest):
    """Return the probabilities of the sum of ``honest`` discrete Gaussians, -REACH to REACH."""
    one = np.arange(-(REACH // honest), REACH // honest + 1)
    share = np.exp(-(one.astype(np.longdouble) ** 2) / (2 * share_deviation**2))
    total = reduce(np.convolve, [share / share.sum()] * honest)
    middle = len(total) // 2
    return total, middle


def measured(share_deviation, honest, shift, rate, order):
    """Return the larger of both Renyi divergences between a sum with and without a patient."""
    total, _ = law(share_deviation, honest)
    without = np.pad(total, (0, shift))
    with_her = np.pad(total, (shift, 0))
    mixed = (1 - rate) * without + rate * with_her
    found = []
    for p, q in [(mixed, without), (without, mixed)]:
        kept = (p > 1e-300) & (q > 1e-300)
        terms = np.exp(order * np.log(p[kept]) - (order - 1) * np.log(q[kept]))
        found.append(float(np.log(terms.sum()) / (order - 1)))
    return found


NARROW = [
    (share_deviation, honest, shift)
    for share_deviation in (0.5, 0.7, 1.0, 3.0)
    for honest in (1, 2, 5)
    for shift in (1, 2)
    # With less noise the far tails of the law decide, which no double holds.
    if share_deviation * math.sqrt(honest) / shift >= 0.4
]


@pytest.mark.parametrize(("share_deviation", "honest", "shift"), NARROW)
@pytest.mark.parametrize("rate", [0.1, 0.6, 1.0])
def test_the_bound_of_a_sum_is_never_below_what_its_probabilities_say(
    share_deviation, honest, shift, rate
):
    event = SummedNoiseEvent(rate, float(shift), share_deviation, honest, 1, 1)
    for order in (2.0, 3.0, 8.0):
        removed, added = measured(share_deviation, honest, shift, rate, order)
        assert added <= removed * (1 + 1e-9), "a reflection swaps the two laws"
        assert divergence(event, order) >= removed * (1 - 1e-9)


def test_narrow_shares_really_are_no_discrete_gaussian():
    total, middle = law(0.5, 3)
    wide = np.exp(-(np.arange(-2.0, 3.0) ** 2) / (2 * 3 * 0.25))
    ratio = total[middle - 2 : middle + 3] / wide
    apart = float(np.log(ratio.max() / ratio.min()))
    assert 0.1 < apart <= tau_of(0.5, 3)


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_wide_shares_cost_what_the_central_gaussian_does(rate):
    event = SummedNoiseEvent(rate, 1000.0, 900.0, 4, 1_000_000, 7)
    central = DpSgdEvent(rate, event.noise_multiplier, 7)
    for order in WHOLE_ORDERS:
        assert divergence(event, order) == pytest.approx(divergence(central, order), rel=1e-6)


def test_a_site_level_event_is_a_plain_gaussian():
    assert divergence(SiteLevelEvent(2.0, 6), 5.0) == pytest.approx(6 * 5.0 / (2 * 2.0**2))


def test_narrow_shares_in_many_coordinates_cost_more_than_a_central_gaussian():
    event = SummedNoiseEvent(1.0, 100.0, 0.6, 10_000, 10_000, 1)
    assert divergence(event, 4.0) > divergence(DpSgdEvent(1.0, event.noise_multiplier, 1), 4.0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0.01, 0.3, 0.9]),
    st.sampled_from([0.6, 1.0, 20.0]),
    st.integers(1, 6),
    st.sampled_from([2.0, 3.0, 16.0, 128.0]),
)
def test_divergence_grows_with_rate_steps_and_order_and_falls_with_honest_shares(
    rate, share_deviation, honest, order
):
    def of(rate=rate, honest=honest, steps=1, order=order):
        event = SummedNoiseEvent(rate, 5.0, share_deviation, honest, 100, steps)
        return divergence(event, order)

    assert of(steps=3) == pytest.approx(3 * of())
    assert of(rate=min(1.0, 1.1 * rate)) >= of()
    assert of(order=order + 1) >= of() * (1 - 1e-12)
    if share_deviation >= 1.0:
        assert of(honest=honest + 1) <= of() * (1 + 1e-3)
