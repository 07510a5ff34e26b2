"""Poseidon over the BN254 scalar field, with the constants that circomlib's circuits use.

    >>> hex(poseidon(1, 2))
    '0x115cc0f5e7d690413df64c6b9662e9cf2a3617f2743245519e19607a4417189a'

References:
    Grassi et al., Poseidon: A New Hash Function for Zero-Knowledge Proof Systems, USENIX Security
    2021. ePrint 2019/458. The permutation is the library light-poseidon's.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from light_poseidon_python import Hasher

FIELD: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the scalar field of BN254 (EIP-197)."""
INPUTS_MAX: Final = 12


def poseidon(*inputs: int) -> int:
    """Return the hash of 1 to 12 field elements, a field element.

    The caller owes elements that are in the field; whatever comes from outside is checked where
    it comes in.
    """
    assert 1 <= len(inputs) <= INPUTS_MAX
    assert all(0 <= element < FIELD for element in inputs)
    digest = _hasher(len(inputs)).hash_bytes_be([element.to_bytes(32, "big") for element in inputs])
    return int(digest, 16) if isinstance(digest, str) else int.from_bytes(bytes(digest), "big")


@functools.cache
def _hasher(width: int) -> Any:
    return Hasher(width)
