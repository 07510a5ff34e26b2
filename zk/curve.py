"""Points of BN254 read from numbers that came from outside.

A point is accepted only in its one canonical form: coordinates below the base field modulus, on
the curve, not the point at infinity, and, on the twist, in the subgroup of prime order. G1 has
cofactor 1, so being on the curve is enough there.

References:
    EIP-196 and EIP-197 (Ethereum, 2017): curve equations, moduli and the order of coordinates.
    Barreto, Naehrig, Pairing-Friendly Elliptic Curves of Prime Order, SAC 2005: the twist has a
    cofactor, hence the subgroup check.
"""

from __future__ import annotations

import sys
from typing import Any, Final, TypeAlias

from protocol.errors import ProofError

# Importing py_ecc raises Python's recursion limit so far that deeply nested JSON from outside
# would overflow the C stack instead of raising RecursionError; put the limit back.
_LIMIT: Final = sys.getrecursionlimit()
from py_ecc import optimized_bn128 as bn  # noqa: E402  # between reading and restoring the limit

sys.setrecursionlimit(_LIMIT)
library: Final = bn
"""py_ecc's optimised BN254, for whoever computes with points."""

MODULUS: Final[int] = bn.field_modulus
"""q of the coordinates."""
ORDER: Final[int] = bn.curve_order
"""r of the scalars, equal to ``zk.poseidon.FIELD``."""

Point: TypeAlias = Any
"""A projective point of py_ecc, which has no type of its own for them."""
Affine1: TypeAlias = tuple[int, int]
Affine2: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""(x, y), each as (real, imaginary) part, as snarkjs writes them."""


class PointMalformed(ProofError):
    """Coordinates that are not a canonical point of the group."""

    code = "point-malformed"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"point {name} {reason}; it cannot come from an honest prover or setup")


def g1(name: str, affine: Affine1) -> Point:
    """Return a point of G1.

    Raises:
        PointMalformed: A coordinate is not canonical, or the point is not on the curve.
    """
    _canonical(name, affine)
    point = (bn.FQ(affine[0]), bn.FQ(affine[1]), bn.FQ.one())
    if not bn.is_on_curve(point, bn.b):
        raise PointMalformed(name, "is not on the curve")
    return point


def g2(name: str, affine: Affine2) -> Point:
    """Return a point of G2.

    Raises:
        PointMalformed: A coordinate is not canonical, or the point is not on the twist or not in
            the subgroup of order r.
    """
    for coordinate in affine:
        _canonical(name, coordinate)
    point = (bn.FQ2(affine[0]), bn.FQ2(affine[1]), bn.FQ2.one())
    if not bn.is_on_curve(point, bn.b2):
        raise PointMalformed(name, "is not on the curve")
    if not bn.is_inf(bn.multiply(point, ORDER)):
        raise PointMalformed(name, "is outside the subgroup of prime order")
    return point


def _canonical(name: str, numbers: tuple[int, int]) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number < MODULUS:
            raise PointMalformed(name, "has a coordinate that is not below the field modulus")
