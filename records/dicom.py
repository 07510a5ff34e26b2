"""Read one DICOM instance from a file nobody vouches for.

Only the elements a picture needs are read, sizes are checked before pixels are decoded, and every
way to fail is a named error: no exception of the DICOM library reaches the caller, and nothing it
wants to log or warn, which may quote header values, is written anywhere.

What holds, each line a property test in tests/records/test_dicom.py:

1. Whatever the bytes, ``decode_instance`` returns an instance or raises a ``RecordError``.
2. A file cut anywhere before its end of pixels is refused.
3. What was written is read back: ``slope * stored + intercept``, MONOCHROME1 inverted.

References:
    DICOM PS3.10 section 7.1 (file meta information), PS3.3 C.7.6.3 (image pixel module) and
    C.11.1 (modality LUT: rescale slope and intercept), PS3.5 section 8.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from protocol.errors import RecordError
from records.files import BYTES_MAX, FileTruncated, NotAnImage, TooLarge, quiet, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ROWS_MAX: Final = 8192
COLUMNS_MAX: Final = 8192
"""Rows and columns of one frame; detectors for mammography have up to 5928."""
FRAMES_MAX: Final = 2048
"""Frames in one file: a minute of ultrasound at 30 frames per second."""

MAGIC_OFFSET: Final = 128
MAGIC: Final = b"DICM"
DEFLATED_SYNTAXES: Final = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    }
)
"""Refused: a few kilobytes may inflate to any size before a single element can be checked."""

LUMA: Final = (0.299, 0.587, 0.114)
"""Grey of a colour: luma of ITU-R BT.601, section 2.5.1."""

_TAGS: Final = [
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "RescaleIntercept",
    "RescaleSlope",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]


class NotDicom(RecordError):
    """The bytes are no DICOM file, or so damaged that it cannot be told what they describe."""

    code = "not-dicom"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path.name} is not a readable DICOM file: {reason}; export it again as PS3.10"
        )


class PixelsUndecodable(RecordError):
    """The file is DICOM, but its pixels are damaged or compressed in a way we cannot undo."""

    code = "pixels-undecodable"

    def __init__(self, path: Path, syntax: str) -> None:
        self.path = path
        self.syntax = syntax
        super().__init__(
            f"the pixels of {path.name} cannot be decoded from transfer syntax {syntax}; convert "
            "the file to Explicit VR Little Endian"
        )


@dataclass(frozen=True)
class Instance:
    """One frame of one DICOM instance, grey, in the units its rescale attributes give."""

    pixels: NDArray[np.float32]
    """``(rows, columns)``; larger is brighter."""
    patient_id: str
    sop_instance_uid: str
    rows: int
    columns: int
    frames: int
    """How many frames the file has; ``pixels`` is the one that was asked for."""


def read_instance(path: Path, *, frame: int = 0) -> Instance:
    """Read frame ``frame`` of the DICOM file at ``path``.

    Raises:
        FileMissing, FileUnreadable: See ``records.files.read_bytes``.
        NotDicom, FileTruncated, NotAnImage, TooLarge, PixelsUndecodable: As the names say.
    """
    return decode_instance(read_bytes(path, limit=BYTES_MAX), path, frame=frame)


def looks_like_dicom(content: bytes) -> bool:
    """Return whether the bytes begin as PS3.10 section 7.1 demands."""
    return content[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] == MAGIC


def decode_instance(content: bytes, path: Path, *, frame: int = 0) -> Instance:
    """Decode a DICOM file's bytes; ``path`` only names them in errors. See ``read_instance``."""
    if not content:
        raise FileTruncated(path, "it is empty")
    if not looks_like_dicom(content):
        raise NotDicom(path, "the mark DICM is not at byte 128")
    with quiet():
        syntax = _transfer_syntax(content, path)
        if syntax in DEFLATED_SYNTAXES:
            raise PixelsUndecodable(path, syntax)
        try:
            dataset = pydicom.dcmread(BytesIO(content), specific_tags=_TAGS)
            shape = _shape(dataset, path)
            _check_length(dataset, shape, syntax, path)
        except RecordError:
            raise
        except EOFError as error:
            raise FileTruncated(path, "it ends inside an element") from error
        except Exception as error:  # whatever the library meets, the file is bad
            raise NotDicom(path, f"its header breaks off with {type(error).__name__}") from error
        if frame >= shape.frames:
            raise NotAnImage(path, f"it has {shape.frames} frames and no frame {frame}")
        try:
            pixels = _grey(dataset, shape, frame, path)
        except RecordError:
            raise
        except Exception as error:  # decoders raise whatever they like
            raise PixelsUndecodable(path, syntax) from error
        return Instance(
            pixels=pixels,
            patient_id=_text(dataset, "PatientID"),
            sop_instance_uid=_text(dataset, "SOPInstanceUID"),
            rows=shape.rows,
            columns=shape.columns,
            frames=shape.frames,
        )


