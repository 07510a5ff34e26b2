"""Parts that would become more than a message has are counted before they are put together."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.parts import PartsRefused, check_parts, joined_bytes


def part(kind, children, body):
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def array(children, order):
    return part("Array", children, json.dumps({"dtype": "uint8", "arraychunk_ids": order}).encode())


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    order=st.lists(st.integers(0, 3), max_size=20),
)
def test_what_is_put_together_is_never_larger_than_counted(sizes, order):
    names = [f"c{place}" for place in range(len(sizes))]
    chunks = {
        name: part("ArrayChunk", [], bytes(size)) for name, size in zip(names, sizes, strict=True)
    }
    order = [place % len(sizes) for place in order]
    joined = sum(sizes[place] for place in order)
    contents = chunks | {"a": array(names, order)}
    assert joined_bytes(contents) >= joined
    check_parts(contents, 10**4)
    with pytest.raises(PartsRefused):
        check_parts(contents | {"b": array(["c0"], [0] * 10**3)}, 10**3)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"no zero byte",
        b"\xff  3\0abc",
        b"too few\0abc",
        array(["missing"], [0]),
        array(["c"], [1]),
        array(["c"], {"0": 0}),
        array(["c"], ["0"]),
        part("Array", ["c"], b"[]"),
        part("Array", ["c"], b"{}"),
        part("Array", ["c"], b"[" * 100_000),
    ],
)
def test_bytes_that_are_no_parts_are_refused(bad):
    with pytest.raises(PartsRefused):
        check_parts({"c": part("ArrayChunk", [], b"abc"), "bad": bad})


def test_parts_that_are_too_large_as_they_are_are_refused():
    with pytest.raises(PartsRefused):
        check_parts({"c": part("ArrayChunk", [], bytes(100))}, 100)
