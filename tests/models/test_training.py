"""Ordinary training repeats with its seed, and predictions belong to one record each."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics import auc
from models.networks import build, to_vector
from models.training import fit, patient_scores, predict


def toy(records=120, features=6, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, records)
    x = generator.normal(size=(records, features)) + y[:, None]
    return x.astype(np.float32), y


def trained(seed):
    x, y = toy()
    network = build("mlp", (6,), 1)
    fit(network, x, y, epochs=10, batch=16, lr=0.01, seed=seed)
    return network


def test_training_learns_what_can_be_learned():
    x, y = toy(seed=1)
    assert auc(y, predict(trained(3), x)) > 0.9


def test_the_same_seed_gives_the_same_weights():
    assert np.array_equal(to_vector(trained(3)), to_vector(trained(3)))
    assert not np.array_equal(to_vector(trained(3)), to_vector(trained(4)))


def test_every_step_is_reported():
    x, y = toy(records=40)
    seen = []
    fit(build("mlp", (6,), 1), x, y, epochs=2, batch=16, lr=0.01, seed=1, on_step=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_network_with_fixed_features_trains_as_if_they_were_computed_each_time():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 1, 32, 32)).astype(np.float32)
    y = np.arange(24) % 2
    x[y == 1, :, 8:24, 8:24] *= 3.0
    network = build("wavelet", (1, 32, 32), 1)
    fit(network, x, y, epochs=30, batch=8, lr=0.02, seed=1)
    assert auc(y, predict(network, x)) > 0.95


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_a_prediction_does_not_depend_on_the_other_records(order):
    network, (x, _) = build("cnn", (1, 32, 32), 1), toy()
    x = np.random.default_rng(2).normal(size=(12, 1, 32, 32)).astype(np.float32)
    assert np.allclose(predict(network, x)[order], predict(network, x[order]), atol=1e-6)


def test_predictions_are_probabilities_even_of_certain_models():
    network = torch.nn.Linear(1, 1)
    found = predict(network, np.array([[-1e4], [1e4]], dtype=np.float32))
    assert ((found >= 0.0) & (found <= 1.0)).all()


def test_a_patients_score_is_the_mean_over_her_records():
    found = patient_scores(np.array([0.2, 0.4, 0.9]), np.array([1, 1, 0]))
    assert np.allclose(found, [0.9, 0.3])
