"""SEAL's saved form is read back exactly, within a limit, and every other header is refused."""

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from privacy.wire import MalformedCiphertext, array_header, body, header, saved


def compressed(content, kind=2, *, announce=False):
    frame = zstandard.ZstdCompressor(write_content_size=announce).compress(content)
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, kind, 0, 16 + len(frame)) + frame


@given(st.binary(max_size=300))
def test_reading_returns_what_was_saved(content):
    assert body(saved(content), limit=300) == content
    for announce in (True, False):
        assert body(compressed(content, announce=announce), limit=300) == content


@given(st.integers(1, 300), st.booleans())
def test_nothing_beyond_the_limit_is_returned(size, announce):
    for blob in (saved(bytes(size)), compressed(bytes(size), announce=announce)):
        with pytest.raises(MalformedCiphertext):
            body(blob, limit=size - 1)


def test_a_small_file_does_not_grow_beyond_the_limit():
    for announce in (True, False):
        with pytest.raises(MalformedCiphertext):
            body(compressed(bytes(10**8), announce=announce), limit=1000)


@pytest.mark.parametrize("position", [*range(5), *range(6, 16)])
def test_each_byte_of_the_header_is_fixed(position):
    for blob in (saved(b"content"), compressed(b"content")):
        changed = bytearray(blob)
        changed[position] ^= 1
        with pytest.raises(MalformedCiphertext):
            body(bytes(changed), limit=100)


def test_zlib_is_not_read():
    with pytest.raises(MalformedCiphertext, match="another way"):
        body(compressed(b"content", kind=1), limit=100)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_plain(blob):
    for candidate in (blob, header(len(blob)) + blob, compressed(b"")[:16] + blob):
        try:
            found = body(candidate, limit=100)
        except MalformedCiphertext:
            continue
        assert saved(found) == candidate or compressed(b"")[:16] == candidate[:16]


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_damaged_frame_is_refused_or_read_within_the_limit(content, data):
    blob = bytearray(compressed(content))
    blob[data.draw(st.integers(16, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert len(body(bytes(blob), limit=100)) <= 100
    except MalformedCiphertext:
        return


def test_an_array_says_how_many_words_follow():
    assert array_header(2) + bytes(16) == saved(struct.pack("<Q", 2) + bytes(16))
