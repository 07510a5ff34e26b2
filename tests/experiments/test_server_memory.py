"""A server holds one upload at a time: its memory does not grow with the number of sites."""

import pytest

from experiments.server_memory import Config, measured, resnet18

MIB = 2**20


def test_resnet18_has_11_million_parameters():
    assert sum(resnet18()) == 11_171_266
    assert sum(resnet18(channels=3, classes=1000)) == 11_689_512


@pytest.mark.slow
def test_a_round_of_a_small_model_takes_less_than_three_times_it_and_a_constant():
    found = measured(Config(sites=4, rounds=1, tensor_sizes=(1_000_000,)))
    assert found["peak_bytes"] < 3 * found["model_bytes"] + 32 * MIB, found


@pytest.mark.exhaustive
def test_eight_sites_with_resnet18_take_less_than_three_times_the_model():
    found = measured(Config())
    assert found["ratio"] < 3.0, found
    assert found["peak_bytes"] < found["held_at_once_bytes"], found
