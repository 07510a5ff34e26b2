"""Sums of packed updates mod t unpack to the sums of the updates, and nothing else unpacks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.packing import VALUE_LIMIT, SumCorrupt, ValuesTooLarge, pack, unpack
from privacy.parameters import PRESETS, WEIGHT_MAX, ParameterSet, TooManySites, parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream
from privacy.update import IntegerUpdate
from tests.privacy import twin

# The layout does not depend on the ring's size, except where ciphertexts end: a ring of 8 slots,
# which no constructor would let pass as secure, shows many ends in short vectors.
TINY = object.__new__(ParameterSet)
for _name, _value in vars(parameter_set("packed-bfv-8")).items():
    object.__setattr__(TINY, _name, 8 if _name == "ring_degree" else _value)

parameters = st.sampled_from([*PRESETS.values(), TINY])


@st.composite
def cohorts(draw):
    """At most as many sites as fit with all values at their extremes."""
    chosen = draw(parameters)
    sites = draw(st.integers(1, 16))
    length = draw(st.integers(1, 60))
    top = chosen.value_max
    value = st.one_of(st.sampled_from([top, -top, 0, -1]), st.integers(-top, top))
    row = st.lists(value, min_size=length, max_size=length)
    rows = draw(st.lists(row, min_size=sites, max_size=sites))
    weights = draw(st.lists(st.integers(1, WEIGHT_MAX), min_size=sites, max_size=sites))
    return chosen, rows, weights


@st.composite
def crowds(draw):
    """17 to 64 sites whose values lean one way, column by column, by nothing up to the extreme."""
    chosen = draw(parameters)
    sites, length = draw(st.integers(17, chosen.max_sites)), draw(st.integers(1, 60))
    top = chosen.value_max
    leaning = st.one_of(st.just(0), st.sampled_from([top, -top]), st.integers(-top, top))
    leanings = np.array(draw(st.lists(leaning, min_size=length, max_size=length)))
    spread = draw(st.sampled_from([0, 1, top / 4.5]))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).normal(0, spread, (sites, length))
    rows = np.clip(np.rint(leanings + noise), -top, top).astype(np.int64)
    return chosen, rows.tolist()


def packed(chosen, row, weight):
    values = QuantisedUpdate(np.array(row, dtype=np.int32), chosen.value_bits, 0)
    return pack(values, weight, chosen).words


def add(chosen, rows, weights):
    total = sum(packed(chosen, r, w).astype(object) for r, w in zip(rows, weights, strict=True))
    return (total % chosen.plain_modulus).astype(np.uint64)


@settings(max_examples=60)
@given(cohorts())
def test_the_sum_of_packed_updates_is_the_packed_sum(cohort):
    chosen, rows, weights = cohort
    opened = add(chosen, rows, weights)
    sums, weight = unpack(opened, len(rows[0]), len(rows), chosen)
    assert sums.tolist() == [sum(column) for column in zip(*rows, strict=True)]
    assert weight == sum(weights)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_cohort_that_cannot_overflow_is_exact_at_the_extremes(name, sign):
    chosen = parameter_set(name)
    for sites in range(1, chosen.field_max // chosen.value_max + 1):
        rows = [[sign * chosen.value_max] * 9] * sites
        sums, weight = unpack(add(chosen, rows, [WEIGHT_MAX] * sites), 9, sites, chosen)
        assert sums.tolist() == [sign * sites * chosen.value_max] * 9
        assert weight == sites * WEIGHT_MAX


@settings(max_examples=80)
@given(crowds())
def test_a_larger_cohorts_sum_is_exact_where_fields_hold_it_and_refused_where_not(crowd):
    chosen, rows = crowd
    expected = [sum(column) for column in zip(*rows, strict=True)]
    opened = add(chosen, rows, [1] * len(rows))
    if max(map(abs, expected)) <= chosen.field_max:
        sums, weight = unpack(opened, len(expected), len(rows), chosen)
        assert (sums.tolist(), weight) == (expected, len(rows))
    elif max(expected) > chosen.field_max or min(expected) < -chosen.field_max - 1:
        with pytest.raises(SumCorrupt):
            unpack(opened, len(expected), len(rows), chosen)


@pytest.mark.parametrize("name", ["packed-bfv-8", "packed-bfv-12"])
def test_the_largest_cohort_of_honest_noise_is_exact(name):
    chosen = parameter_set(name)
    noise = np.random.default_rng(8).normal(0, chosen.value_max / 4.5, (64, 50_000))
    rows = np.clip(np.rint(noise), -chosen.value_max, chosen.value_max).astype(np.int64)
    sums, _ = unpack(add(chosen, rows, [1] * 64), rows.shape[1], 64, chosen)
    assert np.array_equal(sums, rows.sum(axis=0))


@pytest.mark.parametrize("name", ["packed-bfv-8", "packed-bfv-12"])
@pytest.mark.parametrize("sites", [17, 18, 33, 64])
def test_overflows_that_cancel_in_a_plain_sum_are_refused(name, sites):
    chosen = parameter_set(name)
    top = chosen.value_max
    row = [0] * 40
    row[3], row[7] = top, -top  # both in the lowest field, so that the field above takes the carry
    opened = add(chosen, [row] * sites, [1] * sites)
    values, _, _ = twin.split(opened.tolist(), 40, sites, chosen)
    assert values != [sites * v for v in row]
    assert sum(values) == 0  # nothing but the check sum tells
    with pytest.raises(SumCorrupt):
        unpack(opened, 40, sites, chosen)


def test_one_overflow_among_a_million_values_is_refused():
    chosen, sites = parameter_set("packed-bfv-8"), 17
    row = np.zeros(10**6, dtype=np.int16)
    row[123_456] = chosen.value_max
    once = packed(chosen, row, 1).astype(object)
    total = once * sites
    total[:: chosen.ring_degree] = [sites * (i + 1) for i in range(chosen.ciphertexts(row.size))]
    with pytest.raises(SumCorrupt):
        unpack((total % chosen.plain_modulus).astype(np.uint64), row.size, sites, chosen)


@settings(max_examples=60)
@given(cohorts(), st.data())
def test_a_changed_value_is_refused_even_inside_its_field(cohort, data):
    chosen, rows, weights = cohort
    opened = add(chosen, rows, weights)
    words = -(-len(rows[0]) // chosen.fields)
    body = [i for i in range(opened.size) if i % chosen.ring_degree][: 2 + words]
    slot = data.draw(st.sampled_from(body[1:]))
    delta = data.draw(st.sampled_from([1, -1, 5]))
    opened[slot] = (int(opened[slot]) + delta) % chosen.plain_modulus
    with pytest.raises(SumCorrupt):
        unpack(opened, len(rows[0]), len(rows), chosen)


@settings(max_examples=60)
@given(cohorts(), st.integers(1, 16))
def test_a_sum_opened_as_one_of_another_number_of_sites_is_refused(cohort, claimed):
    chosen, rows, weights = cohort
    if claimed != len(rows):
        with pytest.raises(SumCorrupt):
            unpack(add(chosen, rows, weights), len(rows[0]), claimed, chosen)


@pytest.mark.slow
@settings(max_examples=60)
@given(cohorts(), st.data())
def test_a_changed_check_word_or_unused_slot_is_refused(cohort, data):
    chosen, rows, weights = cohort
    opened = add(chosen, rows, weights)
    used = 2 + -(-len(rows[0]) // chosen.fields)
    body = [i for i in range(opened.size) if i % chosen.ring_degree]
    checked = [*range(0, opened.size, chosen.ring_degree), *body[used:]]
    slot = data.draw(st.sampled_from(checked))
    delta = data.draw(st.integers(1, chosen.plain_modulus - 1))
    opened[slot] = (int(opened[slot]) + delta) % chosen.plain_modulus
    with pytest.raises(SumCorrupt):
        unpack(opened, len(rows[0]), len(rows), chosen)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 16))
def test_random_slots_are_refused(seed, sites):
    chosen = parameter_set("packed-bfv-8")
    words = RandomStream.from_seed(seed).below(chosen.plain_modulus, chosen.ring_degree)
    with pytest.raises(SumCorrupt):
        unpack(words, 10, sites, chosen)


def test_slots_of_the_wrong_number_or_size_are_refused():
    chosen = parameter_set("packed-bfv-8")
    good = packed(chosen, [1, 2, 3], 5)
    too_large = good.copy()
    too_large[5] = chosen.plain_modulus
    for bad in (good[:-1], np.concatenate([good, good]), too_large):
        with pytest.raises(SumCorrupt):
            unpack(bad, 3, 1, chosen)


def test_a_value_or_weight_beyond_what_the_cohort_can_reach_is_refused():
    chosen = parameter_set("packed-bfv-8")
    over = chosen.value_max + 1
    for changes in (
        {3: over, 2: twin.check_sum([over], chosen)},
        {1: 0},
        {1: WEIGHT_MAX + 1},
    ):
        words = packed(chosen, [0], 1)
        for slot, content in changes.items():
            words[slot] = content
        with pytest.raises(SumCorrupt):
            unpack(words, 1, 1, chosen)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_more_sites_than_fit_are_refused(name):
    chosen = parameter_set(name)
    with pytest.raises(TooManySites):
        unpack(packed(chosen, [0], 1), 1, chosen.max_sites + 1, chosen)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("beyond", [0, 1, 2**20])
def test_integers_too_large_for_an_exact_check_sum_are_refused(sign, beyond):
    chosen = parameter_set("packed-bfv-20")
    largest = np.array([3, sign * (VALUE_LIMIT - 1), -5])
    pack(IntegerUpdate(largest), 1, chosen)
    with pytest.raises(ValuesTooLarge):
        pack(IntegerUpdate(largest + np.array([0, sign * (1 + beyond), 0])), 1, chosen)


def test_the_largest_integers_that_are_packed_come_apart_where_their_sum_fits():
    chosen, top = parameter_set("packed-bfv-20"), VALUE_LIMIT - 1
    rows = [np.array([top, -7, 4]), np.array([5 - top, 9, -top]), np.array([-2, 1, top])]
    words = sum(pack(IntegerUpdate(row), 1, chosen).words.astype(object) for row in rows)
    total, weight = unpack((words % chosen.plain_modulus).astype(np.uint64), 3, 3, chosen)
    assert total.tolist() == [3, 3, 4]
    assert weight == 3
