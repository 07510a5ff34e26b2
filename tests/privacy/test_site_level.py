"""A whole site's update is clipped and noised as one contribution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.events import ImpossibleEvent, SiteLevelEvent
from privacy.randomness import RandomStream
from privacy.site_level import add_noise, clip
from privacy.update import Update

numbers = st.floats(-(2.0**60), 2.0**60, width=32)


@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=numbers),
    st.floats(1e-3, 1e3),
)
def test_a_clipped_update_is_within_the_norm_and_a_small_one_stays(vector, norm):
    clipped = clip(Update(vector), norm)
    before = float(np.linalg.norm(vector.astype(np.float64)))
    assert float(np.linalg.norm(clipped.vector.astype(np.float64))) <= norm * (1 + 1e-6)
    if before <= norm:
        assert np.array_equal(clipped.vector, vector)


def test_the_noise_has_its_deviation_in_every_coordinate():
    n = 40_000
    clipped = clip(Update(np.zeros(n, dtype=np.float32)), 0.5)
    noised, event = add_noise(clipped, 3.0, RandomStream.from_seed(1))
    assert event == SiteLevelEvent(noise_multiplier=3.0, rounds=1)
    assert abs(noised.vector.std() / 1.5 - 1) < 6 / math.sqrt(2 * n)
    assert noised.public_because == ""


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_an_update_that_is_not_finite_counts_as_zero_and_is_noised_like_any(lost):
    clipped = clip(Update(np.array([1.0, lost], dtype=np.float32)), 1.0)
    assert clipped.vector.tolist() == [0.0, 0.0]
    noised, _ = add_noise(clipped, 1.0, RandomStream.from_seed(1))
    assert np.isfinite(noised.vector).all()
    assert noised.vector.all()


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_a_norm_that_cannot_be_meant_is_refused(norm):
    with pytest.raises(ImpossibleEvent):
        clip(Update(np.zeros(2, dtype=np.float32)), norm)


def test_noise_too_small_to_account_for_is_refused():
    with pytest.raises(ImpossibleEvent):
        clipped = clip(Update(np.zeros(2, dtype=np.float32)), 1.0)
        add_noise(clipped, 0.01, RandomStream.from_seed(1))
