"""Every network is what its table says, and its vector is all that is trained."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import networks
from models.networks import (
    NETWORKS,
    SEGMENTATION,
    LayoutMismatch,
    UnknownNetwork,
    build,
    layout,
    load_vector,
    tensor_sizes,
    to_vector,
)

SHAPES = {"mlp": (9,), "logistic": (9,), "unet3d": (1, 16, 16, 16)}
CASES = [(name, SHAPES.get(name, (1, 32, 32))) for name in NETWORKS]
CIPHERTEXT = 16_376


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_network_gives_one_output_a_class_and_of_segmentation_one_a_point(name, shape, outputs):
    grid = shape[1:] if name in SEGMENTATION else ()
    network = build(name, shape, 1, outputs).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, *shape)).shape == (2, outputs, *grid)


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


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_says_how_many_parameters_there_are(name):
    shape = {"unet3d": (1, 16, 16, 16), "mlp": (9,), "logistic": (9,)}.get(name, (1, 64, 64))
    row = next(line for line in networks.__doc__.splitlines() if line.startswith(name + " "))
    found = re.search(r"([\d,]+)? ?(f )?(\+ )?([\d,]+) (log|dice)", row)
    slope = (int(found[1] or 1) if found[2] else 0) * 9
    assert len(to_vector(build(name, shape, 1))) == slope + int(found[4].replace(",", ""))


@pytest.mark.parametrize("name", ["wavelet", "cnn"])
def test_a_network_for_images_of_the_default_size_nearly_fills_one_ciphertext(name):
    assert 0.95 * CIPHERTEXT < len(to_vector(build(name, (1, 64, 64), 1))) <= CIPHERTEXT


def test_the_volume_network_nearly_fills_nine_ciphertexts():
    size = len(to_vector(build("unet3d", (1, 16, 16, 16), 1, 3)))
    assert 0.95 * 9 * CIPHERTEXT < size <= 9 * CIPHERTEXT


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
     ("wavelet", (1, 60, 64)), ("densenet", (1, 16, 16)), ("mlp", (0,)), ("logistic", ()),
     ("unet2d", (1, 64, 60)), ("unet3d", (1, 64, 64)), ("unet3d", (1, 16, 16, 18)), ("cnn", ())],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_input_is_refused(name, shape):
    with pytest.raises(UnknownNetwork):
        build(name, shape, 1)


@pytest.mark.parametrize("outputs", [0, -1, 257])
def test_a_network_of_no_or_too_many_outputs_is_refused(outputs):
    with pytest.raises(UnknownNetwork):
        build("cnn", (1, 64, 64), 1, outputs)