@dataclass(frozen=True)
class _Shape:
    """What the header promises about the pixels."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str


def _transfer_syntax(content: bytes, path: Path) -> str:
    """Walk group 2, which is always Explicit VR Little Endian, for (0002,0010)."""
    position = MAGIC_OFFSET + len(MAGIC)
    while content[position : position + 2] == b"\x02\x00":
        header = content[position : position + 12]
        if len(header) < 12:
            break
        element = int.from_bytes(header[2:4], "little")
        # PS3.5 section 7.1.2: these have two reserved bytes and a length of four.
        long = header[4:6] in {b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF", b"UC", b"UR"}
        length = struct.unpack_from("<I", header, 8)[0] if long else _short_length(header)
        start = position + (12 if long else 8)
        if start + length > len(content):
            raise FileTruncated(path, "it ends inside its file meta information")
        if element == 0x0010:
            return content[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = start + length
    if position >= len(content) - 12:
        raise FileTruncated(path, "it ends inside its file meta information")
    raise NotDicom(path, "it names no transfer syntax")


def _short_length(header: bytes) -> int:
    return int.from_bytes(header[6:8], "little")


def _shape(dataset: Any, path: Path) -> _Shape:
    """Read and check what the header promises, before any pixel is touched."""
    if "Rows" not in dataset or "Columns" not in dataset:
        if "SOPClassUID" not in dataset:
            raise FileTruncated(path, "it ends before it says what it is")
        raise NotAnImage(path, "it has no rows and columns")
    shape = _Shape(
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        frames=int(dataset.get("NumberOfFrames") or 1),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        bits_allocated=int(dataset.get("BitsAllocated") or 0),
        bits_stored=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
        signed=bool(dataset.get("PixelRepresentation") or 0),
        photometric=str(dataset.get("PhotometricInterpretation") or ""),
    )
    for what, found, limit in (
        ("rows", shape.rows, ROWS_MAX),
        ("columns", shape.columns, COLUMNS_MAX),
        ("frames", shape.frames, FRAMES_MAX),
    ):
        if found > limit:
            raise TooLarge(path, what, found, limit)
        if found < 1:
            raise NotAnImage(path, f"it has {found} {what}")
    if shape.samples not in {1, 3}:
        raise NotAnImage(path, f"it has {shape.samples} samples per pixel")
    if not 1 <= shape.bits_stored <= shape.bits_allocated <= 32:
        raise NotAnImage(path, f"it stores {shape.bits_stored} of {shape.bits_allocated} bits")
    return shape


def _check_length(dataset: Any, shape: _Shape, syntax: str, path: Path) -> None:
    """Refuse pixels that are absent or, if they are not compressed, fewer than promised."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise NotAnImage(path, "its pixels are measured values and not shades of grey")
    if "PixelData" not in dataset:
        raise FileTruncated(path, "it ends before its pixels")
    if pydicom.uid.UID(syntax).is_encapsulated:
        return
    samples = 2 if shape.photometric == "YBR_FULL_422" else shape.samples
    bits = shape.rows * shape.columns * shape.frames * samples * shape.bits_allocated
    if len(dataset.PixelData) < math.ceil(bits / 8):
        raise FileTruncated(path, "it ends inside its pixels")


def _grey(dataset: Any, shape: _Shape, frame: int, path: Path) -> NDArray[np.float32]:
    """Decode one frame to grey in the units the header gives, larger being brighter."""
    stored = pixel_array(dataset, index=frame)
    if shape.photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)[..., :3]
    if stored.ndim == 3:
        return (stored.astype(np.float32) @ np.array(LUMA, dtype=np.float32)).astype(np.float32)
    if shape.photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise NotAnImage(path, "its photometric interpretation is not one we know")
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise NotAnImage(path, "its rescale slope or intercept is not a number")
    values = _bits(stored, shape).astype(np.float64)
    if shape.photometric == "MONOCHROME1":
        # The smallest stored value is white (PS3.3 C.7.6.3.1.2): mirror the range it could use.
        values = (-1 if shape.signed else 2**shape.bits_stored - 1) - values
    pixels = (values * slope + intercept).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise NotAnImage(path, "its rescaled pixels pass the range of a float")
    return pixels


def _bits(stored: NDArray[Any], shape: _Shape) -> NDArray[np.int64]:
    """Keep the bits that are stored; the ones above may hold an old overlay (PS3.5 8.1.1)."""
    values = stored.astype(np.int64) & ((1 << shape.bits_stored) - 1)
    if shape.signed:
        sign = 1 << (shape.bits_stored - 1)
        values = (values ^ sign) - sign
    return values


def _text(dataset: Any, name: str) -> str:
    """Return an identifying element as text, empty where it is absent or cannot be read."""
    try:
        return str(dataset.get(name) or "")
    except Exception:  # noqa: BLE001 - a damaged identifier is no identifier
        return ""
