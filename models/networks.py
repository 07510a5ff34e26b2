"""The networks a study can train by name, each of which Opacus trains as it is.

GroupNorm instead of BatchNorm, because a statistic shared by a batch would mix patients;
activations never in place, because per-sample gradients need what they would overwrite. All give
one number per record, the log-odds of the positive class, or with ``outputs`` above one the
logits of so many classes; the last two give them for every point of the input.

=========== ================================== ============ ===================================
name        input                                parameters loss (``models.losses``)
=========== ================================== ============ ===================================
wavelet     (1, height, width), 16 | side            16,129 log; cross-entropy from two outputs
sonogram    (1, height, width), 16 | side            15,665 log; cross-entropy from two outputs
cnn         (1, height, width), 16 | side            16,017 log; cross-entropy from two outputs
densenet    (1, height, width), 16 | side            46,865 log; cross-entropy from two outputs
densenet121 (1, height, width), 16 | side         6,948,609 log; cross-entropy from two outputs
resnet18    (1, height, width), 16 | side        11,170,753 log; cross-entropy from two outputs
mlp         (features,)                           32 f + 65 log; cross-entropy from two outputs
logistic    (features,)                               f + 1 log; cross-entropy from two outputs
unet2d      (1, height, width), 16 | side            47,929 dice
unet3d      (1, depth, height, width), 4 | side     142,825 dice
=========== ================================== ============ ===================================

Parameters are those of one output, of images of 64 by 64, and of f features.

    >>> network = build("wavelet", (1, 64, 64), seed=7)
    >>> to_vector(network).shape
    (16129,)

What holds, each line a test in tests/models/test_networks.py:

1. Opacus accepts every network, and its per-sample gradients equal those of a loop over records.
2. One seed gives one vector, on every machine with the same PyTorch.
3. ``load_vector(network, to_vector(network))`` changes nothing; the layout names every entry.
4. What is not trained is not in the vector.

One packed ciphertext holds up to 16,376 parameters, so the small networks stay just below a
multiple of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from torch import nn

from models import classification, segmentation
from models.design import Design, construct
from protocol.errors import ConfigurationError, PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NetworkName = Literal[
    "wavelet",
    "sonogram",
    "cnn",
    "densenet",
    "densenet121",
    "resnet18",
    "mlp",
    "logistic",
    "unet2d",
    "unet3d",
]
NETWORKS: Final[tuple[str, ...]] = get_args(NetworkName)
TABLES: Final = frozenset({"mlp", "logistic"})
SEGMENTATION: Final = frozenset({"unet2d", "unet3d"})
CONVEX: Final = frozenset({"wavelet", "sonogram", "logistic"})
"""Zero is the fairest start of these, and needs no luck."""
STEMS: Final = {
    "wavelet": "models.classification.WaveletNet",
    "sonogram": "models.sonogram.SonogramNet",
}
"""Networks of a fixed front and a trained linear layer."""
OUTPUTS_MAX: Final = 256


class UnknownNetwork(ConfigurationError):
    """A network was named that is not built here, or for inputs it does not take."""

    code = "network-unknown"

    def __init__(self, name: str, input_shape: tuple[int, ...]) -> None:
        self.name = name
        self.input_shape = input_shape
        super().__init__(
            f"there is no network {name!r} for inputs of shape {input_shape}; choose one of "
            f"{', '.join(NETWORKS)}: images are (1, height, width), volumes (1, depth, height, "
            "width), table rows (features,)"
        )


class LayoutMismatch(PrivacyError):
    """A vector does not fit the network it was meant for."""

    code = "parameter-layout-mismatch"

    def __init__(self, expected: int, found: tuple[int, ...]) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"the network has {expected} parameters and the vector has shape {found}; take the "
            "vector of the same study, or rebuild the network its roster names"
        )


def design_of(name: str, input_shape: tuple[int, ...], outputs: int = 1) -> Design:
    """Return what the network is made of; see ``build``."""
    if not _takes(name, input_shape) or not 1 <= outputs <= OUTPUTS_MAX:
        raise UnknownNetwork(name, input_shape)
    if name in STEMS:
        return Design(STEMS[name], {"input_shape": list(input_shape), "outputs": outputs})
    if name in TABLES:
        hidden = [classification.HIDDEN] if name == "mlp" else []
        arguments = classification.fully_connected(input_shape[0], outputs, hidden)
        return Design("monai.networks.nets.FullyConnectedNet", arguments)
    target, arguments = {
        "cnn": ("models.classification.CompactCnn", {"outputs": outputs}),
        "resnet18": ("models.classification.ResNet18", {"outputs": outputs}),
        "densenet": ("monai.networks.nets.DenseNet", classification.densenet(outputs)),
        "densenet121": ("monai.networks.nets.DenseNet", classification.densenet121(outputs)),
        "unet2d": ("monai.networks.nets.UNet", segmentation.unet(2, outputs)),
        "unet3d": ("monai.networks.nets.UNet", segmentation.unet(3, outputs)),
    }[name]
    return Design(target, arguments)


def build(name: str, input_shape: tuple[int, ...], seed: int, outputs: int = 1) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        name: One of the table above.
        input_shape: ``(1, height, width)``, sides divisible by 16, ``(1, depth, height, width)``,
            sides divisible by 4 and at least 16, or ``(features,)``.
        seed: Of the initial weights. The caller's random state is left as it was.
        outputs: One for the log-odds of the positive class, or the number of classes.

    Returns:
        A module from ``(batch, *input_shape)`` floats to ``(batch, outputs)`` logits; of
        segmentation ``(batch, outputs, *grid)``.

    Raises:
        UnknownNetwork: There is no such network, or it does not take such inputs.
    """
    design = design_of(name, input_shape, outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = construct(design)
    if name in CONVEX:
        for _, parameter in _trained(network):
            nn.init.zeros_(parameter)
    return network


def _takes(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether there is such a network for inputs of such a shape."""
    if name not in NETWORKS:
        return False
    if name in TABLES:
        return len(shape) == 1 and shape[0] >= 1
    sides, divisor, least = shape[1:], 16, 32
    if name == "unet3d":
        divisor, least = segmentation.DIVISOR, 16
    return (
        len(sides) == (3 if name == "unet3d" else 2)
        and shape[0] == 1
        and all(side >= least and side % divisor == 0 for side in sides)
    )


def to_vector(module: nn.Module) -> NDArray[np.float32]:
    """Return the trained parameters as one ``(d,)`` vector, in the order of ``layout``."""
    parts = [parameter.detach().reshape(-1) for _, parameter in _trained(module)]
    return torch.cat(parts).numpy().astype(np.float32)


def load_vector(module: nn.Module, vector: NDArray[np.float32]) -> None:
    """Overwrite the trained parameters in place.

    Raises:
        LayoutMismatch: The vector has another length.
    """
    trained = _trained(module)
    expected = sum(parameter.numel() for _, parameter in trained)
    if vector.shape != (expected,):
        raise LayoutMismatch(expected, vector.shape)
    # Copied: a stored model is read-only, which PyTorch does not support.
    source, start = torch.from_numpy(np.array(vector, dtype=np.float32)), 0
    with torch.no_grad():
        for _, parameter in trained:
            parameter.copy_(source[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


def layout(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return every trained tensor's name and shape, in the order of the vector."""
    return tuple((name, tuple(parameter.shape)) for name, parameter in _trained(module))


def tensor_sizes(module: nn.Module) -> tuple[int, ...]:
    """Return how many entries of the vector each trained tensor takes, in order."""
    return tuple(parameter.numel() for _, parameter in _trained(module))


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]
