"""A study of 3-D volumes with masks: what a segmentation network learns from.

A folder holds ``images/NAME.nii.gz`` and, under the same names, ``labels/NAME.nii.gz``, whose
voxels are classes (0 is background). One volume is one patient. An optional ``manifest.csv`` with
a column ``id`` and one of ``site`` or ``acq_group`` says who is at which site; without it the
patients are split evenly. A fifth of every site is held out.

Each volume is standardised alone and then cut or padded to one grid (``records.grid``). Voxels are
not resampled: a study whose voxels differ in size prepares its files first.

What holds, each line a test in tests/records/test_volumes.py:

1. ``x`` is ``(records, 1, *grid)`` float32, ``y`` is ``(records, *grid)`` int64 with classes below
   ``classes``, and both are cut and padded alike.
2. Every patient is in exactly one place, and the same folder and seed give the same study.
3. A mask of another shape, place or with unknown classes is refused; so is a file that changed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from protocol.errors import RecordError
from protocol.ids import SLUG, PatientId, SiteId
from records.dataset import (
    Arrays,
    ImageFile,
    Patient,
    SiteWithoutRecords,
    Source,
    StudyData,
    VolumeFile,
)
from records.files import FileMissing, read_bytes
from records.grid import fit_grid, standardised
from records.manifest import MANIFEST, ManifestRowInvalid, ManifestUnreadable
from records.nifti import decode_volume
from records.split import TooFewPatients, hold_out, site_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from records.dataset import Progress

GRID: Final = (40, 56, 40)
"""Voxels of what a network sees by default: three halvings divide it, and no hippocampus of the
Medical Segmentation Decathlon is cut by it, though three quarters of its volumes are padded."""
CLASSES: Final = 3
"""Background, anterior and posterior."""
SUFFIXES: Final = (".nii.gz", ".nii")
PLACE_TOLERANCE: Final = 0.01
"""Millimetres by which the orientations of a volume and its mask may differ."""
MANIFEST_BYTES_MAX: Final = 2**22
TEST_FRACTION: Final = 0.2


class VolumesMissing(RecordError):
    """The folder holds no volumes, or some without a mask."""

    code = "volumes-missing"

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        self.reason = reason
        super().__init__(
            f"{folder.name} {reason}; put volumes under images and their masks under labels, with "
            "the same names"
        )


class MaskInvalid(RecordError):
    """The mask does not belong to its volume, or holds classes nobody named."""

    code = "mask-invalid"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"the mask {path.name} {reason}; draw it again over its own volume")


class CasesWithoutSite(RecordError):
    """The manifest says where some patients are, and of others nothing."""

    code = "volume-site-missing"

    def __init__(self, missing: int, cases: int) -> None:
        self.missing = missing
        self.cases = cases
        super().__init__(
            f"{MANIFEST} names no site for {missing} of {cases} volumes; add their rows, or remove "
            "the column to have all patients split evenly"
        )


@dataclass(frozen=True)
class VolumeLoader:
    """The loader of records that are volumes with masks.

    Attributes:
        grid: Voxels along right, anterior and superior.
        classes: How many classes a mask may hold, background included.
    """

    grid: tuple[int, int, int] = GRID
    classes: int = CLASSES

    def load(self, patients: Sequence[Patient]) -> Arrays:
        """Return ``x`` ``(records, 1, *grid)`` and ``y`` ``(records, *grid)`` of ``patients``.

        Raises:
            RecordChanged: A file is not the one that was listed.
            MaskInvalid: A mask does not belong to its volume.
            RecordError: A file is missing, cut short, too large or no volume.
        """
        owners = [(index, one) for index, owner in enumerate(patients) for one in owner.records]
        x = np.zeros((len(owners), 1, *self.grid), dtype=np.float32)
        y = np.zeros((len(owners), *self.grid), dtype=np.int64)
        for row, (_, record) in enumerate(owners):
            assert isinstance(record, VolumeFile)
            volume, mask = read_pair(record, self.classes)
            x[row, 0] = fit_grid(standardised(volume), self.grid)
            y[row] = fit_grid(mask, self.grid)
        return Arrays(x=x, y=y, patient=np.array([index for index, _ in owners], dtype=np.int64))


def read_pair(record: VolumeFile, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a record's voxels and their classes, of one shape; see ``VolumeLoader.load``."""
    path = record.mask.path
    volume = decode_volume(record.image.read(), record.image.path)
    mask = decode_volume(record.mask.read(), path)
    if mask.voxels.shape != volume.voxels.shape:
        raise MaskInvalid(path, f"has the shape {mask.voxels.shape}, not {volume.voxels.shape}")
    if not np.allclose(mask.affine, volume.affine, rtol=0.0, atol=PLACE_TOLERANCE):
        raise MaskInvalid(path, "lies elsewhere in space than its volume")
    if mask.voxels.min() < 0 or mask.voxels.max() > classes - 1:
        raise MaskInvalid(path, f"holds classes other than 0 to {classes - 1}")
    labels = mask.voxels.astype(np.int64)
    if not np.array_equal(labels, mask.voxels):
        raise MaskInvalid(path, "holds values between two classes")
    return volume.voxels, labels


