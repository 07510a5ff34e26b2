"""Networks from one picture or volume to the log-odds of every point: MONAI's UNet.

The first level keeps the full grid, so that fine borders reach the output through a skip; two
halvings follow. All channel counts are divisible by the groups of the normalisation.

What holds, each line a test in tests/models/test_networks.py and test_per_sample.py:

1. The output has the grid of the input.
2. GroupNorm everywhere, nothing in place, per-sample gradients as in a loop over records.

References:
    Ronneberger et al., U-Net, MICCAI 2015. arXiv:1505.04597
    Kerfoot et al., Left-Ventricle Quantification Using Residual U-Net, STACOM 2018: the variant
    that MONAI has.
"""

from __future__ import annotations

from typing import Any, Final

WIDTHS: Final = (8, 16, 32, 80)
"""Channels of the levels: 143,691 parameters in 3-D with three classes, nine ciphertexts."""
STRIDES: Final = (1, 2, 2)
DIVISOR: Final = 4
"""Sides of the input are multiples of it."""
NORM_GROUPS: Final = 4


def unet(dimensions: int, outputs: int) -> dict[str, Any]:
    """Return the arguments of MONAI's UNet for grey input of 2 or 3 dimensions."""
    assert dimensions in {2, 3}
    return {
        "spatial_dims": dimensions,
        "in_channels": 1,
        "out_channels": outputs,
        "channels": list(WIDTHS),
        "strides": list(STRIDES),
        "act": ["leakyrelu", {"inplace": False}],
        "norm": ["group", {"num_groups": NORM_GROUPS}],
    }
