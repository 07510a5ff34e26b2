"""The reference verifier: Groth16 on BN254 in pure Python, slow and short enough to read.

A proof (A, B, C) shows a statement with public inputs x_1..x_n under a key when [1, section 3.2]

    e(A, B) = e(alpha, beta) * e(L, gamma) * e(C, delta)      L = IC_0 + sum_i x_i IC_i

``verify_many`` checks n proofs at once. It draws a random 128-bit r_k for each and checks the
product of the equations raised to r_k [2]; the three pairings on the right then need one Miller
loop for all proofs. A batch with a bad proof passes with probability at most 2^-127.

A proof is 256 bytes: A.x, A.y, B.x, B.y, C.x, C.y, big-endian, B's coordinates with the imaginary
part first, as the pairing precompile of Ethereum takes them (EIP-197).

What holds (tests/zk/test_groth16.py):

1. A proof verifies for the statement it was made for and for no other.
2. Only canonical numbers are accepted, so one point has one encoding. Proofs still are malleable:
   (r A, r^-1 B, C) verifies as well, hence nothing may be named by its proof bytes.
3. ``zk.fast`` agrees with this module.

References:
    [1] Groth, On the Size of Pairing-Based Non-interactive Arguments, EUROCRYPT 2016.
    [2] Ferrara, Green, Hohenberger, Pedersen, Practical Short Signature Batch Verification,
    CT-RSA 2009, the small exponents test; after Bellare, Garay, Rabin, EUROCRYPT 1998.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from protocol.errors import ProofError
from zk.curve import ORDER, Affine1, Affine2, Point, PointMalformed, g1, g2
from zk.curve import library as bn
from zk.keys import VerificationKey

PROOF_BYTES: Final = 256
EXPONENT_BITS: Final = 128


class ProofInvalid(ProofError):
    """A proof does not show its statement."""

    code = "proof-invalid"

    def __init__(self, reason: str, index: int = 0) -> None:
        self.reason = reason
        self.index = index
        super().__init__(f"proof {index} does not hold: {reason}; prove again from current state")


class Statement(Protocol):
    """What a proof can show: ``zk.cover.CoverStatement``, ``zk.semaphore.SemaphoreProof``."""

    def public_inputs(self) -> list[int]:
        """Return the public inputs in the order of the circuit."""
        ...


@dataclass(frozen=True)
class _Proof:
    A: Point
    B: Point
    C: Point


@dataclass(frozen=True)
class _Key:
    """A verification key as points, with the Miller loop of (alpha, beta) done once."""

    alpha: Point
    beta: Point
    gamma: Point
    delta: Point
    ic: tuple[Point, ...]
    alpha_beta: Point


def verify(vk: VerificationKey, statement: Statement, proof: bytes) -> None:
    """Return if ``proof`` shows ``statement`` under ``vk``.

    Raises:
        ProofInvalid: It does not, or is not 256 canonical bytes.
    """
    key = _points(vk)
    numbers = public_inputs(vk, statement)
    points = _parse(proof)
    product = (
        bn.pairing(points.B, bn.neg(points.A), final_exponentiate=False)
        * key.alpha_beta
        * bn.pairing(key.gamma, _weighted(key.ic, [1, *numbers]), final_exponentiate=False)
        * bn.pairing(key.delta, points.C, final_exponentiate=False)
    )
    if bn.final_exponentiate(product) != bn.FQ12.one():
        raise ProofInvalid("the pairing equation fails")


def verify_many(
    vk: VerificationKey,
    proofs: Sequence[tuple[Statement, bytes]],
    *,
    random_bits: Callable[[int], int] = secrets.randbits,
) -> None:
    """Return if every proof shows its statement; cheaper than one by one from two on.

    Args:
        vk: The key all proofs were made for.
        proofs: Statements and their proofs.
        random_bits: ``random_bits(k)`` gives k bits that whoever made the proofs cannot predict.

    Raises:
        ProofInvalid: One does not; ``index`` names the first bad one.
    """
    key = _points(vk)
    product = bn.FQ12.one()
    scalars = [0] * len(key.ic)
    total_C = (bn.FQ.one(), bn.FQ.one(), bn.FQ.zero())
    for index, (statement, proof) in enumerate(proofs):
        numbers = public_inputs(vk, statement, index)
        points = _parse(proof, index)
        exponent = random_bits(EXPONENT_BITS) | 1
        scaled_A = bn.multiply(bn.neg(points.A), exponent)
        product *= bn.pairing(points.B, scaled_A, final_exponentiate=False)
        for k, number in enumerate([1, *numbers]):
            scalars[k] = (scalars[k] + exponent * number) % ORDER
        total_C = bn.add(total_C, bn.multiply(points.C, exponent))
    product *= bn.pairing(key.beta, bn.multiply(key.alpha, scalars[0]), final_exponentiate=False)
    product *= bn.pairing(key.gamma, _weighted(key.ic, scalars), final_exponentiate=False)
    product *= bn.pairing(key.delta, total_C, final_exponentiate=False)
    if bn.final_exponentiate(product) != bn.FQ12.one():
        _name_the_bad_one(vk, proofs)


def public_inputs(vk: VerificationKey, statement: Statement, index: int = 0) -> list[int]:
    """Return a statement's public inputs if they are canonical and as many as the key takes.

    A number x and x + r would be the same to the pairing; only the smaller is a statement.

    Raises:
        ProofInvalid: They are not.
    """
    numbers = statement.public_inputs()
    if len(numbers) != len(vk.ic) - 1:
        raise ProofInvalid(f"the key takes {len(vk.ic) - 1} public inputs", index)
    if any(type(number) is not int or not 0 <= number < ORDER for number in numbers):
        raise ProofInvalid("a public input is not below the field modulus", index)
    return numbers


def _name_the_bad_one(vk: VerificationKey, proofs: Sequence[tuple[Statement, bytes]]) -> None:
    for index, (statement, proof) in enumerate(proofs):
        try:
            verify(vk, statement, proof)
        except ProofInvalid as error:
            raise ProofInvalid(error.reason, index) from error
    raise AssertionError("a batch of valid proofs failed")  # impossible by the equation above


def _parse(proof: bytes, index: int = 0) -> _Proof:
    if len(proof) != PROOF_BYTES:
        raise ProofInvalid(f"it has {len(proof)} bytes, not {PROOF_BYTES}", index)
    n = [int.from_bytes(proof[i : i + 32], "big") for i in range(0, PROOF_BYTES, 32)]
    a: Affine1 = (n[0], n[1])
    b: Affine2 = ((n[3], n[2]), (n[5], n[4]))
    c: Affine1 = (n[6], n[7])
    try:
        return _Proof(A=g1("A", a), B=g2("B", b), C=g1("C", c))
    except PointMalformed as error:
        raise ProofInvalid(f"point {error.name} {error.reason}", index) from error


@lru_cache(maxsize=8)
def _points(vk: VerificationKey) -> _Key:
    alpha, beta = g1("alpha", vk.alpha_1), g2("beta", vk.beta_2)
    return _Key(
        alpha=alpha,
        beta=beta,
        gamma=g2("gamma", vk.gamma_2),
        delta=g2("delta", vk.delta_2),
        ic=tuple(g1(f"IC {i}", point) for i, point in enumerate(vk.ic)),
        alpha_beta=bn.pairing(beta, alpha, final_exponentiate=False),
    )


def _weighted(points: Sequence[Point], scalars: Sequence[int]) -> Point:
    """Return the sum of ``scalar * point``."""
    total = (bn.FQ.one(), bn.FQ.one(), bn.FQ.zero())
    for point, scalar in zip(points, scalars, strict=True):
        total = bn.add(total, bn.multiply(point, scalar))
    return total