def holds_volumes(folder: Path) -> bool:
    """Return whether ``folder`` looks like a study of volumes; opens no file."""
    return (folder / "labels").is_dir() and bool(_volumes(folder / "images"))


def read_volumes(
    path: Path,
    *,
    seed: int,
    sites: int = 3,
    grid: tuple[int, int, int] = GRID,
    classes: int = CLASSES,
    source: Source | None = None,
    progress: Progress | None = None,
) -> StudyData:
    """Check every volume and mask below ``path`` and return the study they make.

    Args:
        path: The folder.
        seed: Decides who is held out, and the split where there are no natural sites.
        sites: How many, where the manifest names none.
        grid: As given to ``VolumeLoader``; becomes the study's input shape.
        classes: As given to ``VolumeLoader``.
        source: What to say about the data; by default what the folder itself tells.
        progress: Called with the volumes checked and the volumes in all.

    Raises:
        VolumesMissing, MaskInvalid, CasesWithoutSite, ManifestUnreadable, ManifestRowInvalid,
            TooFewPatients: As the names say.
        RecordError: A file is cut short, too large or no volume.
    """
    images = _all_volumes(path)
    homes = _homes(path)
    patients = _read_cases(path, images, classes, progress)
    placed, test = _place(patients, homes, sites=sites, seed=seed)
    return StudyData(
        source=source or _describe(path, len(patients), natural=homes is not None),
        sites=placed,
        test=test,
        input_shape=(1, *grid),
        test_homes={one.id: homes[one.id] for one in test} if homes is not None else {},
    )


def read_own_volumes(
    path: Path, site: SiteId, *, classes: int = CLASSES, progress: Progress | None = None
) -> tuple[Patient, ...]:
    """Check every volume and mask of one hospital and return its patients; none is held out.

    Where no manifest names sites the folder is the hospital's; where one does, no volume of
    another hospital is opened.

    Raises:
        SiteWithoutRecords: None is this hospital's.
        RecordError: As ``read_volumes``.
    """
    images, homes = _all_volumes(path), _homes(path)
    if homes is not None:
        unknown = [name for name in images if name not in homes]
        if unknown:
            raise CasesWithoutSite(len(unknown), len(images))
        images = {name: file for name, file in images.items() if homes[name] == site}
    if not images:
        raise SiteWithoutRecords(site, path.name)
    return tuple(_read_cases(path, images, classes, progress))


def _all_volumes(path: Path) -> dict[str, Path]:
    images = _volumes(path / "images")
    if not images:
        raise VolumesMissing(path, "holds no volume below images")
    return images


