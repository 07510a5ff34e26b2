"""SEAL's number-theoretic transform in plain integers, for whoever computes with residues by hand.

SEAL keeps a polynomial m of degree below N as its values at the odd powers of psi, the least
primitive 2N-th root of unity mod q: word i is m(psi**(2 * reversed(i) + 1)), where ``reversed``
turns the log2 N bits of i around [1]. Word N - 1 - i is therefore the value at the inverse point.

References:
    [1] Longa and Naehrig, Speeding up the Number Theoretic Transform, CANS 2016, section 2.2;
    SEAL 4.3, native/src/seal/util/ntt.h.
"""

from functools import lru_cache

import numpy as np


def forward(coefficients, q):
    """Return SEAL's transform of ``(N,)`` integers, as residues mod q."""
    n = len(coefficients)
    psi = _psi(n, q)
    twisted = np.array([int(c) for c in coefficients], dtype=object) * _powers(psi, n, q) % q
    return _dft(twisted, psi * psi % q, q)[_reversal(n)]


def inverse(words, q):
    """Return the ``(N,)`` coefficients, centred on zero, that SEAL transforms to ``words``."""
    n = len(words)
    root = pow(_psi(n, q), -1, q)
    values = np.array([int(word) for word in words], dtype=object)[_reversal(n)]
    found = _dft(values, root * root % q, q) * _powers(root, n, q) * pow(n, -1, q) % q
    return centred(found, q)


def centred(residues, q):
    """Return residues mod q as the integers nearest to zero."""
    return np.where(residues > q // 2, residues - q, residues)


def _dft(values, root, q):
    """Return sum_j values[j] root**(jk) for each k, along the first axis."""
    n = len(values)
    if n == 1:
        return values
    halves = _dft(values.reshape(n // 2, 2, *values.shape[1:]), root * root % q, q)
    twiddles = _powers(root, n // 2, q).reshape(n // 2, *[1] * (values.ndim - 1))
    even, odd = halves[:, 0], halves[:, 1] * twiddles
    return np.concatenate([even + odd, even - odd]) % q


def _powers(root, count, q):
    found = [1]
    for _ in range(count - 1):
        found.append(found[-1] * root % q)
    return np.array(found, dtype=object)


def _reversal(n):
    bits = n.bit_length() - 1
    return np.array([int(format(i, f"0{bits}b")[::-1], 2) for i in range(n)])


@lru_cache
def _psi(n, q):
    """Return the least primitive 2n-th root of unity mod the prime q."""
    assert q % (2 * n) == 1
    some = next(r for x in range(2, 99) if pow(r := pow(x, (q - 1) // (2 * n), q), n, q) == q - 1)
    return min(pow(some, odd, q) for odd in range(1, 2 * n, 2))
