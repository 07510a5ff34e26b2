"""Shamir's scheme for polynomials: every entry is shared by itself, mod its own prime.

Holder i, counted from 0, gets F(i + 1) of F(x) = secret + c_1 x + ... + c_(t-1) x^(t-1), whose
coefficients are uniform polynomials; t holders get the secret back as the sum of their shares
times Lagrange's weights for their quorum, l_i = product over the others j of x_j / (x_j - x_i) [1].
Nothing is secret about the weights, and as they come first, a holder can multiply what it has by
its weight and the sum alone gives the secret: that is how decryption shares add up [2].

A library does not share vectors; this is all there is to it.

    >>> stream = RandomStream.from_system()
    >>> secret = np.array([[5, 7]], dtype=np.uint64)
    >>> shares = split(secret, threshold=2, holders=3, primes=(97,), stream=stream)
    >>> join({0: shares[0], 2: shares[2]}, primes=(97,)).tolist()
    [[5, 7]]

What holds, each a test in tests/privacy/test_polynomial_sharing.py:

1. Any ``threshold`` shares, or more, give the secret back, as they do in Python's integers.
2. ``threshold - 1`` shares fit every secret equally well.

References:
    [1] Shamir, How to Share a Secret, CACM 22(11), 1979.
    [2] Mouchet, Bertrand and Hubaux, An Efficient Threshold Access-Structure for RLWE-Based
    Multiparty Homomorphic Encryption, Journal of Cryptology 36, 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from privacy import polynomials
from privacy.randomness import RandomStream

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split(
    secret: NDArray[np.uint64],
    *,
    threshold: int,
    holders: int,
    primes: Sequence[int],
    stream: RandomStream,
) -> list[NDArray[np.uint64]]:
    """Return the shares of a polynomial, the one of holder i at place i.

    Args:
        secret: ``(primes, ring_degree)``, in any form: coefficients or evaluations.
        threshold: How many shares determine it, at least 2.
        holders: How many shares; fewer than the smallest prime.
        primes: What the rows are taken mod.
        stream: Secret; the polynomial's other coefficients are drawn from it.
    """
    assert 2 <= threshold <= holders < min(primes)
    higher = [polynomials.uniform(stream, primes, secret.shape[1]) for _ in range(threshold - 1)]
    shares = []
    for point in range(1, holders + 1):
        value = higher[-1]
        for coefficient in [*higher[-2::-1], secret]:  # Horner's scheme
            raised = polynomials.times_small(value, point, primes)
            value = polynomials.add(raised, coefficient, primes)
        shares.append(value)
    return shares


def join(shares: Mapping[int, NDArray[np.uint64]], *, primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return the polynomial that the shares, by holder, determine; for tests and recoveries."""
    total: NDArray[np.uint64] | None = None
    for holder, share in shares.items():
        term = polynomials.multiply(share, weights(holder, list(shares), primes), primes)
        total = term if total is None else polynomials.add(total, term, primes)
    assert total is not None
    return total


def weights(holder: int, quorum: Sequence[int], primes: Sequence[int]) -> NDArray[np.uint64]:
    """Return Lagrange's weight at zero of one holder in a quorum, ``(primes, 1)``.

    Args:
        holder: Its place, from 0; one of ``quorum``.
        quorum: The places of all, each once.
        primes: What the weight is taken mod.
    """
    assert quorum.count(holder) == 1
    column = []
    for prime in primes:
        above = below = 1
        for other in quorum:
            if other != holder:
                above = above * (other + 1) % prime
                below = below * (other - holder) % prime
        column.append(above * pow(below, -1, prime) % prime)
    return np.array(column, dtype=np.uint64)[:, None]
