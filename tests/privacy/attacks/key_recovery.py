"""From one aggregate and what it decrypts to, the secret key of the reference setting [1].

CKKS keeps its encryption noise in the message: decryption gives the polynomial m = c0 + c1 s mod q,
noise and all, and the numbers it prints are m at N/2 complex points. Whoever reads them precisely
enough encodes them back to the very same m, and is left with an equation in s alone.

TenSEAL prints real parts only. Re m at the points is (m(X) + m(1/X)) / 2 there, so twice the
numbers, encoded, is M = m(X) + m(1/X), exactly, once rounded to integers. In SEAL's transform
word N - 1 - i belongs to the point inverse to that of word i, and with i' = N - 1 - i::

    M[i] = c0[i] + c0[i'] + c1[i] s[i] + c1[i'] s[i']    mod q

Two ciphertexts of one aggregate give two such equations for the two unknowns s[i], s[i'], for each
of the N/2 pairs: 2 x 2 systems, and then one inverse transform. That all coefficients come out
as -1, 0 or 1 tells the attacker that the key is found.

References:
    [1] Li and Micciancio, On the Security of Homomorphic Encryption on Approximate Numbers,
    EUROCRYPT 2021, section 3.
"""

import numpy as np
import tenseal
from tenseal import sealapi

from tests.privacy.attacks.reference import (
    DEGREE,
    SLOTS,
    plaintext_words,
    polynomials,
    primes,
    scale_of,
)
from tests.privacy.attacks.transform import inverse


def recover(context, aggregate, decrypted):
    """Return the ``(N,)`` coefficients of the only key that explains the decryption.

    Args:
        context: The server's, without a key.
        aggregate: A serialised vector of at least two ciphertexts.
        decrypted: ``(8192,)`` or more numbers that it decrypts to, as precise as they are known.
    """
    q = primes(context)[0]
    sums = [encoded_again(context, aggregate, decrypted[k * SLOTS :][:SLOTS]) for k in (0, 1)]
    ciphertexts = polynomials(context, aggregate)[:2, :, 0].astype(object)
    half = DEGREE // 2
    (a, b), (c, d) = ((c1[:half], c1[::-1][:half]) for _, c1 in ciphertexts)
    u, v = (
        (total - c0 - c0[::-1])[:half] for total, (c0, _) in zip(sums, ciphertexts, strict=True)
    )
    scale = np.array([pow(int(x), -1, q) for x in (a * d - b * c) % q], dtype=object)
    left, right = (u * d - b * v) * scale % q, (a * v - c * u) * scale % q
    return inverse(np.concatenate([left, right[::-1]]), q)


def encoded_again(context, aggregate, numbers):
    """Return m(X) + m(1/X) mod the first prime, transformed, of one decrypted ciphertext."""
    level = tenseal.ckks_vector_from(context, aggregate).ciphertext()[0].parms_id()
    plaintext = sealapi.Plaintext()
    encoder = sealapi.CKKSEncoder(context.seal_context().data)
    encoder.encode((2.0 * numbers).tolist(), level, scale_of(context, aggregate), plaintext)
    return plaintext_words(plaintext)[0].astype(object)


def is_ternary(coefficients):
    """Return whether these can be a key's coefficients: how the attacker knows it worked."""
    return set(coefficients.tolist()) <= {-1, 0, 1}
