"""Poseidon over the scalar field of BN254: the hash that circuits and programs share.

The parameters are those of circomlib (x^5, 8 full rounds, 56 to 66 partial rounds), so that a hash
computed here equals the one constrained in ``circuits/cover.circom``.

    >>> hex(poseidon(1, 2))
    '0x115cc0f5e7d690413df64c6b9662e9cf2a3617f2743245519e19607a4417189a'

What holds (tests/zk/test_poseidon.py):

1. It equals a plain Python Poseidon whose constants are drawn anew from the paper's generator.
2. A number outside the field is refused, never reduced: x and x + FIELD would share a hash.

References:
    Grassi, Khovratovich, Rechberger, Roy, Schofnegger, Poseidon: A New Hash Function for
    Zero-Knowledge Proof Systems, USENIX Security 2021; appendix E gives the generator.
    EIP-197 gives the field.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from light_poseidon_python import Hasher

from protocol.errors import ProofError

FIELD: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the groups of BN254: the field in which circuits compute."""

INPUTS_MAX: Final = 12
"""Published parameters end at a state of 13."""


class NotInField(ProofError):
    """A number that was to be hashed is not an element of the field."""

    code = "not-in-field"

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(
            f"input {position} of a Poseidon hash is not an integer from 0 to the field's order "
            "less one; send it in its canonical form"
        )


def poseidon(*inputs: int) -> int:
    """Return the hash of 1 to 12 field elements, a field element.

    Different numbers of inputs use different permutations, so ``poseidon(x)`` and
    ``poseidon(x, 0)`` are unrelated.

    Raises:
        NotInField: An input is no integer, negative, or not below ``FIELD``.
    """
    assert 1 <= len(inputs) <= INPUTS_MAX
    for position, number in enumerate(inputs):
        if type(number) is not int or not 0 <= number < FIELD:
            raise NotInField(position)
    digest: str = _hasher(len(inputs)).hash_bytes_be([n.to_bytes(32, "big") for n in inputs])
    return int(digest, 16)


@cache
def _hasher(inputs: int) -> Any:
    """Return the native permutation for so many inputs; it keeps nothing between calls."""
    return Hasher(inputs)
