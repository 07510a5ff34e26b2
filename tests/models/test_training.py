"""Ordinary training repeats with its seed, and predictions belong to one record each."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import CROSS_ENTROPY, DICE
from models.metrics import auc
from models.networks import build, to_vector
from models.overlap import dice
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


def test_several_classes_are_learned_also_behind_a_fixed_front():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 1, 32, 32)).astype(np.float32)
    y = np.arange(30) % 3
    for one in (1, 2):
        x[y == one, :, 8 * one : 8 * one + 8] *= 4.0
    network = build("wavelet", (1, 32, 32), 1, 3)
    fit(network, x, y, epochs=30, batch=10, lr=0.02, seed=1, loss=CROSS_ENTROPY)
    found = predict(network, x, loss=CROSS_ENTROPY)
    assert np.allclose(found.sum(axis=1), 1.0)
    assert (found.argmax(axis=1) == y).mean() > 0.9


def test_a_mask_is_learned_and_predicted_on_the_grid_of_its_record():
    x = np.random.default_rng(1).normal(size=(4, 1, 16, 16, 16)).astype(np.float32)
    y = np.zeros((4, 16, 16, 16), dtype=np.int64)
    y[:, 4:10, 4:10, 4:10] = 1
    x[:, 0] += 3.0 * y
    network = build("unet3d", (1, 16, 16, 16), 1, 2)
    fit(network, x, y, epochs=12, batch=2, lr=0.02, seed=1, loss=DICE)
    found = predict(network, x, loss=DICE)
    assert found.shape == (4, 2, 16, 16, 16)
    assert dice(found.argmax(axis=1), y, classes=2).mean() > 0.7
