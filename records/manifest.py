"""Read ``manifest.csv``, the table that says which images a folder holds and what they show.

One row per image, at least the columns ``file`` and ``label``; ``patient``, ``site`` and ``split``
(``train`` or ``test``) are optional, others are ignored::

    file,label,patient,site,split
    a1.png,benign,p01,north,train

A file lies at ``FILE``, ``images/FILE``, ``LABEL/FILE`` or ``images/LABEL/FILE``. A manifest may
come from anywhere, so it is held to limits, and a row that points out of the folder is refused.
Errors name lines, never patients.

What holds, each line a property test in tests/records/test_manifest.py:

1. No file outside the folder is named by a row that is returned, whatever the manifest says.
2. Every row that is returned names a file that is there, and no two name the same.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from protocol.errors import RecordError
from protocol.ids import SLUG, SiteId
from records.files import FileMissing, read_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST: Final = "manifest.csv"
BYTES_MAX: Final = 64 * 2**20
"""Bytes in one manifest."""
ROWS_MAX: Final = 200_000
"""Images in one folder: more than any public ultrasound set, and a minute's reading."""
NAMED_MAX: Final = 3
"""How many examples an error message lists."""


class ManifestMissing(RecordError):
    """The folder has no manifest, so nobody says what the images show."""

    code = "manifest-missing"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} holds no {MANIFEST}; add one with at least the columns file and label"
        )


class ManifestUnreadable(RecordError):
    """The manifest is not a table in UTF-8 with a header."""

    code = "manifest-unreadable"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{MANIFEST} cannot be read: {reason}; save it as comma-separated UTF-8 with a header"
        )


class ManifestColumnsMissing(RecordError):
    """A column the manifest must have is absent."""

    code = "manifest-columns-missing"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        super().__init__(f"{MANIFEST} lacks the column {' and '.join(columns)}; add it")


class ManifestRowInvalid(RecordError):
    """A row of the manifest leaves out or misspells something."""

    code = "manifest-row-invalid"

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"line {line} of {MANIFEST} {reason}; correct or remove that line")


class ManifestPatientAbsent(RecordError):
    """There is a column for patients, and rows that leave it empty."""

    code = "manifest-patient-absent"

    def __init__(self, lines: Sequence[int]) -> None:
        self.lines = tuple(lines)
        shown = ", ".join(str(line) for line in lines[:NAMED_MAX])
        super().__init__(
            f"{len(lines)} rows of {MANIFEST} name no patient (line {shown}); fill the column, "
            "because without it nobody can ask for consent"
        )


class ManifestNamesAbsentFile(RecordError):
    """The manifest names files that are not in the folder."""

    code = "manifest-names-absent-file"

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        shown = ", ".join(files[:NAMED_MAX])
        super().__init__(
            f"{MANIFEST} names {len(files)} files that are not there ({shown}); restore them or "
            "remove their rows"
        )


class ManifestRepeatsFile(RecordError):
    """Two rows name one file."""

    code = "manifest-repeats-file"

    def __init__(self, line: int, first: int) -> None:
        self.line = line
        self.first = first
        super().__init__(
            f"line {line} of {MANIFEST} names the file of line {first} again; keep one of them"
        )


class ManifestLeavesFolder(RecordError):
    """A row names a path outside the folder."""

    code = "manifest-leaves-folder"

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(
            f"line {line} of {MANIFEST} names a file outside the folder; only files inside it, "
            "by relative paths, are read"
        )


@dataclass(frozen=True)
class Row:
    """One image as the manifest describes it, found in the folder but not yet opened."""

    line: int
    path: Path
    label: str
    patient: str | None
    site: SiteId | None
    split: str | None


def read_manifest(folder: Path) -> list[Row]:
    """Return the rows of ``folder/manifest.csv``, each file found; no image is opened."""
    try:
        content = read_bytes(folder / MANIFEST, limit=BYTES_MAX)
    except FileMissing as error:
        raise ManifestMissing(folder) from error
    table = _table(content)
    root = folder.resolve()
    rows: list[Row] = []
    absent: list[str] = []
    unnamed: list[int] = []
    first_line: dict[Path, int] = {}
    for line, cells in table:
        name, label = cells["file"], cells["label"]
        if not name or not label:
            raise ManifestRowInvalid(line, "has no file or no label")
        found = _find(root, name, label, line)
        if found is None:
            absent.append(name)
            continue
        if found in first_line:
            raise ManifestRepeatsFile(line, first_line[found])
        first_line[found] = line
        if cells.get("patient") == "":
            unnamed.append(line)
        rows.append(
            Row(
                line=line,
                path=found,
                label=label,
                patient=cells.get("patient"),
                site=_site(cells.get("site"), line),
                split=_split(cells.get("split"), line),
            )
        )
    if absent:
        raise ManifestNamesAbsentFile(absent)
    if unnamed:
        raise ManifestPatientAbsent(unnamed)
    return rows


def _table(content: bytes) -> list[tuple[int, dict[str, str]]]:
    """Parse the manifest into ``(line, cells)``, names of columns in lower case."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestUnreadable(f"byte {error.start} is not UTF-8") from error
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [column.strip().lower() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        missing = [column for column in ("file", "label") if column not in columns]
        if not columns:
            raise ManifestUnreadable("it is empty")
        if missing:
            raise ManifestColumnsMissing(missing)
        if len(set(columns)) != len(columns):
            raise ManifestUnreadable("two columns have one name")
        table: list[tuple[int, dict[str, str]]] = []
        for cells in reader:
            if None in cells or None in cells.values():
                raise ManifestRowInvalid(reader.line_num, "has not as many cells as the header")
            if len(table) == ROWS_MAX:
                raise ManifestUnreadable(f"it has more than {ROWS_MAX} rows")
            stripped = {column: cell.strip() for column, cell in cells.items()}
            table.append((reader.line_num, stripped))
    except csv.Error as error:
        raise ManifestUnreadable(str(error)) from error
    if not table:
        raise ManifestUnreadable("it has no rows")
    return table


def _find(root: Path, name: str, label: str, line: int) -> Path | None:
    """Return where ``name`` lies inside ``root``, following no path or link out of it."""
    for part in (name, label):
        pure = PurePosixPath(part.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or "\0" in part or re.match("[A-Za-z]:", part):
            raise ManifestLeavesFolder(line)
    for place in (root, root / "images", root / label, root / "images" / label):
        candidate = place / name
        try:
            present = candidate.is_file()
        except OSError:  # a name longer than the file system takes
            present = False
        if present:
            if not candidate.resolve().is_relative_to(root):
                raise ManifestLeavesFolder(line)
            return candidate
    return None


def _site(text: str | None, line: int) -> SiteId | None:
    if text is None:
        return None
    slug = re.sub(r"[\s_]+", "-", text.lower())
    if not SLUG.fullmatch(slug):
        raise ManifestRowInvalid(line, "names no site in letters, digits and dashes")
    return SiteId(slug)


def _split(text: str | None, line: int) -> str | None:
    if text is not None and text.lower() not in {"train", "test"}:
        raise ManifestRowInvalid(line, "has a split that is neither train nor test")
    return None if text is None else text.lower()
