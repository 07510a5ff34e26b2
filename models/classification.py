"""Networks from one record to one row of log-odds: of images, and of table rows.

Where MONAI's own class trains under Opacus as it is, its arguments are all there is here. Where it
does not, a subclass repairs it: MONAI's ResNet passes its ``norm`` to the first layer alone, keeps
BatchNorm in every block, and adds the residual in place.

What holds, each line a test in tests/models/test_networks.py and test_per_sample.py:

1. GroupNorm everywhere, nothing in place, per-sample gradients as in a loop over records.
2. A network's output for one record does not depend on the others in its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from monai.networks.blocks import Convolution
from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import Tensor, nn

from models.wavelets import WaveletStem

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIVATION: Final[tuple[str, dict[str, Any]]] = ("relu", {"inplace": False})
GROUPS: Final = 8
"""Groups of a normalisation where MONAI takes one number for all layers [Wu and He 2018 find the
exact number to matter little]."""
NORM: Final[tuple[str, dict[str, Any]]] = ("group", {"num_groups": GROUPS})
CNN_WIDTHS: Final = (16, 24, 24, 32)  # 16,017 parameters: one ciphertext
HIDDEN: Final = 32
"""Width of the MLP's hidden layer."""
RESNET_WIDTHS: Final = (64, 128, 256, 512)


class WaveletNet(nn.Module):
    """Fixed wavelets, then one trained convolution over the whole map: 16,129 parameters."""

    def __init__(self, input_shape: Sequence[int], outputs: int = 1) -> None:
        super().__init__()
        self.stem = WaveletStem(tuple(input_shape))
        channels, height, width = self.stem.output_shape
        self.head = Convolution(
            2, channels, outputs, kernel_size=(height, width), padding=0, conv_only=True
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(batch, outputs)`` log-odds."""
        return self.head(self.stem(images)).flatten(1)


class CompactCnn(nn.Sequential):
    """Four strided MONAI convolutions, global average, one linear layer."""

    def __init__(self, outputs: int = 1) -> None:
        blocks: list[nn.Module] = []
        channels = 1
        for width in CNN_WIDTHS:
            # 8 channels a group, as in Wu and He 2018.
            norm = ("group", {"num_groups": width // 8})
            blocks.append(Convolution(2, channels, width, strides=2, act=ACTIVATION, norm=norm))
            channels = width
        super().__init__(
            *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)
        )


class ResNet18(ResNet):
    """MONAI's ResNet-18 [1] for grey images, with GroupNorm in every block and no in-place sum.

    References:
        [1] He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
        arXiv:1512.03385
    """

    def __init__(self, outputs: int = 1) -> None:
        super().__init__(
            block=_Block,
            layers=[2, 2, 2, 2],
            block_inplanes=list(RESNET_WIDTHS),
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_stride=2,
            num_classes=outputs,
            bias_downsample=False,
            act=ACTIVATION,
            norm=NORM,
        )

    def _make_layer(self, *args: Any, **kwargs: Any) -> nn.Sequential:
        """Pass on the normalisation that MONAI's version forgets."""
        return super()._make_layer(*args, **{**kwargs, "norm": NORM})


class _Block(ResNetBlock):
    """A residual block whose sum makes a new tensor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "act": ACTIVATION})

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, ``(batch, planes, height, width)``."""
        residual = x if self.downsample is None else self.downsample(x)
        inner = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(inner + residual)


def densenet(outputs: int) -> dict[str, Any]:
    """Return the arguments of MONAI's DenseNet, narrow, two blocks of three and four layers."""
    return {
        **_densenet(outputs),
        "init_features": 16,
        "growth_rate": 16,
        "block_config": [3, 4],
        "bn_size": 2,
    }


def densenet121(outputs: int) -> dict[str, Any]:
    """Return the arguments of MONAI's DenseNet-121 [1] with GroupNorm.

    References:
        [1] Huang et al., Densely Connected Convolutional Networks, CVPR 2017, table 1.
        arXiv:1608.06993
    """
    return {
        **_densenet(outputs),
        "init_features": 64,
        "growth_rate": 32,
        "block_config": [6, 12, 24, 16],
        "bn_size": 4,
    }


def _densenet(outputs: int) -> dict[str, Any]:
    return {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": outputs,
        "act": list(ACTIVATION),
        "norm": list(NORM),
    }


def fully_connected(features: int, outputs: int, hidden: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of MONAI's fully connected network.

    Without hidden layers it is a logistic regression.
    """
    return {
        "in_channels": features,
        "out_channels": outputs,
        "hidden_channels": list(hidden),
        "act": list(ACTIVATION),
    }
