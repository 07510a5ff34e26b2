"""There is one way to write a TenSEAL vector, and every other message is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.wire import MalformedCiphertext, read_vector, vector_bytes, vector_size

ciphertexts = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5)
slots = st.sampled_from([1, 127, 128, 4096, 16384])


@given(ciphertexts, slots)
def test_reading_returns_what_was_written(written, n):
    assert read_vector(vector_bytes(written, n), n) == written


@given(st.integers(1, 200), st.integers(1, 40_000), slots)
def test_the_size_is_known_without_writing(count, size, n):
    assert vector_size(count, size, n) == len(vector_bytes([bytes(size)] * count, n))


@given(st.binary(max_size=60), slots)
def test_arbitrary_bytes_are_refused_or_are_the_one_way_to_write_them(blob, n):
    try:
        read = read_vector(blob, n)
    except MalformedCiphertext:
        return
    assert vector_bytes(read, n) == blob


@given(ciphertexts, st.data())
def test_a_shortened_or_lengthened_message_is_refused(written, data):
    blob = vector_bytes(written, 4096)
    cut = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(MalformedCiphertext):
        read_vector(blob[:cut], 4096)
    with pytest.raises(MalformedCiphertext):
        read_vector(blob + b"\x12\x01x", 4096)


@pytest.mark.parametrize(
    "blob",
    [
        "",
        "0a 00",  # no ciphertext at all
        "0a 02 81 20 12 01 61",  # another number of slots
        "0a 02 80 20 12 81 00 61",  # a length written in more bytes than it needs
        "0a 02 80 20 12 ff ff ff ff ff ff 01",  # a length that never ends
        "0a 02 80 20 1a 01 61",  # an unknown field
        "12 01 61 0a 02 80 20",  # fields in another order
        "08 80 20 12 01 61",  # slots not packed
    ],
)
def test_each_other_spelling_is_refused(blob):
    with pytest.raises(MalformedCiphertext):
        read_vector(bytes.fromhex(blob), 4096)
