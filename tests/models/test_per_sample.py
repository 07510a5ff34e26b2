"""Every network trains under Opacus as it is: nothing in place, no batch statistics."""

import warnings

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet18
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from models.losses import loss_for
from models.networks import NETWORKS, SEGMENTATION, build, to_vector
from privacy.dpsgd import train_private
from privacy.randomness import RandomStream

pytestmark = pytest.mark.slow

SHAPES = {"mlp": (9,), "logistic": (9,), "unet3d": (1, 16, 16, 16)}
CASES = [(name, outputs) for name in NETWORKS for outputs in (1, 3)]
BIG = {"densenet121", "resnet18"}
FAST = [case for case in CASES if case[1] == 3 and case[0] not in BIG]
NORMALISATIONS_OF_A_BATCH = nn.modules.batchnorm._BatchNorm


def shape_of(name):
    return SHAPES.get(name, (1, 32, 32))


def records(name, outputs, count=3):
    shape, generator = shape_of(name), torch.Generator().manual_seed(3)
    grid = shape[1:] if name in SEGMENTATION else ()
    x = torch.randn(count, *shape, generator=generator)
    return x, torch.randint(0, max(2, outputs), (count, *grid), generator=generator)


def learned(network):
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def changed_in_place(network, x):
    """Return the names of modules whose input or output was overwritten after they ran."""
    seen, handles = [], []
    for name, module in network.named_modules():

        def remember(module, inputs, output, name=name):
            seen.extend((name, tensor, tensor._version) for tensor in (*inputs, output))

        if not list(module.children()):
            handles.append(module.register_forward_hook(remember))
    network(x)
    for handle in handles:
        handle.remove()
    return {name for name, tensor, version in seen if tensor._version != version}


@pytest.mark.parametrize("name", NETWORKS)
def test_opacus_accepts_the_network_unchanged(name):
    assert ModuleValidator.validate(build(name, shape_of(name), 1), strict=False) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_no_module_normalises_over_the_batch_or_works_in_place(name):
    for module in build(name, shape_of(name), 1).modules():
        assert not isinstance(module, NORMALISATIONS_OF_A_BATCH)
        assert not getattr(module, "inplace", False)
        assert not getattr(module, "track_running_stats", False)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_operation_overwrites_what_a_module_took_or_gave(name):
    x, _ = records(name, 1)
    assert changed_in_place(build(name, shape_of(name), 1), x) == set()


def test_the_check_sees_the_in_place_sum_of_the_resnet_we_repaired():
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=1)
    assert changed_in_place(network.eval(), torch.randn(2, 1, 32, 32))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_records_output_does_not_depend_on_its_batch(name):
    network, (x, _) = build(name, shape_of(name), 1), records(name, 1)
    with torch.no_grad():
        alone = torch.cat([network(one[None]) for one in x])
        torch.testing.assert_close(network(x), alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES],
)
def test_per_sample_gradients_equal_those_of_a_loop_over_records(name, outputs):
    (x, y), loss = records(name, outputs), loss_for(name, outputs)
    shape = shape_of(name)
    twin, network = build(name, shape, 1, outputs), build(name, shape, 1, outputs)
    hooked = GradSampleModule(network, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss(hooked(x), y).sum().backward()
    found = torch.cat([p.grad_sample.flatten(1) for p in learned(network)], dim=1)
    for record in range(len(x)):
        twin.zero_grad()
        loss(twin(x[record : record + 1]), y[record : record + 1]).sum().backward()
        expected = torch.cat([p.grad.reshape(-1) for p in learned(twin)])
        # Relative to the whole gradient: its small entries are sums that nearly cancel.
        assert (found[record] - expected).norm() < 1e-4 * expected.norm()
        torch.testing.assert_close(found[record], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["unet3d", "logistic", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_private_training_takes_the_network_and_its_loss(name):
    (x, y), network = records(name, 3, count=4), build(name, shape_of(name), 1, 3)
    trained = train_private(
        network, x.numpy(), y.numpy(), np.arange(4), sampling_rate=1.0, steps=2,
        noise_multiplier=1.0, clipping_norm=1.0, lr=0.01, reference_patients=4,
        stream=RandomStream.from_seed(1, "test"), loss=loss_for(name, 3),
    )  # fmt: skip
    assert trained.update.vector.shape == to_vector(network).shape
    assert np.abs(trained.update.vector).max() > 0
