"""A frame gives back what was put in, and hostile bytes give a typed error, never a crash."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import (
    MAGIC,
    Frame,
    MalformedFrame,
    decode,
    encode,
    encode_pieces,
    pieces_of,
)

names = st.text(st.characters(codec="ascii"), min_size=1, max_size=8)
bodies = st.dictionaries(names, st.integers() | st.text() | st.booleans() | st.none(), max_size=4)
blobs = st.dictionaries(names, st.binary(max_size=64), max_size=4)


@given(names, bodies, blobs)
def test_what_is_encoded_is_decoded(kind, body, blobs):
    assert decode(encode(kind, body, blobs)) == Frame(kind, body, blobs)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_typed_error(received):
    try:
        decode(received)
    except MalformedFrame as error:
        assert str(error)


@given(names, blobs, st.data())
def test_a_frame_cut_or_lengthened_is_refused(kind, blobs, data):
    frame = encode(kind, {}, blobs)
    end = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(MalformedFrame):
        decode(frame[:end])
    with pytest.raises(MalformedFrame):
        decode(frame + b"x")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"kind": "a", "body": {}},
        {"kind": 1, "body": {}, "blobs": []},
        {"kind": "a" * 41, "body": {}, "blobs": []},
        {"kind": "a", "body": [], "blobs": []},
        {"kind": "a", "body": {}, "blobs": [["x", -1]]},
        {"kind": "a", "body": {}, "blobs": [["x", True]]},
        {"kind": "a", "body": {}, "blobs": [["x"]]},
        {"kind": "a", "body": {}, "blobs": [["x", 0], ["x", 0]]},
        {"kind": "a", "body": {}, "blobs": [["x", 0]] * 65},
    ],
)
def test_a_header_of_another_shape_is_refused(header):
    text = json.dumps(header).encode()
    with pytest.raises(MalformedFrame):
        decode(MAGIC + len(text).to_bytes(4, "big") + text)


def test_a_header_that_nests_without_end_is_refused():
    text = b"[" * 100_000
    with pytest.raises(MalformedFrame):
        decode(MAGIC + len(text).to_bytes(4, "big") + text)


def test_a_frame_in_pieces_is_the_frame():
    frame = Frame("train", {"round": 1}, {"model": b"123", "shares": b""})
    whole = encode(frame.kind, frame.body, frame.blobs)
    assert b"".join(pieces_of(frame)) == whole
    blobs = {"model": (3, [b"1", b"23"]), "shares": (0, [])}
    assert encode_pieces(frame.kind, frame.body, blobs) == whole
