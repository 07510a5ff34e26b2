"""A picture becomes a standard square by itself alone, or is refused before it can do harm."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from protocol.errors import RecordError
from records.dicom import COLUMNS_MAX
from records.files import FileTruncated, NotAnImage, TooLarge
from records.image import square

HERE = Path("a.png")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed, rows, columns, top=256):
    return np.random.default_rng(seed).integers(0, top, (rows, columns), dtype=np.uint8)


@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_picture_becomes_a_finite_standard_square(rows, columns, seed):
    values = square(png(noise(seed, rows, columns)), HERE)
    assert values.shape == (1, 64, 64)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 1e-4
    assert values.std() < 1.001


@given(st.integers(0, 50), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_brightness_and_contrast_do_not_matter(shift, gain):
    pixels = noise(1, 64, 48, top=50)
    changed = (pixels * gain + shift).astype(np.uint8)
    np.testing.assert_allclose(square(png(changed), HERE), square(png(pixels), HERE), atol=1e-4)


def test_proportions_are_kept_and_the_margin_is_the_mean():
    values = square(png(noise(2, 32, 64)), HERE)[0]
    assert not values[:16].any()
    assert not values[48:].any()
    assert values[16:48].std() == pytest.approx(1, abs=1e-3)


def test_a_picture_of_one_colour_is_flat():
    assert not square(png(np.full((10, 10), 77, np.uint8)), HERE).any()


def test_sixteen_bits_are_not_clipped_to_eight():
    pixels = np.linspace(0, 60000, 64 * 64).reshape(64, 64).astype(np.uint16)
    values = square(png(pixels), HERE)[0]
    assert values[-1, -1] > values[40, 0] > values[20, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_ordinary_formats_are_read(kind):
    buffer = io.BytesIO()
    Image.fromarray(noise(3, 40, 40)).convert("RGB").save(buffer, kind)
    assert square(buffer.getvalue(), HERE).std() > 0.5


def test_a_dicom_file_is_read_whatever_its_name(dicom):
    pixels = noise(4, 64, 64)
    np.testing.assert_allclose(square(dicom(pixels), HERE), square(png(pixels), HERE), atol=1e-5)


def test_a_picture_that_is_cut_short_is_truncated():
    with pytest.raises(FileTruncated):
        square(png(noise(5, 64, 64))[:-900], HERE)


def test_an_empty_file_is_truncated():
    with pytest.raises(FileTruncated):
        square(b"", HERE)


def test_a_letter_is_not_an_image():
    with pytest.raises(NotAnImage):
        square(b"Dear colleague, " * 50, HERE)


def test_a_format_we_do_not_take_is_not_an_image():
    buffer = io.BytesIO()
    Image.fromarray(noise(6, 8, 8)).save(buffer, "GIF")
    with pytest.raises(NotAnImage):
        square(buffer.getvalue(), HERE)


def header_of(columns, rows):
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(COLUMNS_MAX + 1, 1), (1, COLUMNS_MAX + 1), (60_000, 60_000)])
def test_a_bomb_is_too_large_before_it_goes_off(size):
    with pytest.raises(TooLarge):
        square(header_of(*size), HERE)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(data):
    content = bytearray(png(noise(7, 16, 16)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        values = square(bytes(content), HERE)
    except RecordError:
        return
    assert np.isfinite(values).all()
