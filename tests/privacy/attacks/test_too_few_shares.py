"""One hospital opens everything in the reference; here t - 1 hold nothing and t hold enough."""

import secrets

import numpy as np
import pytest

from privacy.sharing import PRIME, SHARE_BYTES, QuorumMissing, join, quorum, split
from tests.privacy.attacks.reference import opened

HOLDERS = 7


def test_in_the_reference_any_one_hospital_opens_every_upload(reference, updates, uploads):
    one = reference.another_client()
    for update, upload in zip(updates, uploads, strict=True):
        assert np.allclose(opened(one, upload), update, atol=1e-6)


def test_a_quorum_of_shares_joins_to_the_seed_whoever_is_in_it():
    seed = secrets.token_bytes(32)
    threshold = quorum(HOLDERS)
    shares = split(seed, threshold=threshold, holders=HOLDERS)
    for absent in range(HOLDERS - threshold + 1):
        chosen = {place: shares[place] for place in range(absent, absent + threshold)}
        assert join(chosen, threshold=threshold) == seed


def test_one_share_fewer_fits_every_seed_there_is():
    """To whatever seed the attacker guesses there is a last share that makes it the right one."""
    threshold = quorum(HOLDERS)
    known = dict(enumerate(split(bytes(32), threshold=threshold, holders=HOLDERS)[: threshold - 1]))
    for _ in range(5):
        guess = secrets.token_bytes(32)
        missing = share_that_would_make(guess, known, HOLDERS - 1)
        assert join({**known, HOLDERS - 1: missing}, threshold=threshold) == guess


def share_that_would_make(secret, known, place):
    """Return the value at ``place`` of the polynomial through the secret and the known shares."""
    points = {0: int.from_bytes(secret)} | {i + 1: int.from_bytes(v) for i, v in known.items()}
    value = 0
    for i, y in points.items():
        term = y
        for j in points:
            if j != i:
                term = term * (place + 1 - j) * pow(i - j, -1, PRIME) % PRIME
        value += term
    return (value % PRIME).to_bytes(SHARE_BYTES)


def test_joining_a_share_too_few_is_refused():
    threshold = quorum(HOLDERS)
    shares = dict(enumerate(split(bytes(32), threshold=threshold, holders=HOLDERS)))
    del shares[0], shares[1], shares[2]
    with pytest.raises(QuorumMissing):
        join(shares, threshold=threshold)
