"""The random stream is the AES-256-CTR keystream, and what is made of it has the right law."""

import copy
import math
import os
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.randomness import RandomStream, StreamForked

# NIST SP 800-38A, F.5.5 CTR-AES256.Encrypt.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def test_the_cipher_underneath_agrees_with_the_nist_vector():
    encryptor = Cipher(algorithms.AES(NIST_KEY), modes.CTR(NIST_COUNTER)).encryptor()
    assert encryptor.update(NIST_PLAIN) == NIST_CIPHER


def test_the_stream_is_the_block_cipher_applied_to_a_counter_from_zero():
    blocks = b"".join(i.to_bytes(16, "big") for i in range(8))
    codebook = Cipher(algorithms.AES(NIST_KEY), modes.ECB()).encryptor()  # the slow twin
    stream = RandomStream(NIST_KEY, secret=False)
    assert stream.bytes(100) == codebook.update(blocks)[:100]


@given(st.lists(st.integers(0, 100), max_size=6))
def test_reading_in_pieces_gives_the_same_bytes(pieces):
    whole = RandomStream.from_seed(3).bytes(sum(pieces))
    stream = RandomStream.from_seed(3)
    assert b"".join(stream.bytes(n) for n in pieces) == whole


@given(st.integers(0, 2**300), st.lists(st.text(max_size=5), max_size=3))
def test_equal_seeds_and_labels_repeat(seed, labels):
    first, second = (RandomStream.from_seed(seed, *labels) for _ in range(2))
    assert first.bytes(32) == second.bytes(32)
    assert first.child("x").bytes(32) == second.child("x").bytes(32)


def test_labels_seeds_and_children_name_different_streams():
    streams = [
        RandomStream.from_seed(1),
        RandomStream.from_seed(2),
        RandomStream.from_seed(1, "ab", "c"),
        RandomStream.from_seed(1, "a", "bc"),
        RandomStream.from_seed(1, "abc"),
        RandomStream.from_seed(1).child(),
        RandomStream.from_seed(1).child("abc"),
    ]
    assert len({stream.bytes(32) for stream in streams}) == len(streams)


def test_a_child_does_not_depend_on_how_far_its_parent_was_read():
    parent = RandomStream.from_seed(5)
    before = parent.child("a").bytes(16)
    parent.bytes(1000)
    assert parent.child("a").bytes(16) == before


def test_only_the_system_makes_secret_streams():
    assert RandomStream.from_system().secret
    assert RandomStream.from_system().child("a").secret
    assert not RandomStream.from_seed(1).secret
    assert not RandomStream.from_seed(1).child("a").secret
    assert RandomStream.from_system().bytes(32) != RandomStream.from_system().bytes(32)


def test_uniform_numbers_pass_kolmogorov_smirnov_and_stay_in_range():
    drawn = RandomStream.from_seed(11).uniform(100_000)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_numbers_have_the_normal_law(dtype):
    drawn = RandomStream.from_seed(12).normal(100_001, dtype)
    assert drawn.dtype == dtype
    assert drawn.shape == (100_001,)
    assert stats.kstest(drawn.astype(np.float64), "norm").pvalue > 1e-3
    assert abs(drawn.mean()) < 5 / math.sqrt(drawn.size)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / drawn.size)
    assert abs(stats.kurtosis(drawn)) < 0.08
    halves = drawn[:50_000].astype(np.float64), drawn[50_001:].astype(np.float64)
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.025  # cosine and sine of one pair


@given(st.integers(1, 2**64), st.integers(0, 50))
def test_integers_stay_below_their_bound(bound, n):
    drawn = RandomStream.from_seed(13).below(bound, n)
    assert drawn.shape == (n,)
    assert drawn.dtype == np.uint64
    assert all(int(x) < bound for x in drawn)


@given(st.integers(1, 2**64), st.lists(st.integers(0, 30), max_size=5))
def test_reading_integers_in_pieces_gives_the_same_integers(bound, pieces):
    whole = RandomStream.from_seed(16).below(bound, sum(pieces)).tolist()
    stream = RandomStream.from_seed(16)
    assert [x for n in pieces for x in stream.below(bound, n).tolist()] == whole


@given(st.integers(1, 2**64))
def test_integers_are_the_words_that_fit_cut_to_the_bits_of_their_bound(bound):
    shift = 64 - max(1, (bound - 1).bit_length())
    cut = [word >> shift for word in RandomStream.from_seed(17).words(400).tolist()]
    expected = [word for word in cut if word < bound][:50]  # 400 words hold 50 that fit
    assert RandomStream.from_seed(17).below(bound, 50).tolist() == expected


@pytest.mark.parametrize("bound", [2, 3, 6, 257])
def test_integers_are_uniform(bound):
    counts = np.bincount(RandomStream.from_seed(14).below(bound, 60_000), minlength=bound)
    assert stats.chisquare(counts).pvalue > 1e-3


@settings(max_examples=10)
@given(st.floats(0.0, 1.0))
def test_flags_are_true_as_often_as_asked(p):
    share = RandomStream.from_seed(15).bernoulli(p, 20_000).mean()
    assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / 20_000) + 1e-4


def test_certain_flags_are_certain():
    assert RandomStream.from_seed(1).bernoulli(1.0, 1000).all()
    assert not RandomStream.from_seed(1).bernoulli(0.0, 1000).any()


def test_a_stream_is_not_continued_in_a_forked_process(monkeypatch):
    stream = RandomStream.from_system()
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    with pytest.raises(StreamForked) as refused:
        stream.bytes(1)
    assert refused.value.read_in == child


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_stream_is_not_duplicated(duplicate):
    with pytest.raises(TypeError):
        duplicate(RandomStream.from_system())


def test_a_stream_does_not_print_its_key():
    assert repr(RandomStream.from_seed(1)) == "RandomStream(secret=False)"
