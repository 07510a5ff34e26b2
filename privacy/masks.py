"""Add one-time pads to a packed update; today's rounds pass none, and encryption is the only cover.

A pad is a vector uniform mod t that two sites share, one adding and the other subtracting it, or
that its owner reveals once the round is committed. With pads, whoever holds the group key and one
site's upload sees noise [1]. No pad is exchanged in a round yet: ``apply(packed, [])`` only marks
that the step was passed, and a server together with any one hospital could open every upload.

What holds, each line a property test in tests/privacy/test_masks.py:

1. ``remove`` undoes ``apply``; pads that add up to zero mod t over the sites cancel in the sum.
2. ``encrypt`` takes a ``MaskedUpdate`` and nothing else.

References:
    [1] Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
    CCS 2017, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privacy.packing import PackedUpdate
from privacy.parameters import ParameterSet

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskedUpdate:
    """A packed update to which every pad of the round was added.

    Attributes:
        words: ``(ciphertexts * ring_degree,)`` integers below t.
        length: How many values they hold.
        parameters: The layout they follow.
    """

    words: NDArray[np.uint64]
    length: int
    parameters: ParameterSet


def apply(packed: PackedUpdate, pads: Sequence[NDArray[np.uint64]]) -> MaskedUpdate:
    """Return ``packed`` plus all ``pads`` mod t.

    Args:
        packed: The site's packed update.
        pads: Each of the shape of ``packed.words`` and uniform below t
            (``RandomStream.below``), used once. To subtract a pad, pass ``negate`` of it.
    """
    words = _add_all(packed.words, pads, packed.parameters)
    return MaskedUpdate(words, packed.length, packed.parameters)


def remove(
    words: NDArray[np.uint64], pads: Sequence[NDArray[np.uint64]], parameters: ParameterSet
) -> NDArray[np.uint64]:
    """Return ``words`` minus all ``pads`` mod t.

    Args:
        words: ``(ciphertexts * ring_degree,)`` slots of an opened sum.
        pads: Those that did not cancel in the sum.
        parameters: Of the sum.
    """
    return _add_all(words, (negate(pad, parameters) for pad in pads), parameters)


def negate(pad: NDArray[np.uint64], parameters: ParameterSet) -> NDArray[np.uint64]:
    """Return the pad that cancels ``pad``."""
    modulus = np.uint64(parameters.plain_modulus)
    return np.where(pad == 0, pad, modulus - pad)


def _add_all(
    words: NDArray[np.uint64], pads: Iterable[NDArray[np.uint64]], parameters: ParameterSet
) -> NDArray[np.uint64]:
    modulus = np.uint64(parameters.plain_modulus)
    total = words
    for pad in pads:
        assert pad.shape == words.shape
        assert int(pad.max()) < parameters.plain_modulus
        summed = total + pad  # below 2t, far from 2**64
        total = np.where(summed >= modulus, summed - modulus, summed)
    return total
