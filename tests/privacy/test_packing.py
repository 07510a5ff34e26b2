"""Sums of packed updates mod t unpack to the sums of the updates, and nothing else unpacks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.packing import SumCorrupt, pack, unpack
from privacy.parameters import PRESETS, WEIGHT_MAX, ParameterSet, TooManySites, parameter_set
from privacy.quantisation import QuantisedUpdate
from privacy.randomness import RandomStream

# The layout does not depend on the ring's size, except where ciphertexts end: a ring of 8 slots,
# which no constructor would let pass as secure, shows many ends in short vectors.
TINY = object.__new__(ParameterSet)
for _name, _value in vars(parameter_set("packed-bfv-8")).items():
    object.__setattr__(TINY, _name, 8 if _name == "ring_degree" else _value)

parameters = st.sampled_from([*PRESETS.values(), TINY])


@st.composite
def cohorts(draw):
    chosen = draw(parameters)
    sites = draw(st.integers(1, chosen.max_sites))
    length = draw(st.integers(1, 60))
    top = chosen.value_max
    value = st.one_of(st.sampled_from([top, -top, 0, -1]), st.integers(-top, top))
    row = st.lists(value, min_size=length, max_size=length)
    rows = draw(st.lists(row, min_size=sites, max_size=sites))
    weights = draw(st.lists(st.integers(1, WEIGHT_MAX), min_size=sites, max_size=sites))
    return chosen, rows, weights


def packed(chosen, row, weight):
    values = QuantisedUpdate(np.array(row, dtype=np.int16), chosen.value_bits, 0)
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
def test_the_largest_cohort_at_the_largest_values_does_not_overflow(name, sign):
    chosen = parameter_set(name)
    for sites in range(1, chosen.max_sites + 1):
        rows = [[sign * chosen.value_max] * 9] * sites
        sums, weight = unpack(add(chosen, rows, [WEIGHT_MAX] * sites), 9, sites, chosen)
        assert sums.tolist() == [sign * sites * chosen.value_max] * 9
        assert weight == sites * WEIGHT_MAX


@settings(max_examples=60)
@given(cohorts())
def test_packing_agrees_with_its_slow_twin(cohort):
    chosen, rows, weights = cohort
    assert packed(chosen, rows[0], weights[0]).tolist() == slow_pack(chosen, rows[0], weights[0])


def slow_pack(chosen, row, weight):
    """Lay out slots one integer at a time, from the picture in the module's docstring."""
    count = -(-len(row) // chosen.fields)
    words = []
    for j in range(count):
        fields = [
            row[i * count + j] if i * count + j < len(row) else 0 for i in range(chosen.fields)
        ]
        words.append(sum(v * 2 ** (chosen.field_bits * i) for i, v in enumerate(fields)))
    body = [weight, *words]
    slots = []
    while body:
        slots.append(len(slots) // chosen.ring_degree + 1)
        here, body = body[: chosen.ring_degree - 1], body[chosen.ring_degree - 1 :]
        slots += here + [0] * (chosen.ring_degree - 1 - len(here))
    return [slot % chosen.plain_modulus for slot in slots]


@settings(max_examples=60)
@given(cohorts(), st.integers(1, 16))
def test_a_sum_opened_as_one_of_another_number_of_sites_is_refused(cohort, claimed):
    chosen, rows, weights = cohort
    if claimed != len(rows):
        with pytest.raises(SumCorrupt):
            unpack(add(chosen, rows, weights), len(rows[0]), claimed, chosen)


@settings(max_examples=60)
@given(cohorts(), st.data())
def test_a_changed_check_word_or_unused_slot_is_refused(cohort, data):
    chosen, rows, weights = cohort
    opened = add(chosen, rows, weights)
    used = 1 + -(-len(rows[0]) // chosen.fields)
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
    for slot, content in ((2, chosen.value_max + 1), (1, 0), (1, WEIGHT_MAX + 1)):
        words = packed(chosen, [0], 1)
        words[slot] = content
        with pytest.raises(SumCorrupt):
            unpack(words, 1, 1, chosen)


def test_more_sites_than_fit_are_refused():
    chosen = parameter_set("packed-bfv-8")
    with pytest.raises(TooManySites):
        unpack(packed(chosen, [0], 1), 1, 17, chosen)
