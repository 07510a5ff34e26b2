"""Whatever a file holds, reading it gives an instance or a named refusal, and says nothing else."""

import contextlib
import csv
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

from protocol.errors import RecordError
from records.dicom import (
    COLUMNS_MAX,
    FRAMES_MAX,
    NotDicom,
    PixelsUndecodable,
    decode_instance,
    read_instance,
)
from records.files import FileMissing, FileTruncated, NotAnImage, TooLarge

HERE = Path("a.dcm")


@given(pixels=arrays(np.uint16, (5, 7)), slope=st.integers(-5, 5), intercept=st.integers(-9, 9))
@settings(max_examples=25)
def test_what_was_written_is_read_back_rescaled(dicom, pixels, slope, intercept):
    content = dicom(pixels, RescaleSlope=slope or 1, RescaleIntercept=intercept)
    instance = decode_instance(content, HERE)
    assert instance.pixels.dtype == np.float32
    np.testing.assert_array_equal(instance.pixels, pixels * float(slope or 1) + intercept)
    assert (instance.rows, instance.columns, instance.frames) == (5, 7, 1)
    assert instance.patient_id == "role-owner"
    assert instance.sop_instance_uid == "2.25.1"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(dicom, data):
    content = bytearray(dicom(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RecordError):
        decode_instance(bytes(content), HERE)


@given(rest=st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_are_refused(rest):
    with pytest.raises(RecordError):
        decode_instance(rest, HERE)
    with pytest.raises(RecordError):
        decode_instance(b"\0" * 128 + b"DICM" + rest, HERE)


def test_a_file_cut_anywhere_is_refused(dicom):
    content = dicom(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for end in range(len(content)):
        with pytest.raises(RecordError):
            decode_instance(content[:end], HERE)


def test_a_file_cut_inside_its_pixels_is_truncated(dicom):
    content = dicom(np.zeros((8, 8), np.uint8))
    with pytest.raises(FileTruncated, match="cut short"):
        decode_instance(content[:-10], HERE)


def test_an_empty_file_is_truncated():
    with pytest.raises(FileTruncated):
        decode_instance(b"", HERE)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileMissing):
        read_instance(tmp_path / "a.dcm")


def test_a_text_is_not_dicom(tmp_path):
    (tmp_path / "a.dcm").write_text("a letter to the referring physician " * 10)
    with pytest.raises(NotDicom):
        read_instance(tmp_path / "a.dcm")


def test_a_file_without_a_transfer_syntax_is_not_dicom():
    with pytest.raises(NotDicom):
        decode_instance(b"\0" * 128 + b"DICM" + b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192" * 3, HERE)


def test_a_document_without_rows_is_not_an_image(dicom):
    content = dicom(np.zeros((8, 8), np.uint8), Rows=None, Columns=None)
    with pytest.raises(NotAnImage):
        decode_instance(content, HERE)


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": 0},
        {"SamplesPerPixel": 2},
        {"BitsStored": 9},
        {"PhotometricInterpretation": "HSV"},
        {"NumberOfFrames": "-1"},
    ],
)
def test_a_header_that_contradicts_itself_is_not_an_image(dicom, change):
    with pytest.raises(NotAnImage):
        decode_instance(dicom(np.zeros((8, 8), np.uint8), **change), HERE)


def test_a_rescale_that_is_not_finite_is_not_an_image(dicom):
    content = dicom(np.ones((8, 8), np.uint8), RescaleSlope="1e300", RescaleIntercept="0")
    with pytest.raises(NotAnImage):
        decode_instance(content, HERE)


@pytest.mark.parametrize(
    "change", [{"Columns": COLUMNS_MAX + 1}, {"NumberOfFrames": str(FRAMES_MAX + 1)}]
)
def test_a_promise_above_the_limits_is_too_large_before_any_pixel_is_decoded(dicom, change):
    with pytest.raises(TooLarge):
        decode_instance(dicom(np.zeros((8, 8), np.uint8), **change), HERE)


def test_deflated_files_are_refused_before_they_inflate(dicom):
    content = dicom(np.zeros((8, 8), np.uint8), TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    with pytest.raises(PixelsUndecodable, match=r"1\.2\.840\.10008\.1\.2\.1\.99"):
        decode_instance(content, HERE)


def test_a_compression_without_a_decoder_is_undecodable(dicom):
    plain = dicom(np.zeros((8, 8), np.uint8))
    other = str(JPEGLSLossless).encode()  # 1.2.840.10008.1.2.4.80
    size = len(other).to_bytes(2, "little")
    renamed = plain.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI" + size + other)
    group = plain.find(b"\x02\x00\x00\x00UL\x04\x00") + 8
    length = int.from_bytes(plain[group : group + 4], "little") + len(other) - 20
    renamed = renamed[:group] + length.to_bytes(4, "little") + renamed[group + 4 :]
    with pytest.raises(PixelsUndecodable):
        decode_instance(renamed, HERE)


def test_monochrome1_is_turned_over_within_the_stored_range(dicom):
    pixels = np.array([[0, 1], [254, 255]], np.uint8)
    content = dicom(pixels, PhotometricInterpretation="MONOCHROME1")
    assert decode_instance(content, HERE).pixels.tolist() == [[255, 254], [1, 0]]


def test_bits_above_those_stored_are_ignored(dicom):
    pixels = np.array([[0xF001, 0x0FFF]], np.uint16)
    content = dicom(pixels, BitsStored=12, HighBit=11)
    assert decode_instance(content, HERE).pixels.tolist() == [[1, 4095]]


def test_signed_pixels_of_twelve_bits_keep_their_sign(dicom):
    pixels = np.array([[0x0FFF, 0x0800]], np.int16)
    content = dicom(pixels, BitsStored=12, HighBit=11)
    assert decode_instance(content, HERE).pixels.tolist() == [[-1, -2048]]


def test_colour_becomes_its_luma(dicom):
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 100
    content = dicom(
        red,
        Rows=2,
        Columns=2,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    np.testing.assert_allclose(decode_instance(content, HERE).pixels, 29.9, rtol=1e-5)


def test_one_frame_of_several_is_read_and_one_too_many_refused(dicom):
    frames = np.stack([np.full((3, 4), value, np.uint8) for value in (5, 6)])
    content = dicom(frames, NumberOfFrames="2")
    assert decode_instance(content, HERE, frame=1).pixels.max() == 6
    with pytest.raises(NotAnImage):
        decode_instance(content, HERE, frame=2)


def test_nothing_of_the_header_is_warned_or_logged(dicom, caplog):
    content = dicom(np.zeros((8, 8), np.uint8), PatientID="secret-owner")
    broken = content.replace(b"UI\x06\x002.25.1", b"UI\x06\x002.0x.1")
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        decode_instance(broken, HERE)
        with pytest.raises(RecordError) as refusal:
            decode_instance(content[:-60], HERE)
    assert not caplog.records
    assert "secret-owner" not in str(refusal.value)
    assert not logging.getLogger("pydicom").disabled


def test_real_files_of_many_makers_are_read_or_refused(real):
    folder = real("dicom")
    with (folder / "CATALOG.csv").open(newline="") as file:
        catalog = list(csv.DictReader(file))
    read = 0
    for row in catalog:
        try:
            instance = read_instance(folder / row["path"])
        except RecordError:
            continue
        read += 1
        assert instance.pixels.shape == (int(row["rows"]), int(row["cols"]))
        assert np.isfinite(instance.pixels).all()
    # Every tool together decodes 185 of 262; 16 of those need decoders we do not install.
    assert read >= 0.6 * len(catalog)


def test_threads_that_read_at_once_leave_warnings_and_logs_as_they_were(dicom):
    content = dicom(np.zeros((8, 8), np.uint8))
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: decode_instance(content, HERE), range(200)))
    assert list(warnings.filters) == filters
    assert not logging.getLogger("pydicom").disabled
