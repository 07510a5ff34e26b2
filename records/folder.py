"""Read a study from a folder of images and the ``manifest.csv`` that says what they show.

The manifest has one row per image and at least the columns ``file`` and ``label``. Optional
columns say more, and where they are absent something has to be assumed, which the source's note
then says:

========= ==================================================== ====================================
column    means                                                if absent
========= ==================================================== ====================================
patient   whose image it is; a patient may have many           each image stands for a patient
site      the hospital; natural sites are kept                 Dirichlet split by label
split     ``train`` or ``test``                                a fifth of every class is held out
========= ==================================================== ====================================

A patient is
positive if any of her images is. Images that are the same byte for byte are kept once per patient,
and where no patients are named they count as one patient, so no picture is both trained on and
tested on.

Everything is checked here, before anyone trains: a study that opens is a study that can be read.

What holds, each line a property test in tests/records/test_folder.py:

1. Every image of the manifest belongs to exactly one patient, and every patient to one place.
2. The same folder, seed and sites give the same study.
3. No file outside the folder is opened, whatever the manifest says.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from protocol.errors import RecordError
from protocol.ids import PatientId, SiteId
from records.dataset import (
    ImageFile,
    Patient,
    PatientInTwoPlaces,
    SiteWithoutRecords,
    Source,
    StudyData,
)
from records.files import read_bytes
from records.image import INPUT_SHAPE, square
from records.manifest import NAMED_MAX, Row, read_manifest
from records.split import TooFewPatients, dirichlet_split, hold_out, site_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from records.dataset import Progress

PATIENTS_MIN: Final = 4
"""Patients each site has at least after a Dirichlet split, however few there are."""
LEAST_SHARE: Final = 3
"""A site has at least one part in this many of an even share: a hospital too small to train on
its own takes no part in a study."""
TEST_FRACTION: Final = 0.2


class LabelAbsent(RecordError):
    """The label that counts as positive is nowhere, or everywhere, in the manifest."""

    code = "label-absent"

    def __init__(self, positive: str, found: Sequence[str]) -> None:
        self.positive = positive
        self.found = tuple(found)
        shown = ", ".join(found[:NAMED_MAX])
        super().__init__(
            f"labels must hold {positive} and another to tell apart, and they hold {shown}; name "
            "the positive label"
        )


class TestSetOneSided(RecordError):
    """The held-out patients are all positive or all negative, so nothing can be measured."""

    code = "test-set-one-sided"
    __test__ = False  # the name begins as pytest's classes do

    def __init__(self, patients: int) -> None:
        self.patients = patients
        super().__init__(
            f"the {patients} held-out patients do not hold both classes; add some of the other, "
            "or leave the split column out"
        )


def read_folder(
    path: Path,
    *,
    sites: int = 6,
    seed: int,
    positive: str = "malignant",
    alpha: float = 1.0,
    source: Source | None = None,
    progress: Progress | None = None,
) -> StudyData:
    """Check every image that ``path/manifest.csv`` names and return the study they make.

    Args:
        path: The folder.
        sites: How many sites to split into where the manifest has no ``site`` column.
        seed: Decides that split, and who is held out where there is no ``split`` column.
        positive: The label told apart from all others.
        alpha: Concentration of the Dirichlet split, see ``records.split``.
        source: What to say about the data; by default what the folder itself tells.
        progress: Called with the images checked and the images in all.

    Raises:
        ManifestMissing, ManifestUnreadable, ManifestColumnsMissing, ManifestRowInvalid,
        ManifestPatientAbsent, ManifestNamesAbsentFile, ManifestRepeatsFile, ManifestLeavesFolder,
        LabelAbsent, PatientInTwoPlaces, TooFewPatients, TestSetOneSided: As the names say.
        RecordError: An image is cut short, too large or none.
    """
    rows = read_manifest(path)
    labels = sorted({row.label for row in rows})
    if positive not in labels or len(labels) < 2:
        raise LabelAbsent(positive, labels)
    images = _check(rows, progress)
    groups = _by_patient(rows, images)
    patients = [
        _patient(key, members, images, positive=positive) for key, members in groups.items()
    ]
    placed, test = _place(patients, list(groups.values()), sites=sites, alpha=alpha, seed=seed)
    if {patient.label for patient in test} != {0, 1}:
        raise TestSetOneSided(len(test))
    natural = {key: members[0].site for key, members in groups.items()}
    return StudyData(
        source=source or _describe(path, rows, labels, positive, merged=len(rows) - len(groups)),
        sites=placed,
        test=tuple(test),
        input_shape=INPUT_SHAPE,
        test_homes={one.id: site for one in test if (site := natural[one.id]) is not None},
    )


def read_own_folder(
    path: Path,
    site: SiteId,
    *,
    positive: str = "malignant",
    progress: Progress | None = None,
) -> tuple[Patient, ...]:
    """Check every image of one hospital and return its patients; nothing is split or held out.

    Without a column ``site`` the folder is the hospital's; with one, no image of another hospital
    is opened. Rows for the test are left out.

    Args:
        path: The folder, with its ``manifest.csv``.
        site: The hospital.
        positive: The label told apart from all others.
        progress: Called with the images checked and the images in all.

    Returns:
        The patients, with the numbers and records that ``read_folder`` gives them.

    Raises:
        SiteWithoutRecords, LabelAbsent, PatientInTwoPlaces: As the names say.
        RecordError: The manifest or an image is not what it says; see ``read_folder``.
    """
    rows = read_manifest(path)
    labels = sorted({row.label for row in rows})
    if positive not in labels:
        raise LabelAbsent(positive, labels)
    own = [row for row in rows if row.site in {None, site} and row.split != "test"]
    if not own:
        raise SiteWithoutRecords(site, path.name)
    images = _check(own, progress)
    groups = _by_patient(rows, images)
    for members in groups.values():
        _agreed([row.site or "" for row in members])
        _agreed([row.split or "" for row in members])
    return tuple(
        _patient(key, members, images, positive=positive)
        for key, members in groups.items()
        if members[0].path in images
    )


def _check(rows: Sequence[Row], progress: Progress | None) -> dict[Path, ImageFile]:
    """Decode every image once, so that a bad one is found now, and hash it."""
    images: dict[Path, ImageFile] = {}
    for done, row in enumerate(rows, start=1):
        content = read_bytes(row.path)
        square(content, row.path)
        images[row.path] = ImageFile(row.path, hashlib.sha256(content).digest())
        if progress is not None:
            progress(done, len(rows))
    return images


def _by_patient(
    rows: Iterable[Row], images: Mapping[Path, ImageFile]
) -> dict[PatientId, list[Row]]:
    """Gather rows by patient; without patients, by content, under the first file's name.

    Files that were not opened, another hospital's, have a name and no content.
    """
    groups: dict[PatientId, list[Row]] = {}
    first_with: dict[bytes, PatientId] = {}
    for row in rows:
        own = PatientId(row.patient) if row.patient is not None else PatientId(row.path.stem)
        if row.patient is None:
            if own in groups:  # two folders may each have a file of this name
                own = PatientId(f"{row.path.parent.name}/{row.path.name}")
            if row.path in images:
                own = first_with.setdefault(images[row.path].digest, own)
        groups.setdefault(own, []).append(row)
    return groups


def _patient(
    key: PatientId, rows: Sequence[Row], images: Mapping[Path, ImageFile], *, positive: str
) -> Patient:
    once = {images[row.path].digest: images[row.path] for row in reversed(rows)}
    records = tuple(sorted(once.values(), key=lambda image: image.path))
    return Patient(key, int(any(row.label == positive for row in rows)), records)


def _place(
    patients: Sequence[Patient],
    rows: Sequence[Sequence[Row]],
    *,
    sites: int,
    alpha: float,
    seed: int,
) -> tuple[dict[SiteId, tuple[Patient, ...]], list[Patient]]:
    """Hold out the test set, then give every other patient a site."""
    labels = [patient.label for patient in patients]
    homes = [_agreed([row.site or "" for row in group]) for group in rows]
    splits = [_agreed([row.split or "" for row in group]) for group in rows]
    if not splits[0]:
        # Every natural site gives its share of each class to the test.
        strata = sorted(set(zip(homes, labels, strict=True)))
        stratum = [strata.index(pair) for pair in zip(homes, labels, strict=True)]
        kept, held = hold_out(stratum, fraction=TEST_FRACTION, seed=seed)
    else:
        held = [index for index, split in enumerate(splits) if split == "test"]
        kept = [index for index, split in enumerate(splits) if split == "train"]
    placed: dict[SiteId, list[Patient]] = {}
    if not homes[0]:
        dealt = dirichlet_split(
            [labels[index] for index in kept],
            sites=sites,
            alpha=alpha,
            minimum=max(PATIENTS_MIN, len(kept) // (LEAST_SHARE * sites)),
            seed=seed,
        )
        for site, positions in zip(site_names(sites), dealt, strict=True):
            placed[site] = [patients[kept[position]] for position in positions]
    else:
        for index in kept:
            placed.setdefault(SiteId(homes[index]), []).append(patients[index])
    if not placed:
        raise TooFewPatients(0, 1)
    return (
        {site: tuple(placed[site]) for site in placed},
        [patients[index] for index in held],
    )


def _agreed(values: Sequence[str]) -> str:
    """Return what all rows of one patient say, or refuse."""
    distinct = sorted(set(values))
    if len(distinct) > 1:
        raise PatientInTwoPlaces(distinct)
    return distinct[0]


def _describe(
    folder: Path, rows: Sequence[Row], labels: Sequence[str], positive: str, *, merged: int
) -> Source:
    """Say what the folder tells about itself, and what had to be assumed."""
    by_image = rows[0].patient is None
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower())[:30].strip("-") or "folder"
    others = [label for label in labels if label != positive]
    notes = []
    if by_image:
        notes.append(
            "The source names no patients: each image counts as a patient, so two images of one "
            "person may be treated as two people."
        )
        if merged:
            notes.append(f"Images that repeat another byte for byte count once ({merged}).")
    if rows[0].site is None:
        notes.append(
            "It names no sites: patients are split over them unevenly by a Dirichlet draw."
        )
    if rows[0].split is None:
        notes.append("A fifth of each class is held out.")
    return Source(
        name=name,
        title=f"{folder.resolve().name}, {len(rows)} images",
        synthetic=False,
        unit="image" if by_image else "patient",
        modality="image",
        task=f"{positive} against {' and '.join(others[:NAMED_MAX])}",
        positive=positive,
        negative=" or ".join(others[:NAMED_MAX]),
        licence="as the folder's owner states",
        note=" ".join(notes),
    )
