"""Masks: Flower's SecAgg+ folds every key to 32 bits; ours are keyed by 256 and never meet."""

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation import secaggplus_utils as flower

from privacy.parameters import parameter_set
from privacy.randomness import RandomStream

MODULUS = 1 << 32  # the default of Flower's SecAggPlusWorkflow
SHAPE = [(64,)]


def flowers_mask(key):
    return tuple(flower.pseudo_rand_gen(key, MODULUS, SHAPE)[0].tolist())


def folded(key):
    """Return the exclusive or of a key's words, which is all of it that Flower's masks use."""
    return int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))


def test_all_of_a_key_that_flower_uses_is_one_word_of_32_bits():
    for _ in range(20):
        key = secrets.token_bytes(32)
        assert flowers_mask(key) == flowers_mask(folded(key).to_bytes(4, "little"))


def test_two_of_some_hundred_thousand_random_keys_give_one_mask_in_flower():
    """2**18 keys make 2**35 pairs, so about eight pairs share their 32 bits."""
    keys = np.frombuffer(secrets.token_bytes(32 << 18), "<u4").reshape(-1, 8)
    seeds = np.bitwise_xor.reduce(keys, axis=1)
    order = np.argsort(seeds)
    (meeting,) = np.nonzero(np.diff(seeds[order]) == 0)
    one, other = (keys[order[meeting[0] + step]].tobytes() for step in (0, 1))
    assert one != other
    assert flowers_mask(one) == flowers_mask(other)


def test_a_mask_of_flower_is_found_by_trying_keys_of_one_word():
    """Here 2**8 of the 2**32; each trial costs what it costs, whatever the key's length."""
    key = secrets.token_bytes(32)
    mask, seed = flowers_mask(key), folded(key)
    near = range(seed & ~0xFF, (seed | 0xFF) + 1)
    (found,) = (guess for guess in near if flowers_mask(guess.to_bytes(4, "little")) == mask)
    assert found == seed


def our_pad(key, size=64):
    modulus = parameter_set("packed-bfv-8").plain_modulus
    return tuple(RandomStream(key, secret=True).below(modulus, size).tolist())


def test_keys_that_meet_in_flower_give_unrelated_pads_here():
    key = secrets.token_bytes(32)
    moved = key[4:] + key[:4]  # the same words in another order fold to the same 32 bits
    assert flowers_mask(key) == flowers_mask(moved)
    assert not set(our_pad(key)) & set(our_pad(moved))


def test_each_of_256_bits_of_a_key_changes_our_whole_pad():
    key = int.from_bytes(secrets.token_bytes(32))
    pads = [our_pad((key ^ (1 << bit)).to_bytes(32)) for bit in range(256)]
    drawn = [word for pad in [our_pad(key.to_bytes(32)), *pads] for word in pad]
    assert len(set(drawn)) == len(drawn)  # 2**28 pairs of 49-bit words: a chance of 2**-21


def test_our_pads_are_the_aes_256_ctr_keystream_of_the_key():
    """Words of the keystream, cut to the modulus' bits; those beyond it are thrown away."""
    modulus = parameter_set("packed-bfv-8").plain_modulus
    key = secrets.token_bytes(32)
    keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 80))
    words = np.frombuffer(keystream, "<u8") >> np.uint64(64 - modulus.bit_length())
    assert our_pad(key) == tuple(words[words < modulus][:64].tolist())
