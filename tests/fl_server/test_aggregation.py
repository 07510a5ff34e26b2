"""The opened sum becomes the patients' weighted mean, and the steps always stay usable."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_server.aggregation import apply_sum, first_steps, next_steps, noise_spread
from fl_server.model_state import ModelState
from privacy.parameters import parameter_set

QUIET = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def terms(primed):
    training = primed.terms.training.model_copy(
        update={
            "tensor_sizes": (2, 1),
            "reference_patients": 10,
            "server_learning_rate": 0.5,
            "server_momentum": 0.0,
        }
    )
    return primed.terms.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def parameters(terms):
    return parameter_set(terms.encryption)


def model(momentum=(0.0, 0.0, 0.0)):
    return ModelState(
        np.array([1.0, 2.0, 3.0], np.float32),
        np.array(momentum, np.float32),
        np.array([0.5, 0.25]),
    )


def test_the_step_is_along_fedavgs_weighted_mean(terms, parameters):
    # Two sites of 10 and 30 patients move by (1, -2, 3) and (2, 4, -1): the mean is by patients.
    moves = np.array([[1.0, -2.0, 3.0], [2.0, 4.0, -1.0]])
    patients = np.array([10, 30])
    mean = (10 * moves[0] + 30 * moves[1]) / 40
    scaled = moves * patients[:, None] / terms.training.reference_patients
    integers = np.rint(scaled / [0.5, 0.5, 0.25]).astype(np.int64).sum(axis=0)
    after = apply_sum(terms, parameters, model(), integers, weight=40, sites=2)
    assert after.vector == pytest.approx(model().vector + 0.5 * mean)
    assert after.momentum == pytest.approx(mean)


def test_momentum_carries_the_last_mean_on(terms, parameters):
    training = terms.training.model_copy(update={"server_momentum": 0.5})
    with_momentum = terms.model_copy(update={"training": training})
    before = model(momentum=(4.0, 0.0, -4.0))
    after = apply_sum(with_momentum, parameters, before, np.zeros(3, np.int64), weight=10, sites=3)
    assert after.momentum == pytest.approx([2.0, 0.0, -2.0])
    assert after.vector == pytest.approx([2.0, 2.0, 2.0])


@QUIET
@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=3, max_size=3),
    st.integers(1, 10_000),
    st.integers(3, 64),
)
def test_steps_are_positive_and_finite_whatever_was_opened(
    terms, parameters, integers, weight, sites
):
    opened = np.array(integers, np.int64)
    after = apply_sum(terms, parameters, model(), opened, weight=weight, sites=sites)
    assert after.steps.shape == (2,)
    assert (after.steps > 0).all()
    assert np.isfinite(after.steps).all()


@QUIET
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3), st.integers(3, 64))
def test_steps_hold_at_least_the_noise(terms, parameters, mean, sites):
    steps = next_steps(terms, parameters, np.array(mean), sites)
    assert (steps * parameters.value_max >= noise_spread(terms)).all()
    assert (first_steps(terms, parameters) * parameters.value_max > noise_spread(terms)).all()


@QUIET
@given(st.integers(1, 1000))
def test_an_update_that_is_nothing_changes_nothing_but_the_steps(terms, parameters, weight):
    zeros = np.zeros(3, np.int64)
    after = apply_sum(terms, parameters, model(), zeros, weight=weight, sites=3)
    assert after.sha256 == model().sha256
