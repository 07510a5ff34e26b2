"""Whoever takes part without noise is found out; with noise, no more than the accountant allows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from experiments._federation import Plan
from experiments._membership import audit
from records.dataset import Arrays

PRIVATE = Plan("summed", rounds=5, lr=0.5, epsilon=4.0, delta=1e-3)
FEATURES = 64


def hospitals(sites, patients, features=FEATURES):
    random = np.random.default_rng(5)
    found = {}
    for index in range(sites):
        x = random.normal(size=(patients, features)).astype(np.float32)
        y = (x[:, 0] + random.normal(size=patients) > 0).astype(np.int64)
        found[f"site-{index + 1}"] = Arrays(x=x, y=y, patient=np.arange(patients))
    return found


@pytest.fixture(scope="module")
def module():
    return nn.Linear(FEATURES, 1)


def test_patients_of_a_run_without_noise_are_found_out(module):
    plan = Plan("none", rounds=5, lr=0.5)
    found = audit(module, hospitals(2, 40), plan, seed=1)
    assert found.ranked > 0.99
    assert found.guessed[1].lower > 2.0
    assert math.isinf(found.guessed[0].upper)


@pytest.mark.parametrize("mechanism", ["summed", "per-site"])
@pytest.mark.parametrize("crafted", [0, 60])
def test_a_private_run_shows_no_more_than_its_epsilon(module, mechanism, crafted):
    plan = replace(PRIVATE, mechanism=mechanism)
    found = audit(module, hospitals(3, 30), plan, seed=2, crafted=crafted)
    assert found.canaries == (crafted or 90)
    for guessed in found.guessed:
        assert 0.0 <= guessed.lower <= guessed.upper < math.inf
    assert found.guessed[0].upper == pytest.approx(4.0, rel=0.01)


def test_crafted_canaries_are_seen_through_little_noise(module):
    plan = replace(PRIVATE, epsilon=40.0)
    found = audit(module, hospitals(3, 30), plan, seed=3, crafted=60)
    assert found.ranked > 0.95
    assert 1.0 < found.guessed[1].lower <= found.guessed[1].upper


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [8.0, 3.0])
def test_worst_cases_at_six_sites_come_within_a_factor_of_the_accountant(epsilon):
    plan = Plan("summed", rounds=10, lr=1.0, epsilon=epsilon, delta=1e-3)
    sites, module = hospitals(6, 60, 1200), nn.Linear(1200, 1)
    guessed = audit(module, sites, plan, seed=4, crafted=1000).guessed[1]
    assert guessed.upper / 8 < guessed.lower <= guessed.upper
