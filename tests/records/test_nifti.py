"""A volume that nibabel writes is read back; a file that lies is refused before it can do harm."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RecordError
from records.files import FileTruncated, NotAnImage, TooLarge
from records.nifti import HEADER_BYTES, NotNifti, decode_volume

HERE = Path("case.nii.gz")
SHAPE = (3, 4, 5)


def nifti_bytes(voxels=None, affine=None, **fields):
    voxels = np.arange(60, dtype=np.float32).reshape(SHAPE) if voxels is None else voxels
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:HEADER_BYTES]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:HEADER_BYTES] = header.binaryblock
    return bytes(content)


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    axes=st.permutations(range(3)),
    packed=st.booleans(),
)
def test_what_nibabel_writes_is_read_back_in_one_orientation(dtype, flips, axes, packed):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(flips)[:, axes]
    affine[:3, 3] = (5.0, -3.0, 2.0)
    image = nib.Nifti1Image(np.arange(60).reshape(SHAPE).astype(dtype), affine)
    content = gzip.compress(image.to_bytes()) if packed else image.to_bytes()
    found = decode_volume(content, HERE)
    expected = nib.as_closest_canonical(image)
    assert np.array_equal(found.voxels, np.asarray(expected.dataobj, dtype=np.float32))
    assert np.allclose(found.affine, expected.affine)
    assert nib.aff2axcodes(found.affine) == ("R", "A", "S")


def test_a_scaled_volume_is_read_in_its_units():
    found = decode_volume(nifti_bytes(scl_slope=2.0, scl_inter=-1.0), HERE)
    assert found.voxels.max() == 2.0 * 59 - 1.0


def test_bytes_of_the_other_order_are_read_alike():
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), np.eye(4))
    swapped = nib.Nifti1Image(
        np.asarray(image.dataobj), image.affine, image.header.as_byteswapped(">")
    )
    found = decode_volume(swapped.to_bytes(), HERE).voxels
    assert np.array_equal(found, decode_volume(image.to_bytes(), HERE).voxels)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"magic": b"ni1"}, NotNifti),
        ({"sizeof_hdr": 540}, NotNifti),
        ({"dim": [3, 4096, 4, 5, 1, 1, 1, 1]}, TooLarge),
        ({"dim": [3, 1024, 1024, 1024, 1, 1, 1, 1]}, TooLarge),
        ({"dim": [3, -3, 4, 5, 1, 1, 1, 1]}, NotNifti),
        ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, NotNifti),
        ({"dim": [4, 3, 4, 5, 9, 1, 1, 1]}, NotAnImage),
        ({"dim": [2, 3, 4, 1, 1, 1, 1, 1]}, NotAnImage),
        ({"dim": [99, 3, 4, 5, 1, 1, 1, 1]}, NotAnImage),
        ({"dim": [3, 3, 4, 500, 1, 1, 1, 1]}, FileTruncated),
        ({"datatype": 32, "bitpix": 64}, NotAnImage),  # complex
        ({"datatype": 128, "bitpix": 24}, NotAnImage),  # colour
        ({"datatype": 4242}, NotNifti),
        ({"bitpix": 8}, NotNifti),
        ({"vox_offset": 0.0}, NotNifti),
        ({"vox_offset": -352.0}, NotNifti),
        ({"vox_offset": 1e30}, NotNifti),
        ({"vox_offset": float("nan")}, NotNifti),
        ({"scl_slope": float("inf")}, NotNifti),
        ({"scl_slope": 3e38, "scl_inter": 3e38}, NotAnImage),
        ({"sform_code": 1, "srow_x": [0, 0, 0, 0]}, NotNifti),
        ({"sform_code": 1, "srow_x": [float("nan"), 0, 0, 0]}, NotNifti),
        ({"sform_code": 1, "srow_x": [1e30, 0, 0, 0]}, NotNifti),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 7.0}, NotNifti),
    ],
)
def test_a_header_that_lies_is_refused(fields, refusal):
    with pytest.raises(refusal):
        decode_volume(nifti_bytes(**fields), HERE)


@pytest.mark.parametrize("cut", [0, 3, 100, HEADER_BYTES, 351, 400])
def test_a_file_that_is_cut_short_is_refused(cut):
    with pytest.raises(FileTruncated):
        decode_volume(nifti_bytes()[:cut], HERE)


def test_a_compressed_file_that_is_cut_short_or_damaged_is_refused():
    content = gzip.compress(nifti_bytes())
    with pytest.raises(FileTruncated):
        decode_volume(content[: len(content) // 2], HERE)
    with pytest.raises(RecordError):
        decode_volume(content[:40] + b"\xff\xff\xff\xff" + content[44:], HERE)


def test_a_bomb_is_unpacked_only_as_far_as_its_header_promises():
    bomb = gzip.compress(nifti_bytes() + bytes(200 * 2**20), compresslevel=1)
    assert decode_volume(bomb, HERE).voxels.shape == SHAPE


def test_a_voxel_that_is_not_a_number_is_refused():
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[1, 1, 1] = np.nan
    with pytest.raises(NotAnImage):
        decode_volume(nifti_bytes(voxels), HERE)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 351), st.binary(min_size=1, max_size=8))
def test_whatever_a_header_says_the_answer_is_a_volume_or_a_named_error(at, junk):
    content = bytearray(nifti_bytes())
    content[at : at + len(junk)] = junk
    try:
        found = decode_volume(bytes(content), HERE)
    except RecordError:
        return
    assert np.isfinite(found.voxels).all()


def test_a_picture_is_no_volume():
    with pytest.raises(NotNifti):
        decode_volume(b"\x89PNG" + struct.pack("<350x"), HERE)
