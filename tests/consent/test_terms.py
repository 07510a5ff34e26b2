"""Terms are one number each, and allow exactly what the circuit allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.terms import PACKED_BITS, Terms, TermsNeverValid
from zk.cover import FieldOutOfRange

BOUNDS = {"grants": 32, "site": 32, "dataset": 32, "study": 64, "not_before": 16, "expiry": 16}
LOWEST = dict.fromkeys(BOUNDS, 0) | {"expiry": 1}
days = st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=2, unique=True).map(sorted)
bits32 = st.integers(0, 2**32 - 1)


@st.composite
def terms(draw):
    first, end = draw(days)
    return Terms(
        grants=draw(bits32),
        site=draw(bits32),
        dataset=draw(bits32),
        study=draw(st.integers(0, 2**64 - 1)),
        not_before=first,
        expiry=end,
    )


@given(terms(), terms())
def test_packing_is_injective(one, other):
    assert (one.packed() == other.packed()) == (one == other)


@given(terms())
def test_packed_terms_can_be_unpacked_and_fit_the_field(one):
    assert one.packed() < 1 << PACKED_BITS == 1 << 192
    assert Terms.unpacked(one.packed()) == one


@given(terms(), bits32, days)
def test_they_allow_what_has_every_bit_on_every_day(one, required, period):
    from_day, through_day = period
    has_bits = all(one.grants >> bit & 1 for bit in range(32) if required >> bit & 1)
    has_days = one.not_before <= from_day and through_day < one.expiry
    assert one.allows(required, from_day, through_day) == (has_bits and has_days)


def test_the_first_day_counts_and_the_day_of_expiry_does_not():
    one = Terms(grants=1, site=0, dataset=0, study=0, not_before=10, expiry=20)
    assert one.allows(1, 10, 19)
    assert not one.allows(1, 9, 19)
    assert not one.allows(1, 10, 20)
    assert not one.allows(1, 19, 10)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("past", [False, True])
def test_a_number_out_of_its_range_is_refused(name, past):
    wrong = 1 << BOUNDS[name] if past else -1
    with pytest.raises(FieldOutOfRange, match=name):
        Terms(**(LOWEST | {name: wrong}))


@pytest.mark.parametrize("expiry", [9, 10])
def test_terms_that_cover_no_day_are_refused(expiry):
    with pytest.raises(TermsNeverValid):
        Terms(grants=1, site=0, dataset=0, study=0, not_before=10, expiry=expiry)
