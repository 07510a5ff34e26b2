"""What leaves a hospital has the noise that its mechanism asks for, by the type carrying it."""

import numpy as np
import pytest
import torch

from fl_client.egress import Egress
from models.networks import build, tensor_sizes, to_vector
from privacy.masks import MaskedUpdate
from privacy.mechanism import round_plan, update_step
from privacy.noise_shares import NoiseShare
from privacy.parameters import parameter_set
from privacy.randomness import RandomStream
from privacy.update import IntegerUpdate, NoisedUpdate
from protocol.progress import silent
from records.dataset import Arrays
from tests.fl_server.cohort import Cohort

PATIENTS, FEATURES = 30, 8


@pytest.fixture(scope="module")
def terms():
    """Terms of summed noise for a small table, six sites."""
    found = Cohort.meet(6, noise="summed").terms
    sizes = tensor_sizes(build("mlp", (FEATURES,), 0))
    training = found.training.model_copy(
        update={"network": "mlp", "input_shape": (FEATURES,), "tensor_sizes": sizes}
    )
    return found.model_copy(update={"training": training})


class Table:
    """A loader of made-up records; who the patients are does not matter."""

    def load(self, patients):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(len(patients), FEATURES)).astype(np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        return Arrays(x, y, np.arange(len(patients)))


class Plan:
    """What training reads of a round's plan."""

    round = 1
    steps = (1.0,)


class Cipher:
    """Keeps what it was to encrypt."""

    def encrypt(self, masked: MaskedUpdate):
        return masked


def egress_of(terms, **privacy):
    changed = terms.model_copy(update={"privacy": terms.privacy.model_copy(update=privacy)})
    module = build("mlp", (FEATURES,), 0)
    parameters = parameter_set("packed-bfv-20")
    return Egress(changed, "site-00", module, Table(), parameters, silent), to_vector(module)


def trained(terms, seed=1, share=None, **privacy):
    egress, start = egress_of(terms, **privacy)
    torch.set_num_threads(1)
    stream = RandomStream.from_seed(seed)
    return egress, egress.train(Plan(), start, [None] * PATIENTS, stream, share=share)


def share_of(terms):
    return NoiseShare(round_plan(terms, 6), bytes(32))


def test_summed_noise_leaves_as_integers_that_are_not_quantised_again(terms):
    egress, found = trained(terms, share=share_of(terms))
    assert isinstance(found.update, IntegerUpdate)
    assert np.allclose(found.whole, found.update.values * update_step(terms))
    size = egress.parameters.ciphertexts(found.whole.size) * egress.parameters.ring_degree
    sealed = egress.seal(
        Plan(),
        found.update,
        PATIENTS,
        cipher=Cipher(),
        pad=np.zeros(size, dtype=np.uint64),
        stream=RandomStream.from_seed(2),
    )
    assert np.array_equal(sealed.integers, found.update.values)
    assert sealed.saturated == 0


def test_a_share_is_owed_where_noise_is_summed(terms):
    with pytest.raises(AssertionError):
        trained(terms)


def test_noise_per_site_leaves_as_a_noised_update(terms):
    _, found = trained(terms, mechanism="per-site", steps=2)
    assert isinstance(found.update, NoisedUpdate)
    assert found.update.public_because == ""


def test_a_site_level_update_is_clipped_as_a_whole_and_noised(terms):
    numbers = {"mechanism": "site-level", "steps": 3, "clipping_norm": 1e-3}
    _, little = trained(terms, **numbers, noise_multiplier=0.1)
    assert isinstance(little.update, NoisedUpdate)
    _, much = trained(terms, **numbers, noise_multiplier=1000.0)
    assert abs(much.update.vector.std() - 1.0) < 0.2
    noise = (much.update.vector - little.update.vector) / np.float32((1000 - 0.1) * 1e-3)
    signal = little.update.vector - np.float32(0.1 * 1e-3) * noise
    assert float(np.linalg.norm(signal)) <= 1e-3 * 1.01
