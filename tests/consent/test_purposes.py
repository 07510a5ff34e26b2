"""Every purpose and category is one bit, under the ontology's own code, and bits never move."""

import csv
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.purposes import (
    BITS,
    CATEGORIES,
    PURPOSES,
    UnknownCategory,
    UnknownPurpose,
    categories_in,
    category_mask,
    granted_mask,
    names_of,
    purpose_mask,
    purposes_in,
)

codes = st.lists(st.sampled_from([one.code for one in PURPOSES]))
DATA = Path(os.environ.get("BITHIVE_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
ONTOLOGY = DATA / "duo/duo_terms.csv"


def test_there_are_sixteen_of_each_and_no_two_share_a_code():
    assert len(PURPOSES) == len(CATEGORIES) == BITS
    assert len({one.code for one in PURPOSES}) == len({one.name for one in PURPOSES}) == BITS
    assert len({one.code for one in CATEGORIES}) == len({one.name for one in CATEGORIES}) == BITS


def test_bits_stay_where_grants_in_registries_have_them():
    assert purpose_mask(["NRES", "HMB", "POA"]) == 1 << 0 | 1 << 2 | 1 << 4
    assert purpose_mask(["DUO:0000040"]) == 1 << 15
    assert (
        category_mask(["image", "table", "US", "genomic"]) == 1 << 16 | 1 << 17 | 1 << 20 | 1 << 31
    )


@given(codes)
def test_a_mask_gives_its_purposes_back(named):
    assert [one.code for one in purposes_in(purpose_mask(named))] == [
        one.code for one in PURPOSES if one.code in named
    ]


@given(codes, codes)
def test_what_is_granted_grows_with_what_is_named(fewer, more):
    granted = granted_mask([*fewer, *more])
    assert granted & purpose_mask(fewer) == purpose_mask(fewer)
    assert granted == granted_mask(fewer) | granted_mask(more)


def test_a_grant_includes_what_the_ontology_puts_below_it_and_nothing_beside():
    health = granted_mask(["HMB"])
    assert health & purpose_mask(["DS", "DUO:0000039"]) == purpose_mask(["DS", "DUO:0000039"])
    assert health & purpose_mask(["NRES", "GRU", "POA", "CC", "DUO:0000033"]) == 0
    assert granted_mask(["NRES"]) == (1 << BITS) - 1
    assert granted_mask(["GRU"]) & purpose_mask(["NRES", "CC"]) == 0


@given(st.integers(0, 2**32 - 1))
def test_a_person_can_read_every_bit(grants):
    assert len(names_of(grants)) == grants.bit_count()
    assert len(purposes_in(grants)) + len(categories_in(grants)) == grants.bit_count()


@pytest.mark.parametrize("name", ["", "XYZ", "hmb", "DUO:0000001", "US"])
def test_an_unknown_purpose_is_refused(name):
    with pytest.raises(UnknownPurpose):
        purpose_mask([name])


@pytest.mark.parametrize("name", ["", "ultrasound", "HMB"])
def test_an_unknown_category_is_refused(name):
    with pytest.raises(UnknownCategory):
        category_mask([name])


@pytest.mark.skipif(not ONTOLOGY.is_file(), reason="the ontology's table is not beside the clone")
def test_codes_and_order_are_those_of_the_ontology():
    with ONTOLOGY.open(encoding="utf-8") as file:
        terms = {row["id"]: row for row in csv.DictReader(file)}
    for one in PURPOSES:
        assert terms[one.code]["shorthand"] == one.shorthand
    for above, below in itertools.product(PURPOSES, PURPOSES):
        if terms[below.code]["parents"] == above.code:
            assert below.code in above.includes
