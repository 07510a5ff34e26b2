"""A slow look inside a threshold group, in Python's integers: coefficients, noise, decryption."""

import numpy as np

from privacy.parameters import parameter_set
from privacy.ring import ring
from privacy.threshold import _multiplied

PARAMETERS = parameter_set("threshold-bfv-8")
RING = ring(PARAMETERS)
P1, P2 = PARAMETERS.data_modulus
Q, T, N = P1 * P2, PARAMETERS.plain_modulus, PARAMETERS.ring_degree


def coefficients(values: np.ndarray) -> np.ndarray:
    """The coefficients of evaluations: what multiplying the polynomial 1 by them gives."""
    one = np.zeros((1, 2, N), dtype=np.uint64)
    one[..., 0] = 1
    return _multiplied(one, values, RING)[0]


def centred(values: np.ndarray) -> np.ndarray:
    """The integers between -q/2 and q/2 with these residues, by the Chinese remainder theorem."""
    inverse = pow(P1, -1, P2)
    whole = [int(a) + P1 * ((int(b) - int(a)) * inverse % P2) for a, b in zip(*values, strict=True)]
    integers = [value - Q if value > Q // 2 else value for value in whole]
    small = all(abs(value) < 2**63 for value in integers)
    return np.array(integers, dtype=np.int64 if small else object)


def phase(ciphertext: np.ndarray, secret: np.ndarray) -> np.ndarray:
    """c_0 + c_1 s, centred: the message times q / t, and the noise."""
    product = _multiplied(ciphertext[None, 1], secret, RING)[0]
    primes = np.array([[P1], [P2]], dtype=np.uint64)
    return centred((ciphertext[0] + product) % primes)


def decrypt(ciphertext: np.ndarray, secret: np.ndarray) -> list[int]:
    """The message's coefficients: the phase times t / q, rounded."""
    return [(2 * T * int(value) + Q) // (2 * Q) % T for value in phase(ciphertext, secret)]
