"""Quantisation rounds without bias, by less than a step, and counts what it cuts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.quantisation import NonFiniteUpdate, StepsUnusable, dequantise, quantise
from privacy.randomness import RandomStream
from privacy.update import NoisedUpdate

vectors = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)
step_sizes = st.floats(1e-3, 1e3)
bits = st.integers(2, 16)
seeds = st.integers(0, 2**32)


@given(vectors, step_sizes, bits, seeds)
def test_every_value_is_in_range_and_less_than_a_step_off_unless_cut(vector, step, k, seed):
    limit = 2 ** (k - 1) - 1
    result = quantise(NoisedUpdate(vector), step, k, RandomStream.from_seed(seed))
    assert result.values.dtype == np.int16
    assert np.abs(result.values.astype(int)).max() <= limit
    error = np.abs(result.values - vector / np.float64(step))
    assert result.saturated >= np.count_nonzero(error >= 1)
    within = np.abs(vector / np.float64(step)) <= limit
    assert (error[within] < 1).all()
    assert result.saturated <= np.count_nonzero(~within)


@given(seeds)
def test_a_value_on_the_grid_stays_there(seed):
    on_grid = np.arange(-127, 128).astype(np.float32) / 4
    result = quantise(NoisedUpdate(on_grid), 0.25, 8, RandomStream.from_seed(seed))
    assert result.values.tolist() == list(range(-127, 128))
    assert result.saturated == 0


@pytest.mark.parametrize("value", [0.3, -0.3, 5.0625, -126.99, 0.0])
def test_rounding_has_no_bias(value):
    n = 40_000
    vector = np.full(n, value, dtype=np.float32)
    values = quantise(NoisedUpdate(vector), 1.0, 8, RandomStream.from_seed(4)).values
    assert abs(values.mean() - np.float32(value)) <= 5 * 0.5 / n**0.5
    assert set(values.tolist()) <= {int(np.floor(value)), int(np.ceil(value))}


def test_what_lies_beyond_the_range_is_cut_and_counted():
    vector = np.array([1e30, -1e30, 128.0, -129.0, 127.0, 0.0], dtype=np.float32)
    result = quantise(NoisedUpdate(vector), 1.0, 8, RandomStream.from_seed(1))
    assert result.values.tolist() == [127, -127, 127, -127, 127, 0]
    assert result.saturated == 4
    assert quantise(NoisedUpdate(vector), 1e-300, 8).saturated == 5  # overflows to infinity


@given(hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-(2**15), 2**15)))
def test_dequantising_multiplies_by_each_coordinates_step(integers):
    steps = np.linspace(0.5, 2.0, integers.size)
    assert np.array_equal(dequantise(integers, steps), integers * steps)


def test_each_coordinate_has_its_own_step():
    update = NoisedUpdate(np.array([1.0, 1.0], dtype=np.float32))
    assert quantise(update, np.array([1.0, 0.125])).values.tolist() == [1, 8]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_update_is_refused(bad):
    with pytest.raises(NonFiniteUpdate) as refused:
        quantise(NoisedUpdate(np.array([1.0, bad, bad], dtype=np.float32)), 1.0)
    assert refused.value.entries == 2


@pytest.mark.parametrize(
    "steps", [0.0, -1.0, np.nan, np.inf, np.array([1.0]), np.array([1.0, 0.0, 1.0])]
)
def test_unusable_steps_are_refused(steps):
    with pytest.raises(StepsUnusable):
        quantise(NoisedUpdate(np.ones(3, dtype=np.float32)), steps)
