"""Samples follow the discrete Gaussian, to within what the table's rounding allows."""

import decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.discrete_gaussian import DiscreteGaussian
from privacy.key_generation import ERROR
from privacy.randomness import RandomStream
from privacy.threshold import SMUDGING

SMALL = DiscreteGaussian(sigma=Fraction(10), width=8, intervals=12)
LAWS = [SMALL, ERROR, DiscreteGaussian(sigma=Fraction(7, 3), width=4, intervals=5)]


class Words:
    """A stream of words that the test chose."""

    def __init__(self, *words):
        self.left = list(words)

    def words(self, n):
        drawn, self.left = self.left[:n], self.left[n:]
        assert len(drawn) == n, "more words were drawn than were expected"
        return np.array(drawn, dtype=np.uint64)


def chances(law):
    """The law by its definition, in doubles."""
    x = np.arange(-law.largest, law.largest + 1, dtype=np.float64)
    weights = np.exp(-(x**2) / (2 * float(law.sigma) ** 2))
    return weights / weights.sum()


@pytest.mark.parametrize("law", LAWS)
def test_integers_occur_as_often_as_the_law_says(law):
    drawn = law.sample(200_000, RandomStream.from_seed(1, "law"))
    found = np.bincount(drawn + law.largest, minlength=2 * law.largest + 1)
    expected = chances(law) * drawn.size
    often = expected >= 10
    observed = np.append(found[often], found[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_smudging_noise_is_normal_at_its_scale():
    drawn = SMUDGING.sample(50_000, RandomStream.from_seed(2, "law")) / 2.0**48
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(drawn.std() - 1) < 0.01


def test_the_lowest_bits_of_smudging_noise_are_uniform():
    drawn = SMUDGING.sample(50_000, RandomStream.from_seed(3, "law"))
    assert stats.chisquare(np.bincount(drawn & 15, minlength=16)).pvalue > 1e-3


@given(st.sampled_from([*LAWS, SMUDGING]), st.integers(0, 50), st.integers(0, 2**32))
def test_no_sample_lies_beyond_the_cut(law, n, seed):
    drawn = law.sample(n, RandomStream.from_seed(seed))
    assert drawn.shape == (n,)
    assert not (np.abs(drawn) > law.largest).any()


def test_the_cut_of_fresh_errors_is_at_six_deviations_as_in_seal():
    assert ERROR.largest == int(6 * ERROR.sigma)


@pytest.mark.parametrize("law", [*LAWS, SMUDGING])
def test_the_table_is_off_by_less_than_127_bits_per_interval(law):
    with decimal.localcontext(prec=100):
        rate = decimal.Decimal(law.width) ** 2 / 2
        rate = rate * law.sigma.denominator**2 / law.sigma.numerator**2
        weights = [(-rate * i * i).exp() for i in range(law.intervals)]
        total = sum(weights)
        ends = [0, *law._limits, 2**128]
        for i, weight in enumerate(weights):
            found = decimal.Decimal(ends[i + 1] - ends[i]) / 2**128
            assert abs(found - weight / total) < decimal.Decimal(2) ** -127


@given(st.data())
def test_a_draw_on_a_limit_of_the_table_is_decided_by_its_low_bits(data):
    limits = SMUDGING._limits
    at = data.draw(st.integers(0, len(limits) - 1))
    high, low = divmod(limits[at], 2**64)
    below = SMUDGING._intervals(np.array([high], np.uint64), Words(low - 1)) if low else [at]
    above = SMUDGING._intervals(np.array([high], np.uint64), Words(low))
    assert below[0] <= at
    assert above[0] == max(i + 1 for i, limit in enumerate(limits) if limit <= limits[at])


@given(st.integers(0, 2**44 - 1), st.integers(0, 207), st.integers(-3, 3), st.integers(0, 2**64))
def test_neighbours_of_a_probability_are_told_apart_exactly(inside, interval, offset, more):
    gap = inside * (2 * interval * SMUDGING.width + inside)
    with decimal.localcontext(prec=100):
        chance = (-decimal.Decimal(gap) / 2**97).exp()
        drawn = int(chance * 2**64) + offset
        more = min(more, 2**64 - 1)
        if not 0 <= drawn < 2**64:
            return
        expected = decimal.Decimal(drawn * 2**64 + more) < chance * 2**128
    assert SMUDGING._is_below(drawn, gap, Words(more, 2**63)) == expected


def test_doubtful_candidates_are_settled_by_the_exact_comparison(monkeypatch):
    everything = 2.0
    monkeypatch.setattr("privacy.discrete_gaussian._DOUBT", everything)
    drawn = SMALL.sample(3000, RandomStream.from_seed(4))
    monkeypatch.undo()
    # The same words lead to the same samples, whichever arithmetic decides.
    assert np.array_equal(drawn, SMALL.sample(3000, RandomStream.from_seed(4)))


def test_zero_is_not_drawn_twice_as_often():
    one = DiscreteGaussian(sigma=Fraction(1), width=1, intervals=2)
    negative_zero, zero = 2**63, 0
    assert one._kept(1, Words(5, negative_zero)).tolist() == []
    assert one._kept(1, Words(5, zero)).tolist() == [0]


@pytest.mark.parametrize(("width", "intervals"), [(3, 5), (2**44, 2**12), (1, 2)])
def test_a_width_or_cut_that_doubles_or_the_law_do_not_bear_is_a_mistake(width, intervals):
    with pytest.raises(AssertionError):
        DiscreteGaussian(sigma=Fraction(100), width=width, intervals=intervals)
