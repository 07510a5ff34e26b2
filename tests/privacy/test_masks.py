"""Pads hide a packed update completely and leave the sum as it was."""

import secrets
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.masks import (
    PadAgreementRefused,
    apply,
    negate,
    pad_sum,
    pair_pad_key,
    remove,
    self_pad_key,
)
from privacy.packing import pack, unpack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from tests.privacy import mask_twin

PRESET = parameter_set("packed-bfv-8")
T = PRESET.plain_modulus


def packed(values, weight=1):
    return pack(QuantisedUpdate(np.array(values, dtype=np.int16), 8, 0), weight, PRESET)


def pads(seed, n):
    stream = RandomStream.from_seed(seed)
    return [stream.below(T, PRESET.ring_degree) for _ in range(n)]


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=30))
def test_no_pads_change_nothing(values):
    update = packed(values)
    masked = apply(update, [])
    assert np.array_equal(masked.words, update.words)
    assert masked.length == len(values)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 4))
def test_removing_undoes_applying(seed, n):
    update, chosen = packed([1, -2, 3]), pads(seed, n)
    assert np.array_equal(remove(apply(update, chosen).words, chosen, PRESET), update.words)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_pairwise_pads_cancel_in_the_sum(seed, sites):
    """Site i adds the pad it shares with j > i and subtracts those it shares with j < i."""
    shared = {
        (i, j): RandomStream.from_seed(seed, str(i), str(j)).below(T, PRESET.ring_degree)
        for i in range(sites)
        for j in range(i + 1, sites)
    }
    total = np.zeros(PRESET.ring_degree, dtype=object)
    for i in range(sites):
        own = [shared[i, j] for j in range(i + 1, sites)]
        own += [negate(shared[j, i], PRESET) for j in range(i)]
        masked = apply(packed([i, -i, 127], weight=i + 1), own)
        assert int(masked.words.max()) < T
        total += masked.words
    sums, weight = unpack((total % T).astype(np.uint64), 3, sites, PRESET)
    k = sum(range(sites))
    assert sums.tolist() == [k, -k, 127 * sites]
    assert weight == k + sites


def test_a_padded_update_is_uniform_whatever_it_holds():
    masked = apply(packed([127] * 16_000), pads(3, 1)).words
    assert stats.kstest(masked / T, "uniform").pvalue > 1e-3


def test_the_zero_pad_is_its_own_negative():
    zero = np.zeros(PRESET.ring_degree, dtype=np.uint64)
    assert not negate(zero, PRESET).any()


keys = st.binary(min_size=32, max_size=32)
# Just above a power of two, where nearly every second word is thrown away.
WASTEFUL = replace(PRESET, plain_modulus=2**49 + 1)
presets = st.sampled_from([PRESET, WASTEFUL, parameter_set("threshold-bfv-8")])


@settings(max_examples=30, deadline=None)
@given(st.lists(keys, max_size=4), st.lists(keys, max_size=4), st.integers(0, 40), presets)
def test_a_sum_of_pads_is_that_of_the_twin(added, subtracted, size, preset):
    modulus = preset.plain_modulus
    expected = [0] * size
    for sign, pad_keys in ((1, added), (-1, subtracted)):
        for key in pad_keys:
            pad = mask_twin.pad(key, size, modulus)
            expected = [(a + sign * b) % modulus for a, b in zip(expected, pad, strict=True)]
    assert pad_sum(added, subtracted, size=size, parameters=preset).tolist() == expected


@pytest.mark.parametrize("size", [2**14 - 1, 2**14, 2**14 + 1, 2**15 + 3])
@pytest.mark.parametrize("preset", [PRESET, WASTEFUL], ids=["frugal", "wasteful"])
def test_a_pad_is_one_stream_however_it_is_cut_into_pieces(size, preset):
    key = bytes(range(32))
    whole = RandomStream(key, secret=True).below(preset.plain_modulus, size)
    assert np.array_equal(pad_sum([key], [], size=size, parameters=preset), whole)


def test_more_pads_than_a_word_holds_are_added_exactly():
    preset = parameter_set("threshold-bfv-8")
    pad_keys = [i.to_bytes(32, "big") for i in range(300)]  # 2**64 / t is about 128
    pads = [mask_twin.pad(key, 5, preset.plain_modulus) for key in pad_keys]
    expected = [sum(column) % preset.plain_modulus for column in zip(*pads, strict=True)]
    assert pad_sum(pad_keys, [], size=5, parameters=preset).tolist() == expected
    assert not pad_sum(pad_keys, pad_keys, size=5, parameters=preset).any()


def pair(own_key, own, other_key, other, context=b"plan"):
    return pair_pad_key(own_key, own, public(other_key), other, context=context)


def public(key):
    return key.public_key().public_bytes_raw()


def test_both_sites_of_a_pair_derive_one_key():
    north, south = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    assert pair(north, "north", south, "south") == pair(south, "south", north, "north")


def test_any_difference_gives_another_pair_key():
    north, south, third = (X25519PrivateKey.generate() for _ in range(3))
    derived = [
        pair(north, "north", south, "south"),
        pair(north, "north", south, "south", context=b"another plan"),
        pair(north, "north", south, "sout", context=b"hplan"),
        pair(north, "north", south, "west"),
        pair(north, "west", south, "south"),
        pair(north, "south", south, "north"),
        pair(north, "north", third, "south"),
        pair(third, "north", south, "south"),
    ]
    assert all(len(key) == 32 for key in derived)
    assert len(set(derived)) == len(derived)


def test_an_agreement_key_written_in_another_way_gives_another_pair_key():
    """X25519 ignores the highest bit of a public key, so the agreed secret alone would not tell."""
    north, south = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    twisted = public(south)[:-1] + bytes([public(south)[-1] ^ 0x80])
    straight = pair_pad_key(north, "north", public(south), "south", context=b"")
    assert pair_pad_key(north, "north", twisted, "south", context=b"") != straight


@settings(max_examples=30)
@given(keys, keys, st.binary(max_size=40))
def test_a_self_pad_key_depends_on_seed_site_and_context(seed, other, context):
    derived = self_pad_key(seed, "north", context=context)
    assert (self_pad_key(other, "north", context=context) == derived) == (seed == other)
    assert self_pad_key(seed, "south", context=context) != derived
    assert self_pad_key(seed, "north", context=context + b"x") != derived
    assert self_pad_key(seed, "nort", context=b"h" + context) != derived


# The orders of these points of Curve25519 divide 8 (RFC 7748, section 7).
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    (2**255 - 19 - 1).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
]


@pytest.mark.parametrize("key", [*SMALL_ORDER, b"", bytes(31), b"\x09" * 33])
def test_a_key_that_agrees_on_nothing_secret_is_refused_and_its_site_named(key):
    with pytest.raises(PadAgreementRefused) as refused:
        pair_pad_key(X25519PrivateKey.generate(), "north", key, "cheating-site", context=b"")
    assert refused.value.site == "cheating-site"


def test_every_bit_of_a_pad_key_counts():
    """Were only some of its bits used, as where a key seeds a small generator, two would agree."""
    key = secrets.token_bytes(32)
    keys_one_bit_apart = [
        (int.from_bytes(key, "big") ^ (1 << bit)).to_bytes(32, "big") for bit in range(256)
    ]
    grown = {
        pad_sum([one], [], size=4, parameters=PRESET).tobytes()
        for one in [key, *keys_one_bit_apart]
    }
    assert len(grown) == 257
