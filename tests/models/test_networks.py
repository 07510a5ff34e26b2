"""The networks train under Opacus as they are, and their vector is all that is trained."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch.nn import functional

from models.networks import (
    LayoutMismatch,
    UnknownNetwork,
    build,
    layout,
    load_vector,
    tensor_sizes,
    to_vector,
)

CASES = [("wavelet", (1, 32, 32)), ("cnn", (1, 32, 32)), ("densenet", (1, 32, 32)), ("mlp", (9,))]
CIPHERTEXT = 16_376


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_opacus_accepts_the_network_unchanged(name, shape):
    assert ModuleValidator.validate(build(name, shape, 1), strict=False) == []


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_per_sample_gradients_equal_those_of_a_loop_over_records(name, shape):
    records = torch.randn(5, *shape, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    twin, network = build(name, shape, 1), build(name, shape, 1)
    hooked = GradSampleModule(network, loss_reduction="sum")
    loss(hooked(records), labels).backward()
    found = torch.cat([p.grad_sample.flatten(1) for p in network.parameters()], dim=1)
    for record in range(5):
        twin.zero_grad()
        loss(twin(records[record : record + 1]), labels[record : record + 1]).backward()
        expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])
        torch.testing.assert_close(found[record], expected, rtol=1e-3, atol=1e-5)


def loss(log_odds, labels):
    return functional.binary_cross_entropy_with_logits(
        log_odds.reshape(-1), labels, reduction="sum"
    )


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_one_seed_gives_one_network_and_leaves_the_callers_random_state_alone(name, shape):
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    first, second = build(name, shape, 1), build(name, shape, 1)
    assert torch.equal(torch.rand(1), expected_next)
    assert np.array_equal(to_vector(first), to_vector(second))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_layout_names_every_entry_of_the_vector(name, shape):
    network = build(name, shape, 1)
    assert sum(tensor_sizes(network)) == len(to_vector(network))
    assert [int(np.prod(dims)) for _, dims in layout(network)] == list(tensor_sizes(network))


@pytest.mark.parametrize("name", ["wavelet", "cnn"])
def test_a_network_for_images_of_the_default_size_nearly_fills_one_ciphertext(name):
    assert 0.95 * CIPHERTEXT < len(to_vector(build(name, (1, 64, 64), 1))) <= CIPHERTEXT


def test_the_densenet_stays_small():
    assert len(to_vector(build("densenet", (1, 64, 64), 1))) < 120_000


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_vector_that_was_loaded_is_read_back_bit_for_bit(seed):
    network = build("mlp", (4,), 1)
    vector = np.random.default_rng(seed).normal(size=to_vector(network).shape).astype(np.float32)
    load_vector(network, vector)
    assert np.array_equal(to_vector(network), vector)


def test_a_vector_of_another_network_is_refused():
    network = build("mlp", (4,), 1)
    with pytest.raises(LayoutMismatch):
        load_vector(network, to_vector(build("mlp", (5,), 1)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet", (1, 64, 64)), ("cnn", (30,)), ("mlp", (1, 64, 64)), ("cnn", (3, 64, 64)),
     ("wavelet", (1, 60, 64)), ("densenet", (1, 16, 16)), ("mlp", (0,))],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_input_is_refused(name, shape):
    with pytest.raises(UnknownNetwork):
        build(name, shape, 1)
