"""Turn one image file, DICOM or an ordinary format, into the square a network sees.

Every picture is treated alike and alone: grey, scaled to fit 64 by 64 with its proportions kept
(taller-than-wide is a sign of malignancy that stretching would hide), then shifted and scaled to
zero mean and unit variance over its own pixels. No number taken from other patients enters, so
nothing about them can leak through the preparation. The margin is 0, the picture's own mean.

What holds, each line a property test in tests/records/test_image.py:

1. A square has the shape ``(1, 64, 64)``, is finite, and ignores brightness and contrast.
2. A bomb, a cut file or a file of another kind is refused before it can do harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from records.dataset import Arrays, ImageFile, arrays_of
from records.dicom import COLUMNS_MAX, ROWS_MAX, decode_instance, looks_like_dicom
from records.files import FileTruncated, NotAnImage, TooLarge, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from records.dataset import Patient

SIDE: Final = 64
"""Rows and columns of what a network sees."""
INPUT_SHAPE: Final = (1, SIDE, SIDE)
FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF")
"""What Pillow may try. Its other formats run more parsers over bytes nobody vouches for."""
CONTRAST_MIN: Final = 1e-6
"""Below this standard deviation a picture is one flat colour, and stays flat."""


@dataclass(frozen=True)
class ImageLoader:
    """The loader of records that are image files."""

    def load(self, patients: Sequence[Patient]) -> Arrays:
        """Return ``x`` of shape ``(records, 1, 64, 64)``; opens the files of ``patients`` only.

        Raises:
            RecordChanged: A file is not the one that was listed.
            RecordError: A file is missing, cut short, too large or no image.
        """
        return arrays_of(patients, _read, INPUT_SHAPE)


def square(content: bytes, path: Path) -> NDArray[np.float32]:
    """Decode an image file's bytes to ``(1, 64, 64)``; ``path`` only names them in errors."""
    if looks_like_dicom(content):
        pixels = decode_instance(content, path).pixels
    else:
        pixels = _decode_picture(content, path)
    return _fit(pixels)[np.newaxis]


def _read(record: ImageFile) -> NDArray[np.float32]:
    return square(record.read(), record.path)


def _decode_picture(content: bytes, path: Path) -> NDArray[np.float32]:
    """Decode an ordinary picture to grey ``(rows, columns)``, its promised size checked first."""
    if not content:
        raise FileTruncated(path, "it is empty")
    try:
        with quiet():
            picture = Image.open(BytesIO(content), formats=FORMATS)
            columns, rows = picture.size
            if columns > COLUMNS_MAX:
                raise TooLarge(path, "columns", columns, COLUMNS_MAX)
            if rows > ROWS_MAX:
                raise TooLarge(path, "rows", rows, ROWS_MAX)
            # Sixteen-bit and float greys keep their range; converting them to "L" would clip it.
            grey = picture if picture.mode.startswith(("I", "F")) else picture.convert("L")
            pixels = np.asarray(grey, dtype=np.float32)
    except UnidentifiedImageError as error:
        raise NotAnImage(path, f"it is not one of {', '.join(FORMATS)} or DICOM") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit lies above ours but is met first, while the file is being opened.
        found = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise TooLarge(path, "pixels or more", found, COLUMNS_MAX * ROWS_MAX) from error
    except (OSError, SyntaxError, EOFError) as error:
        raise FileTruncated(path, "its pixels end early or are damaged") from error
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise NotAnImage(path, "its header contradicts itself") from error
    if not np.isfinite(pixels).all():
        raise NotAnImage(path, "a pixel is not a number")
    return pixels


def _fit(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale ``(rows, columns)`` into a 64 by 64 frame and standardise the part it fills."""
    rows, columns = pixels.shape
    scale = SIDE / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    centred = pixels - pixels.mean(dtype=np.float64)  # Pillow's floats are single: keep them small
    picture = Image.fromarray(centred.astype(np.float32))
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(picture, dtype=np.float64)
    spread = values.std()
    frame = np.zeros((SIDE, SIDE), dtype=np.float32)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    if spread > CONTRAST_MIN:
        standard = (values - values.mean()) / spread
        frame[top : top + height, left : left + width] = standard
    return frame
