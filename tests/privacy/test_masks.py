"""Pads hide a packed update completely and leave the sum as it was."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.masks import apply, negate, remove
from privacy.packing import pack, unpack
from privacy.parameters import parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream

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
