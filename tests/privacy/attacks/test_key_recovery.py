"""One published aggregate gives away the key of shared-key CKKS; ours shows sums without noise."""

import numpy as np
import pytest

from tests.privacy.attacks.key_recovery import encoded_again, is_ternary, recover
from tests.privacy.attacks.reference import (
    opened,
    polynomials,
    primes,
    secret_polynomial,
    with_secret,
)
from tests.privacy.attacks.transform import forward

WEIGHTS = [100, 200, 50]


@pytest.fixture(scope="module")
def published(reference, updates):
    """A round of the reference: single uploads, their weighted mean, and its decryption."""
    uploads = [reference.encrypt(*each) for each in zip(updates, WEIGHTS, strict=True)]
    aggregate = reference.aggregate(uploads, WEIGHTS)
    return uploads, aggregate, opened(reference.client, aggregate)


def test_the_reference_loses_its_key_with_one_published_mean(reference, published, updates):
    uploads, aggregate, mean = published
    assert np.allclose(mean, np.average(updates, axis=0, weights=WEIGHTS), atol=1e-7)
    found = recover(reference.server, aggregate, mean)
    assert is_ternary(found)
    assert np.array_equal(found, secret_polynomial(reference.client))
    thief = with_secret(reference.server, found)
    for upload, update, weight in zip(uploads, updates, WEIGHTS, strict=True):
        assert np.allclose(opened(thief, upload) / weight, update, atol=1e-9)


def test_a_plain_sum_of_the_reference_gives_it_away_too(reference, uploads):
    total = reference.aggregate(uploads)
    assert is_ternary(recover(reference.server, total, opened(reference.client, total)))


def test_noise_for_differential_privacy_does_not_help_the_reference(reference, updates):
    """It is added before encryption, and the attack never asks what the message was."""
    noise = np.random.default_rng(2).normal(0, 0.05, updates.shape)
    total = reference.aggregate([reference.encrypt(update) for update in updates + noise])
    assert is_ternary(recover(reference.server, total, opened(reference.client, total)))


def test_rounding_to_float32_protects_the_reference_unless_values_are_zero(reference, published):
    """Of a small number float32 keeps every bit, and a frozen layer changes by zero."""
    _, aggregate, mean = published
    rounded = mean.astype(np.float32).astype(np.float64)
    assert not is_ternary(recover(reference.server, aggregate, rounded))
    frozen = reference.aggregate([reference.encrypt(np.zeros(8192)) for _ in WEIGHTS])
    rounded = opened(reference.client, frozen).astype(np.float32).astype(np.float64)
    assert is_ternary(recover(reference.server, frozen, rounded))


def test_what_the_reference_publishes_holds_its_noise_to_the_last_bit(reference, published):
    """The equation behind the attack: nothing is left over between the two sides of it."""
    _, aggregate, mean = published
    assert not left_over(reference, aggregate, mean).any()


def left_over(reference, aggregate, mean):
    """Return M - (c0 + c1 s) - (the same at the inverse points), which is zero if M tells all."""
    q = primes(reference.client)[0]
    secret = forward(secret_polynomial(reference.client), q)
    c0, c1 = polynomials(reference.server, aggregate)[0, :, 0].astype(object)
    message = c0 + c1 * secret
    told = encoded_again(reference.server, aggregate, mean[:4096])
    return (told - message - message[::-1]) % q
