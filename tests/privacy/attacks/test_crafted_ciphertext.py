"""A server that writes a ciphertext of its choice gets the key of the reference decrypted."""

import numpy as np

from tests.privacy.attacks.key_recovery import is_ternary, recover
from tests.privacy.attacks.reference import (
    DEGREE,
    SLOTS,
    crafted,
    opened,
    primes,
    secret_polynomial,
)
from tests.privacy.attacks.transform import forward


def ask_for_the_key(residues, moduli):
    """Write (0, 1) and (0, X): they decrypt to s and X s, small numbers without any noise."""
    x = np.zeros(DEGREE, dtype=int)
    x[1] = 1
    residues[:, 0] = 0
    for row, q in enumerate(moduli):
        residues[0, 1, row] = 1  # the transform of the polynomial 1
        residues[1, 1, row] = forward(x, q).astype(np.uint64)


def test_the_reference_decrypts_its_own_key_for_the_server(reference, uploads):
    """TenSEAL takes the ciphertext, and the hospital reports "the new model"."""
    moduli = primes(reference.server)[:-1]  # the special one is not in ciphertexts
    question = crafted(reference.server, uploads[0], lambda rows: ask_for_the_key(rows, moduli))
    answer = opened(reference.client, question)
    assert answer.size == 2 * SLOTS
    key = recover(reference.server, question, answer)
    assert is_ternary(key)
    assert np.array_equal(key, secret_polynomial(reference.client))