def _read_cases(
    path: Path, images: Mapping[str, Path], classes: int, progress: Progress | None
) -> list[Patient]:
    """Check each volume and its mask; one is one patient."""
    patients = []
    for done, (name, file) in enumerate(images.items(), start=1):
        mask = path / "labels" / file.name
        if not mask.is_file():
            raise VolumesMissing(path, f"holds no mask for {file.name}")
        if not all(one.resolve().is_relative_to(path.resolve()) for one in (file, mask)):
            raise VolumesMissing(path, f"holds {file.name} only as a link to another place")
        record = VolumeFile(_listed(file), _listed(mask))
        read_pair(record, classes)
        patients.append(Patient(PatientId(name), 1, (record,)))
        if progress is not None:
            progress(done, len(images))
    return patients


def _volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of one folder by their names without suffix, in order of names."""
    found = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        suffix = next((one for one in SUFFIXES if file.name.endswith(one)), None)
        if suffix is not None and not file.name.startswith("."):
            found[file.name.removesuffix(suffix)] = file
    return found


def _listed(path: Path) -> ImageFile:
    return ImageFile(path, hashlib.sha256(read_bytes(path)).digest())


def _homes(folder: Path) -> Mapping[str, SiteId] | None:
    """Return who is at which site, or None where nobody says so."""
    try:
        text = read_bytes(folder / MANIFEST, limit=MANIFEST_BYTES_MAX).decode("utf-8-sig")
    except FileMissing:
        return None
    except UnicodeDecodeError as error:
        raise ManifestUnreadable(f"byte {error.start} is not UTF-8") from error
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or []
        where = next((one for one in ("site", "acq_group") if one in columns), None)
        if where is None or "id" not in columns:
            return None
        homes = {}
        for row in reader:
            slug = re.sub(r"[\s_]+", "-", (row[where] or "").strip().lower())
            if not row["id"] or not SLUG.fullmatch(slug):
                raise ManifestRowInvalid(reader.line_num, "names no case and site")
            homes[row["id"]] = SiteId(slug)
    except csv.Error as error:
        raise ManifestUnreadable(str(error)) from error
    return homes


def _place(
    patients: Sequence[Patient], homes: Mapping[str, SiteId] | None, *, sites: int, seed: int
) -> tuple[dict[SiteId, tuple[Patient, ...]], tuple[Patient, ...]]:
    """Give every patient a site, then hold out a fifth of each."""
    if homes is None:
        names = site_names(sites)
        order = np.random.default_rng([seed, 0x70A1]).permutation(len(patients))
        where = {patients[at].id: names[rank % sites] for rank, at in enumerate(order)}
    else:
        where = {one.id: homes[one.id] for one in patients if one.id in homes}
        if len(where) < len(patients):
            raise CasesWithoutSite(len(patients) - len(where), len(patients))
    groups = sorted(set(where.values()))
    kept, held = hold_out(
        [groups.index(where[one.id]) for one in patients], fraction=TEST_FRACTION, seed=seed
    )
    placed: dict[SiteId, list[Patient]] = {site: [] for site in groups}
    for index in kept:
        placed[where[patients[index].id]].append(patients[index])
    if len(patients) < 2 * len(groups) or not held:
        raise TooFewPatients(len(patients), 2 * len(groups))
    return (
        {site: tuple(members) for site, members in placed.items()},
        tuple(patients[index] for index in held),
    )


def _describe(folder: Path, count: int, *, natural: bool) -> Source:
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower())[:30].strip("-") or "volumes"
    split = "Sites are those of its manifest." if natural else "It names no sites: an even split."
    return Source(
        name=name,
        title=f"{folder.resolve().name}, {count} volumes",
        synthetic=False,
        unit="patient",
        modality="volume",
        task="segmentation of the classes its masks draw",
        positive="structure",
        negative="background",
        licence="as the folder's owner states",
        note=f"One volume counts as one patient. {split} A fifth of each site is held out.",
    )
