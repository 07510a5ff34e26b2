"""A network is built from a short list of constructors, and no larger than it may be."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.design import TARGETS, Design, DesignRefused, construct

UNET = "monai.networks.nets.UNet"
DENSE = "monai.networks.nets.DenseNet"
PLAIN = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}


@given(st.text(max_size=30) | st.sampled_from(["os.system", "monai.networks.nets.DenseNet121"]))
def test_only_constructors_of_the_list_are_called(target):
    if target not in TARGETS:
        with pytest.raises(DesignRefused):
            construct(Design(target, {}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": [8, 16]},
        {"channels": [8, 16], "strides": []},
        {"channels": [8], "strides": [2]},
        {"channels": [8, 16, 32], "strides": [2]},
        {"channels": [8, 16], "strides": [2], "norm": ["group", {"num_groups": 3}]},
        {"channels": [8, 16], "strides": [2], "norm": ["group", 4]},
        {"channels": [8, 16], "strides": [2], "act": ["relu", {"__init__": True}]},
        {"channels": [8, 16], "strides": [2], "kernel_size": [3, 3]},
        {"channels": [8, 16], "strides": [2], "adn_ordering": "NDA"},
        {"channels": [8, 16], "strides": [2], "dropout": -1},
        {"channels": "816", "strides": [2]},
    ],
)
def test_arguments_that_are_absent_unlisted_or_contradictory_are_refused(arguments):
    with pytest.raises(DesignRefused):
        construct(Design(UNET, {**PLAIN, **arguments}))


def test_how_large_a_network_would_be_is_known_before_it_takes_memory():
    huge = {**PLAIN, "channels": [4096] * 4, "strides": [2, 2, 2], "kernel_size": 7}
    tracemalloc.start()
    with pytest.raises(DesignRefused, match="parameters"):
        construct(Design(UNET, huge))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["batch", "instance", ["group", {"num_groups": 2}]]),
    st.sampled_from(["prelu", ["relu", {"inplace": True}], ["leakyrelu", {"inplace": True}]]),
)
def test_no_module_of_a_network_from_elsewhere_works_in_place(norm, act):
    chosen = {**PLAIN, "block_config": [1, 1], "init_features": 8, "growth_rate": 4}
    network = construct(Design(DENSE, {**chosen, "norm": norm, "act": act}))
    assert not any(getattr(module, "inplace", False) for module in network.modules())
