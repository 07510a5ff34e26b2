"""The small model of volumes says of a part what it says of the whole, one patient at a time."""

import numpy as np
import pytest
import torch

from experiments._membership import gradients
from experiments._volume_features import RESPONSES, PlacedHead, responses, thinned
from models.losses import DICE
from records.dataset import Arrays

GRID = (18, 24, 15)


@pytest.fixture(scope="module")
def module():
    head = PlacedHead(GRID, 3)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.1)
    return head


def volumes(count):
    torch.manual_seed(2)
    return torch.randn(count, 1, *GRID)


def test_thinned_responses_get_the_log_odds_that_the_whole_volume_gets_there(module):
    seen = responses(volumes(2))
    assert seen.shape == (2, RESPONSES, *GRID)
    with torch.no_grad():
        assert torch.allclose(module(thinned(seen)), thinned(module(seen)), atol=1e-4)


def test_each_patients_gradient_is_that_of_her_volume_alone(module):
    x = thinned(responses(volumes(3)))
    y = torch.randint(0, 3, (3, *x.shape[2:]))
    arrays = Arrays(x=x.numpy(), y=y.numpy(), patient=np.arange(3))
    found = gradients(module, arrays, DICE, clipping_norm=float("inf"))
    for index in range(3):
        loss = DICE(module(x[index : index + 1]), y[index : index + 1]).sum()
        alone = torch.autograd.grad(loss, list(module.parameters()))
        expected = torch.cat([part.reshape(-1) for part in alone]).numpy()
        assert found[index] == pytest.approx(expected, abs=1e-5)
