"""Equal values have one text, and what has no exact text is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import NotCanonical, canonical_json

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_the_text_reads_back_as_the_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(text, st.integers(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_keys_does_not_matter(value, random):
    shuffled = list(value.items())
    random.shuffle(shuffled)
    assert canonical_json(dict(shuffled)) == canonical_json(value)


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), b"x", {1: 2}, {"a": [0.5]}, {"a": {"b"}}, "\ud800", {"\udfff": 1}]
)
def test_what_has_no_exact_text_is_refused(value):
    with pytest.raises(NotCanonical):
        canonical_json(value)


def test_the_refusal_names_the_place():
    with pytest.raises(NotCanonical, match=r"\['a'\]\[1\] is a float"):
        canonical_json({"a": [1, 2.5]})
