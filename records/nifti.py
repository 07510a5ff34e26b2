"""Read one NIfTI-1 volume with suspicion: header first, then no more bytes than it may promise.

A header is 348 bytes that anyone can write. Every number in it is checked before memory is asked
for, a compressed file is unpacked only as far as the header needs, and header extensions and the
free-text fields, where names of patients end up, are never looked at. The result is turned to the
orientation right-anterior-superior, so axes mean the same at every hospital.

What holds, each line a test in tests/records/test_nifti.py:

1. What nibabel writes is read back value for value, whatever its orientation, type and scaling.
2. A bomb, a cut file, a header that lies or a file of another kind is refused by a named error.
3. However much a compressed file unpacks to, at most what the header promises is unpacked.

References:
    Cox et al., A (sort of) new image data format standard: NIfTI-1, 2004; field names are those of
    ``nifti1.h``.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from protocol.errors import RecordError
from records.files import FileTruncated, NotAnImage, TooLarge, quiet, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER_BYTES: Final = 348
MAGIC: Final = b"n+1\0"
"""One file with header and voxels; the two-file form names its partner nowhere we would trust."""
FIRST_VOXEL_MIN: Final = 352
FIRST_VOXEL_MAX: Final = 2**20
"""Bytes before the voxels: header extensions are skipped, and more than this is no extension."""
SIDE_MAX: Final = 1024
"""Voxels along one axis."""
VOXELS_MAX: Final = 2**26
"""Voxels in one volume, 512 by 512 by 256: a whole-body CT is cut up before it is trained on."""
TYPES: Final = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"})
"""What a voxel may be. Complex, colour and extended types are no shades of grey."""
GZIP_MAGIC: Final = b"\x1f\x8b"
AFFINE_MAX: Final = 1e6
"""Millimetres: a voxel that lies a kilometre off is a lie."""


class NotNifti(RecordError):
    """The bytes are no NIfTI-1 volume, or their header contradicts itself."""

    code = "not-nifti"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path.name} is no NIfTI-1 volume we can use: {reason}; export it again as .nii or "
            ".nii.gz"
        )


@dataclass(frozen=True)
class Volume:
    """One volume in the orientation right-anterior-superior."""

    voxels: NDArray[np.float32]
    """``(right, anterior, superior)``, in the units that slope and intercept give."""
    affine: NDArray[np.float64]
    """``(4, 4)``, from voxel indices to millimetres."""


def read_volume(path: Path) -> Volume:
    """Read the volume at ``path``.

    Raises:
        FileMissing, FileUnreadable: See ``records.files.read_bytes``.
        NotNifti, FileTruncated, NotAnImage, TooLarge: As the names say.
    """
    return decode_volume(read_bytes(path), path)


def decode_volume(content: bytes, path: Path) -> Volume:
    """Decode a NIfTI-1 file's bytes; ``path`` only names them in errors. See ``read_volume``."""
    if not content:
        raise FileTruncated(path, "it is empty")
    packed = content.startswith(GZIP_MAGIC)
    file = gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)
    with quiet():
        header = _header(_exactly(file, HEADER_BYTES, path), path)
        shape, stored = _shape(header, path), _type(header, path)
        first, affine = _first_voxel(header, path), _affine(header, path)
        slope, intercept = _scaling(header, path)
        _exactly(file, first - HEADER_BYTES, path)
        voxels = _exactly(file, math.prod(shape) * stored.itemsize, path)
        raw = np.frombuffer(voxels, stored).reshape(shape, order="F").astype(np.float64)
        values: NDArray[np.float32] = (raw * slope + intercept).astype(np.float32)
        if not np.isfinite(values).all():
            raise NotAnImage(path, "a voxel is not a number")
        return _reoriented(values, affine, path)


def _exactly(file: gzip.GzipFile | io.BytesIO, count: int, path: Path) -> bytes:
    """Return the next ``count`` bytes, or say why there are not as many."""
    try:
        found = file.read(count)
    except EOFError as error:
        raise FileTruncated(path, "its compressed content ends early") from error
    except (OSError, zlib.error) as error:
        raise NotNifti(path, "its compressed content is damaged") from error
    if len(found) < count:
        raise FileTruncated(path, "it ends before its last voxel")
    return found


def _header(block: bytes, path: Path) -> nib.Nifti1Header:
    if HEADER_BYTES not in struct.unpack("<i", block[:4]) + struct.unpack(">i", block[:4]):
        raise NotNifti(path, "it does not begin with a header of 348 bytes")
    if block[344:348] != MAGIC:
        raise NotNifti(path, "the mark n+1 is not at byte 344")
    return nib.Nifti1Header(block, check=False)


def _shape(header: nib.Nifti1Header, path: Path) -> tuple[int, int, int]:
    dims = [int(side) for side in header["dim"]]
    if not 3 <= dims[0] <= 7 or any(side != 1 for side in dims[4 : dims[0] + 1]):
        raise NotAnImage(path, "it is not one volume of three dimensions")
    first, second, third = dims[1:4]
    for side in (first, second, third):
        if side < 1:
            raise NotNifti(path, "a side has no voxel")
        if side > SIDE_MAX:
            raise TooLarge(path, "voxels along one side", side, SIDE_MAX)
    if first * second * third > VOXELS_MAX:
        raise TooLarge(path, "voxels", first * second * third, VOXELS_MAX)
    return first, second, third


def _type(header: nib.Nifti1Header, path: Path) -> np.dtype[np.generic]:
    try:
        stored: np.dtype[np.generic] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise NotNifti(path, "its voxels have a type that the standard does not know") from error
    if stored.str[1:] not in TYPES:
        raise NotAnImage(path, f"its voxels are {stored} and not shades of grey")
    if int(header["bitpix"]) != 8 * stored.itemsize:
        raise NotNifti(path, f"it says {int(header['bitpix'])} bits for voxels of type {stored}")
    return stored


def _first_voxel(header: nib.Nifti1Header, path: Path) -> int:
    offset = float(header["vox_offset"])
    if not (FIRST_VOXEL_MIN <= offset <= FIRST_VOXEL_MAX and offset == int(offset)):
        raise NotNifti(path, "its voxels begin where no voxels can be")
    return int(offset)


def _scaling(header: nib.Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or (math.isnan(slope) and math.isnan(intercept)):
        return 1.0, 0.0  # nifti1.h: a slope of zero means that nothing is scaled
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise NotNifti(path, "its slope or intercept is not a number")
    return slope, intercept


def _affine(header: nib.Nifti1Header, path: Path) -> NDArray[np.float64]:
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, ArithmeticError) as error:
        raise NotNifti(path, "its orientation contradicts itself") from error
    usable = bool(np.isfinite(affine).all()) and float(np.abs(affine).max()) <= AFFINE_MAX
    if not usable or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise NotNifti(path, "its orientation is no orientation in space")
    return affine


def _reoriented(values: NDArray[np.float32], affine: NDArray[np.float64], path: Path) -> Volume:
    turns = nib.orientations.io_orientation(affine)
    if not np.isfinite(turns).all():
        raise NotNifti(path, "its orientation drops an axis")
    turned = nib.orientations.apply_orientation(values, turns)
    back = nib.orientations.inv_ornt_aff(turns, values.shape)
    return Volume(np.ascontiguousarray(turned, dtype=np.float32), affine @ back)
