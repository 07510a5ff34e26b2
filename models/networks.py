"""The networks a study can train, each of which Opacus trains as it is.

GroupNorm instead of BatchNorm, because a statistic shared by a batch would mix patients;
activations never in place, because per-sample gradients need what they would overwrite. All end
in one number per record, the log-odds of the positive class.

    >>> network = build("wavelet", (1, 64, 64), seed=7)
    >>> to_vector(network).shape
    (16129,)

What holds, each line a test in tests/models/test_networks.py:

1. Opacus accepts every network, and its per-sample gradients equal those of a loop over records.
2. One seed gives one vector, on every machine with the same PyTorch.
3. ``load_vector(network, to_vector(network))`` changes nothing; the layout names every entry.
4. What is not trained is not in the vector.

One packed ciphertext holds up to 16,376 parameters, so networks stay just below a multiple of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import DenseNet, FullyConnectedNet
from torch import Tensor, nn

from models.wavelets import WaveletStem
from protocol.errors import ConfigurationError, PrivacyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NetworkName = Literal["wavelet", "cnn", "densenet", "mlp"]
NETWORKS: Final[tuple[str, ...]] = get_args(NetworkName)

_ACTIVATION: Final = ("relu", {"inplace": False})
_CNN_WIDTHS: Final = (16, 24, 24, 32)  # 16,017 parameters: one ciphertext
_HIDDEN: Final = 32


class UnknownNetwork(ConfigurationError):
    """A network was named that is not built here, or for inputs it does not take."""

    code = "network-unknown"

    def __init__(self, name: str, input_shape: tuple[int, ...]) -> None:
        self.name = name
        self.input_shape = input_shape
        super().__init__(
            f"there is no network {name!r} for inputs of shape {input_shape}; choose one of "
            f"{', '.join(NETWORKS)}: images are (1, height, width), table rows (features,)"
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


class WaveletNet(nn.Module):
    """Fixed wavelets, then one trained convolution over the whole map: 16,129 parameters."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = WaveletStem(input_shape)
        channels, height, width = self.stem.output_shape
        self.head = Convolution(
            2, channels, 1, kernel_size=(height, width), padding=0, conv_only=True
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(batch, 1)`` log-odds."""
        return self.head(self.stem(images)).flatten(1)


def build(name: str, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        name: ``"wavelet"``, ``"cnn"`` or ``"densenet"`` for images, ``"mlp"`` for tables.
        input_shape: ``(1, height, width)``, sides divisible by 16, or ``(features,)``.
        seed: Of the initial weights. The caller's random state is left as it was.

    Returns:
        A module from ``(batch, *input_shape)`` floats to ``(batch, 1)`` log-odds.

    Raises:
        UnknownNetwork: There is no such network, or it does not take such inputs.
    """
    image = len(input_shape) == 3 and input_shape[0] == 1 and min(input_shape[1:]) >= 32
    image = image and all(side % 16 == 0 for side in input_shape[1:])
    table = len(input_shape) == 1 and input_shape[0] >= 1
    if name not in NETWORKS or not (table if name == "mlp" else image):
        raise UnknownNetwork(name, input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "wavelet":
            network = WaveletNet(input_shape)
            for parameter in network.parameters():
                nn.init.zeros_(parameter)  # convex: zero is the fairest start, and needs no luck
            return network
        if name == "cnn":
            return _cnn()
        if name == "densenet":
            return _densenet()
        return _mlp(input_shape[0])


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
    source, start = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32)), 0
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


def _group_norm(channels: int) -> tuple[str, dict[str, int]]:
    return "group", {"num_groups": channels // 8}  # 8 channels a group, as in Wu and He 2018


def _cnn() -> nn.Module:
    """Four strided MONAI convolutions, global average, one linear layer."""
    blocks: list[nn.Module] = []
    channels = 1
    for width in _CNN_WIDTHS:
        norm = _group_norm(width)
        blocks.append(Convolution(2, channels, width, strides=2, act=_ACTIVATION, norm=norm))
        channels = width
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


def _densenet() -> nn.Module:
    """MONAI's DenseNet, narrow, two blocks of three and four layers."""
    network = DenseNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        init_features=16,
        growth_rate=16,
        block_config=(3, 4),
        bn_size=2,
        act=_ACTIVATION,
        norm=("group", {"num_groups": 8}),
    )
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the last activation of MONAI's DenseNet ignores ``act``
    return network


def _mlp(features: int) -> nn.Module:
    """MONAI's fully connected network with one hidden layer."""
    return FullyConnectedNet(features, 1, [_HIDDEN], act=_ACTIVATION)
