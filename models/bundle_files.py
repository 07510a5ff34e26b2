"""Open the few files of a bundle that are read, from a folder or an archive, with suspicion.

Nothing is unpacked to disk. Of an archive every name is checked, also of files nobody reads,
because an archive that tries to leave its folder is no bundle; of a folder no link is followed.

What holds, each line a test in tests/models/test_bundle_attacks.py:

1. No file outside the bundle is opened, whatever it names.
2. However small an archive is, no more is unpacked than each file's limit.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from models.bundle import CARD, CONFIG, METADATA, WEIGHTS
from protocol.errors import RecordError

TEXT_BYTES_MAX: Final = 2**20
WEIGHTS_BYTES_MAX: Final = 2**29
"""Half a gigabyte: twice the largest network that is built here."""
LIMITS: Final[Mapping[str, int]] = {
    CONFIG: TEXT_BYTES_MAX,
    METADATA: TEXT_BYTES_MAX,
    CARD: TEXT_BYTES_MAX,
    WEIGHTS: WEIGHTS_BYTES_MAX,
}
"""What is read at all, and how many bytes of each."""
NEEDED: Final = (CONFIG, WEIGHTS)
NAMES_MAX: Final = 1000


class BundleRefused(RecordError):
    """The bundle holds something that could act on whoever loads it, or is not what it says."""

    code = "bundle-refused"

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(
            f"{where} of the bundle {reason}; nothing of it was run, ask its sender for plain "
            "values and tensors"
        )


@dataclass(frozen=True)
class BundleFiles:
    """The files that were read, and the names of those that were left alone."""

    read: Mapping[str, bytes]
    ignored: tuple[str, ...]


def open_bundle(path: Path) -> BundleFiles:
    """Read the bundle's files from a folder or a ``.zip``.

    Raises:
        BundleRefused: A name leaves the bundle, a file is a link, too large, damaged or absent.
    """
    try:
        found = _from_folder(path) if path.is_dir() else _from_archive(path)
    except (OSError, ValueError) as error:
        raise BundleRefused(path.name, "cannot be read") from error
    for name in NEEDED:
        if name not in found.read:
            raise BundleRefused(name, "is missing (YAML and TorchScript are not read)")
    return found


def _from_folder(folder: Path) -> BundleFiles:
    read: dict[str, bytes] = {}
    ignored: list[str] = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            file = Path(place) / name
            relative = file.relative_to(folder).as_posix()
            kind = file.lstat().st_mode
            if len(read) + len(ignored) > NAMES_MAX:
                raise BundleRefused(folder.name, f"holds more than {NAMES_MAX} files")
            if stat.S_ISDIR(kind):
                continue
            if not stat.S_ISREG(kind):
                raise BundleRefused(relative, "is a link or no plain file")
            if relative not in LIMITS:
                ignored.append(relative)
                continue
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as opened:
                read[relative] = _bounded(opened, relative)
    return BundleFiles(read, tuple(sorted(ignored)))


def _from_archive(path: Path) -> BundleFiles:
    with path.open("rb") as file:
        content = file.read(2 * WEIGHTS_BYTES_MAX + 1)
    if len(content) > 2 * WEIGHTS_BYTES_MAX:
        raise BundleRefused(path.name, f"is longer than {2 * WEIGHTS_BYTES_MAX} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = _checked(archive.infolist())
            root = _root(list(entries))
            read: dict[str, bytes] = {}
            ignored: list[str] = []
            for name, entry in entries.items():
                relative = name.removeprefix(root)
                if relative not in LIMITS:
                    ignored.append(relative)
                    continue
                with archive.open(entry) as opened:
                    read[relative] = _bounded(opened, relative)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleRefused(path.name, "is no archive we can read") from error
    return BundleFiles(read, tuple(sorted(ignored)))


def _checked(entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the files of an archive by name, each inside it, plain and named once."""
    if len(entries) > NAMES_MAX:
        raise BundleRefused("the archive", f"holds more than {NAMES_MAX} files")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename
        parts = PurePosixPath(name).parts
        outside = name.startswith("/") or ".." in parts or "\\" in name or ":" in name
        if outside or "\0" in entry.orig_filename:
            raise BundleRefused("the archive", "names a file outside itself")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise BundleRefused("the archive", "holds a link or no plain file")
        if entry.is_dir():
            continue
        if name in found:
            raise BundleRefused("the archive", "names one file twice")
        found[name] = entry
    return found


def _root(names: list[str]) -> str:
    """Return the folder inside the archive that the bundle is in, with its slash, or nothing."""
    roots = [name.removesuffix(CONFIG) for name in names if name.endswith(CONFIG)]
    roots = [root for root in roots if root == "" or (root.endswith("/") and root.count("/") == 1)]
    if len(roots) != 1:
        raise BundleRefused("the archive", f"holds {len(roots)} bundles where one is expected")
    return roots[0]


def _bounded(file: IO[bytes], name: str) -> bytes:
    content = file.read(LIMITS[name] + 1)
    if len(content) > LIMITS[name]:
        raise BundleRefused(name, f"is longer than {LIMITS[name]} bytes")
    return content
