"""Correct guesses prove an epsilon, and luck hardly ever does."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from privacy.audit_bound import best_bound, epsilon_at_least, likelihood_at_most

pytestmark = pytest.mark.slow

RUNS = 300
CANARIES = 200


def outcomes():
    """Canaries, guesses among them, correct guesses among those."""
    return st.integers(1, 400).flatmap(
        lambda canaries: st.integers(1, canaries).flatmap(
            lambda guesses: st.tuples(st.just(canaries), st.just(guesses), st.integers(0, guesses))
        )
    )


def bound(canaries, guesses, correct, delta=0.0, confidence=0.95):
    return epsilon_at_least(
        canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=confidence
    )


def test_guesses_by_coin_toss_seldom_show_anything():
    random = np.random.default_rng(1)
    found = [
        best_bound(random.normal(size=CANARIES), random.random(CANARIES) < 0.5, delta=1e-5)[0]
        for _ in range(RUNS)
    ]
    assert np.mean(np.array(found) > 0.0) <= 0.08


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_is_seldom_overestimated_and_nearly_reached(epsilon):
    random = np.random.default_rng(2)
    right = 1.0 / (1.0 + math.exp(-epsilon))
    correct = random.binomial(1000, right, size=RUNS)
    found = np.array([bound(1000, 1000, int(one)) for one in correct])
    assert np.mean(found > epsilon) <= 0.08
    assert np.median(found) > 0.75 * epsilon


@settings(deadline=None, max_examples=20)
@given(outcomes(), st.floats(0.0, 1e-2), st.floats(0.0, 1e-2), st.floats(0.5, 0.99))
def test_the_bound_grows_with_hits_and_falls_with_delta_canaries_and_confidence(
    outcome, small, large, confidence
):
    canaries, guesses, correct = outcome
    small, large = sorted((small, large))
    found = bound(canaries, guesses, correct, small, confidence)
    assert found >= bound(canaries, guesses, correct, large, confidence) - 1e-9
    assert found >= bound(canaries + 50, guesses, correct, small, confidence) - 1e-9
    assert found >= bound(canaries, guesses, correct, small, 0.999) - 1e-9
    if correct < guesses:
        assert bound(canaries, guesses, correct + 1, small, confidence) >= found - 1e-9


@settings(deadline=None)
@given(outcomes())
def test_without_delta_it_is_the_exact_binomial_interval(outcome):
    canaries, guesses, correct = outcome
    least = float(beta.ppf(0.05, correct, guesses - correct + 1)) if correct else 0.0
    exact = max(0.0, math.log(least / (1.0 - least))) if 0.0 < least < 1.0 else 0.0
    assert bound(canaries, guesses, correct) == pytest.approx(exact, abs=1e-6)


@settings(deadline=None)
@given(outcomes(), st.floats(0.0, 6.0), st.floats(0.0, 1e-2))
def test_the_likelihood_is_that_of_the_theorem_written_out(outcome, epsilon, delta):
    canaries, guesses, correct = outcome
    right = math.exp(epsilon) / (1.0 + math.exp(epsilon))
    chances = binom.pmf(np.arange(guesses + 1), guesses, right)
    worst = max(
        (float(chances[correct - i : correct].sum()) / i for i in range(1, correct + 1)),
        default=0.0,
    )
    written = float(chances[correct:].sum()) + 2 * canaries * delta * worst
    found = likelihood_at_most(
        canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
    )
    assert found == pytest.approx(min(1.0, written), rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(outcomes(), st.floats(0.0, 5.0), st.floats(0.0, 1.0), st.floats(0.0, 1e-2))
def test_what_refutes_an_epsilon_refutes_every_smaller_one(outcome, smaller, more, delta):
    canaries, guesses, correct = outcome
    known = {"canaries": canaries, "guesses": guesses, "correct": correct, "delta": delta}
    if likelihood_at_most(epsilon=smaller + more, **known) < 0.05:
        above = likelihood_at_most(epsilon=smaller + more, **known)
        assert likelihood_at_most(epsilon=smaller, **known) <= above + 1e-9


def test_perfect_scores_find_everyone_and_reversed_ones_nobody():
    taken = np.random.default_rng(3).random(CANARIES) < 0.5
    lower, guesses, correct = best_bound(taken.astype(np.float64), taken, delta=1e-5)
    assert guesses == correct
    assert lower > 2.5
    assert best_bound(-taken.astype(np.float64), taken, delta=1e-5)[0] == 0.0
