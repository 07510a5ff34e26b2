"""What a network is made of, as plain values: one constructor of a short list and its arguments.

A design is what a bundle stores and what ``build`` makes, so a network that leaves is built again
by the same words. Whoever reads a design from outside gets no further than this list: a target
that is not on it, an argument that is not named for it, or a number out of range is refused
before anything is constructed [1].

    >>> small = Design("monai.networks.nets.FullyConnectedNet",
    ...     {"in_channels": 4, "out_channels": 1, "hidden_channels": [3], "act": "relu"})
    >>> sum(parameter.numel() for parameter in construct(small).parameters())
    19

What holds, each line a test in tests/models/test_design.py:

1. Only constructors of this list are ever called, and only with arguments named for them.
2. How large a network would be is known before it takes memory.
3. No module of a constructed network changes its input in place.

References:
    [1] CWE-470, Use of Externally-Controlled Input to Select Classes or Code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from monai.networks.nets import DenseNet, FullyConnectedNet, UNet
from torch import nn

from models.classification import CompactCnn, ResNet18, WaveletNet
from models.sonogram import SonogramNet
from protocol.errors import ConfigurationError

PARAMETERS_MAX: Final = 64_000_000
"""Trained and fixed numbers in one network: 256 MB, ten times DenseNet-121."""
LAYERS_MAX: Final = 64
WIDTH_MAX: Final = 4096
SIDE_MAX: Final = 1024
TABLE_MAX: Final = 1_000_000
NORMS: Final = frozenset({"group", "instance", "batch", "layer"})
ACTIVATIONS: Final = frozenset({"relu", "leakyrelu", "prelu", "elu", "gelu", "swish", "mish"})

Check: TypeAlias = Callable[[Any], bool]


class DesignRefused(ConfigurationError):
    """A network was described in words that are not allowed here."""

    code = "network-design-refused"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"this network is not built here: {reason}; use one of the listed designs")


@dataclass(frozen=True)
class Design:
    """A constructor of the list by its full name, and its arguments as JSON has them."""

    target: str
    arguments: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """Return the words MONAI's ConfigParser builds the network from."""
        return {"_target_": self.target, **self.arguments}


def construct(design: Design) -> nn.Module:
    """Build the network; its weights come from PyTorch's random state.

    Raises:
        DesignRefused: The target or an argument is not on the list, or does not fit the others.
    """
    _check(design)
    make = _TARGETS[design.target][0]
    try:
        with torch.device("meta"):
            size = sum(one.numel() for one in make(**design.arguments).parameters())
    except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise DesignRefused(f"the arguments of {design.target} contradict each other") from error
    if size > PARAMETERS_MAX:
        raise DesignRefused(f"it would have {size} parameters, over {PARAMETERS_MAX}")
    module = make(**design.arguments)
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return module


def _check(design: Design) -> None:
    if design.target not in _TARGETS:
        raise DesignRefused(f"{design.target!r} is not on the list of constructors")
    _, needed, optional = _TARGETS[design.target]
    for name in needed:
        if name not in design.arguments:
            raise DesignRefused(f"{design.target} lacks the argument {name}")
    known = {**needed, **optional}
    for name, value in design.arguments.items():
        if name not in known:
            raise DesignRefused(f"{design.target} takes no argument {name!r} here")
        if not known[name](value):
            raise DesignRefused(f"the argument {name} of {design.target} is out of range")


def _number(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _numbers(low: int, high: int, *, least: int = 0) -> Check:
    one = _number(low, high)
    return lambda value: (
        isinstance(value, list | tuple) and least <= len(value) <= 16 and all(map(one, value))
    )


def _fraction(value: Any) -> bool:
    return type(value) in {int, float} and 0.0 <= value < 1.0


def _layer(names: frozenset[str], options: Mapping[str, Check]) -> Check:
    """Accept ``"name"`` or ``["name", {option: value}]``, as MONAI writes them."""

    def check(value: Any) -> bool:
        if isinstance(value, str):
            return value.lower() in names
        if not (isinstance(value, list | tuple) and len(value) == 2):
            return False
        name, given = value
        return (
            isinstance(name, str)
            and name.lower() in names
            and isinstance(given, Mapping)
            and all(key in options and options[key](one) for key, one in given.items())
        )

    return check


_BOOLEAN: Final[Check] = lambda value: type(value) is bool  # noqa: E731 - a check like the others
_NORM: Final = _layer(
    NORMS, {"num_groups": _number(1, WIDTH_MAX), "num_channels": _number(1, WIDTH_MAX),
            "affine": _BOOLEAN, "eps": _fraction},
)  # fmt: skip
_ACTIVATION: Final = _layer(ACTIVATIONS, {"inplace": _BOOLEAN, "negative_slope": _fraction})
_OUTPUTS: Final = _number(1, WIDTH_MAX)
_IMAGE: Final = _numbers(1, SIDE_MAX, least=3)

_Target: TypeAlias = tuple[Callable[..., nn.Module], Mapping[str, Check], Mapping[str, Check]]
_TARGETS: Final[Mapping[str, _Target]] = {
    "models.classification.WaveletNet": (
        WaveletNet,
        {"input_shape": _IMAGE},
        {"outputs": _OUTPUTS},
    ),
    "models.sonogram.SonogramNet": (
        SonogramNet,
        {"input_shape": _IMAGE},
        {"outputs": _OUTPUTS},
    ),
    "models.classification.CompactCnn": (CompactCnn, {}, {"outputs": _OUTPUTS}),
    "models.classification.ResNet18": (ResNet18, {}, {"outputs": _OUTPUTS}),
    "monai.networks.nets.DenseNet": (
        DenseNet,
        {"spatial_dims": _number(2, 3), "in_channels": _number(1, 64), "out_channels": _OUTPUTS},
        {
            "init_features": _number(1, WIDTH_MAX),
            "growth_rate": _number(1, WIDTH_MAX),
            "block_config": _numbers(1, LAYERS_MAX, least=1),
            "bn_size": _number(1, 16),
            "act": _ACTIVATION,
            "norm": _NORM,
            "dropout_prob": _fraction,
        },
    ),
    "monai.networks.nets.UNet": (
        UNet,
        {
            "spatial_dims": _number(2, 3),
            "in_channels": _number(1, 64),
            "out_channels": _OUTPUTS,
            "channels": _numbers(1, WIDTH_MAX, least=2),
            "strides": _numbers(1, 4, least=1),
        },
        {
            "kernel_size": _number(1, 7),
            "up_kernel_size": _number(1, 7),
            "num_res_units": _number(0, 8),
            "act": _ACTIVATION,
            "norm": _NORM,
            "dropout": _fraction,
            "bias": _BOOLEAN,
        },
    ),
    "monai.networks.nets.FullyConnectedNet": (
        FullyConnectedNet,
        {
            "in_channels": _number(1, TABLE_MAX),
            "out_channels": _OUTPUTS,
            "hidden_channels": _numbers(1, WIDTH_MAX),
        },
        {"act": _ACTIVATION, "bias": _BOOLEAN, "dropout": _fraction},
    ),
}
TARGETS: Final = frozenset(_TARGETS)
"""Every constructor a design may name."""
