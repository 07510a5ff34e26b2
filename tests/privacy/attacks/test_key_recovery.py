"""One published aggregate gives away the key of shared-key CKKS; ours shows sums without noise."""

import numpy as np
import pytest
from scipy import stats

from privacy.bfv import open_sum, sum_residues
from tests.privacy.attacks.cohort import CHANCE, scaled, secret_of
from tests.privacy.attacks.key_recovery import encoded_again, is_ternary, recover
from tests.privacy.attacks.reference import (
    opened,
    polynomials,
    primes,
    secret_polynomial,
    with_secret,
)
from tests.privacy.attacks.transform import centred, forward, inverse

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


# Ours: attackers may even know the opened words with all masks removed, and the whole sum.


@pytest.fixture(scope="module")
def ours(preset, group_key, server, upload):
    """A sum of ten updates and its slots, as the hospitals open it."""
    draw = np.random.default_rng(3).integers
    total = server.add([upload(group_key, draw(-127, 128, 10_000)) for _ in range(10)])
    return sum_residues(total, preset)[0, :, 0].astype(object), open_sum(total, group_key)


def only_key_that_explains(ciphertext, message, q):
    """Return s with c0 + c1 s = message: here one ciphertext gives all N equations."""
    c0, c1 = ciphertext
    inverses = np.array([pow(int(word), -1, q) for word in forward(c1, q)], dtype=object)
    return inverse(forward(message - c0, q) * inverses % q, q)


def test_the_attack_on_our_scheme_would_work_if_the_sum_carried_no_noise(preset, group_key, ours):
    """So it is the noise alone, which opening removes and never tells, that it stumbles over."""
    q = preset.coeff_modulus[0]
    secret = secret_of(group_key)
    (_, c1), words = ours
    message = scaled(words[: preset.ring_degree], preset)
    c0 = message - inverse(forward(c1, q) * forward(secret_of(group_key), q) % q, q)
    assert np.array_equal(only_key_that_explains((c0, c1), message, q), secret)


def test_what_we_open_explains_no_key(preset, group_key, ours):
    """The solution is as good as a random polynomial, and decrypts nothing."""
    q = preset.coeff_modulus[0]
    ciphertext, words = ours
    found = only_key_that_explains(ciphertext, scaled(words[: preset.ring_degree], preset), q)
    assert not is_ternary(found)
    assert stats.kstest((found / q).astype(float) + 0.5, "uniform").pvalue > CHANCE
    secret = secret_of(group_key)
    guess = ternary_nearest(found, q)
    assert abs(np.mean(guess == secret) - 1 / 3) < 0.05  # what guessing gives


def ternary_nearest(found, q):
    """Return each coefficient's third of the range, the best that rounding can make of it."""
    return np.round((found / q).astype(float) * 3).clip(-1, 1).astype(int)


def test_the_noise_that_stays_behind_is_fresh_in_every_sum(preset, group_key, server, upload):
    """Of equal messages too: normal, of ten uploads' size, and another in each of two sums."""
    q, n = preset.coeff_modulus[0], preset.ring_degree
    messages = np.random.default_rng(4).integers(-127, 128, (10, 10_000))
    noises = []
    for _ in range(2):
        total = server.add([upload(group_key, message) for message in messages])
        c0, c1 = sum_residues(total, preset)[0, :, 0].astype(object)
        message = scaled(open_sum(total, group_key)[:n], preset)
        opened_whole = c0 + inverse(forward(c1, q) * forward(secret_of(group_key), q) % q, q)
        noises.append(centred((opened_whole - message) % q, q).astype(float))
    for noise in noises:
        assert abs(noise.std() / np.sqrt(10 * (21 / 2 + 1 / 12)) - 1) < 0.1
        spread = noise + np.random.default_rng(5).uniform(-0.5, 0.5, n)  # integers are no normal
        assert stats.kstest(spread / spread.std(), "norm").pvalue > CHANCE
    assert abs(np.corrcoef(noises)[0, 1]) < 6 / np.sqrt(n)
