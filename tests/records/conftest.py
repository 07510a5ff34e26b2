"""What the tests of records share: real data where it is present, and small files made here."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real():
    """Return the path of a folder of real data, or skip."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("BITHIVE_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (base / name).is_dir():
            pytest.skip(f"no real data at {base / name}; set BITHIVE_TEST_DATA to have it tested")
        return base / name

    return find


def dicom_bytes(pixels: np.ndarray, **elements: Any) -> bytes:
    """Encode ``pixels`` as a small DICOM file; ``elements`` change or, if None, remove."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    meta.TransferSyntaxUID = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    bits = 8 * pixels.dtype.itemsize
    described: dict[str, Any] = {
        "SOPClassUID": UltrasoundImageStorage,
        "SOPInstanceUID": "2.25.1",
        "PatientID": "role-owner",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in {**described, **elements}.items():
        if value is not None:
            setattr(image, keyword, value)
    image.add_new("PixelData", "OB" if bits == 8 else "OW", pixels.tobytes())
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def png_bytes(seed: int, shape: tuple[int, int] = (20, 30)) -> bytes:
    """Encode a small random grey picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_study(folder: Path, header: str, rows: list[str]) -> Path:
    """Write a manifest and, for every row, a picture of its own where the row says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, row in enumerate(rows):
        path = folder / row.split(",", 1)[0]
        if ".." not in path.parts and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_bytes(number))
    return folder


@pytest.fixture
def make_png():
    return png_bytes


@pytest.fixture
def make_study():
    return write_study


@pytest.fixture
def plain_study(tmp_path):
    """A folder of 40 pictures, half malignant, that names neither patients nor sites."""
    rows = [f"{number}.png,{('benign', 'malignant')[number % 2]}" for number in range(40)]
    return write_study(tmp_path / "study", "file,label", rows)


@pytest.fixture(scope="session")
def dicom():
    """Return ``dicom_bytes``, at a scope Hypothesis lets its examples share."""
    return dicom_bytes
