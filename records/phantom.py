"""Make a synthetic ultrasound study: real DICOM files of patients who do not exist.

Every file says in its header that it is synthetic; ``records.bmode`` draws what it shows. A
positive patient has a lesion in each of her views. Sites differ in their machines and in how many
of their patients are positive; the test is half and half.

The files are what a PACS would take, so that everyone can run the whole system without anyone's
records. They lie beside a ``manifest.csv`` and are read back like any other folder of images.

What holds, each line a property test in tests/records/test_phantom.py:

1. The same parameters give the same bytes, UIDs included.
2. A second call writes nothing; a damaged or foreign folder is written again, whole.
3. Every file names itself synthetic in four elements and reads back as it was drawn.

References:
    DICOM PS3.3 A.6 (US Image IOD), C.8.5.6 (US Image module), PS3.5 B.2 (UIDs from UUIDs).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage

from protocol.errors import storage_error
from protocol.ids import SiteId
from records.bmode import SIDE, VERSION, draw_view, scanner
from records.dataset import SiteWithoutRecords, Source, StudyData
from records.folder import read_folder
from records.manifest import MANIFEST
from records.split import SITES_MAX, site_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

VIEWS: Final = 3
"""Instances per patient."""
PATIENTS_PER_SITE: Final = 64
TEST_PATIENTS: Final = 150
"""Held out, dealt evenly over the sites."""
MARKER: Final = "phantom.json"
LABELS: Final = ("clear", "lesion")
SYNTHETIC: Final = "SYNTHETIC: drawn by a program, shows no person"
UID_NAMESPACE: Final = uuid.UUID("8a0c2b0e-5d53-5c59-9a51-0f6a6b8c1d27")

SOURCE: Final = Source(
    name="phantom",
    title="synthetic ultrasound phantom",
    synthetic=True,
    unit="patient",
    modality="image",
    task="lesion against none",
    positive="lesion",
    negative="no lesion",
    licence="Apache-2.0, as the program that draws it",
    note=(
        "SYNTHETIC: these patients do not exist; the numbers show that the system works, not that "
        "anything is diagnosed."
    ),
)


def write_phantom(
    folder: Path,
    *,
    sites: int = 6,
    patients_per_site: int = PATIENTS_PER_SITE,
    seed: int,
    test_patients: int = TEST_PATIENTS,
    progress: Callable[[int, int], None] | None = None,
) -> StudyData:
    """Write the study into ``folder``, unless it is there already, and read it back.

    Args:
        folder: Made if need be. Files of other names in it are left alone.
        sites: How many hospitals.
        patients_per_site: Patients to train on at each.
        seed: Decides every pixel and UID. Not a secret.
        test_patients: Held out, in all.
        progress: Called with the steps done and the steps in all.

    Returns:
        The study as ``records.folder`` reads it from the files.

    Raises:
        StorageError: The disk did not take the files; what is there will be written again.
        RecordError: They do not read back.
    """
    assert 1 <= sites <= SITES_MAX
    assert patients_per_site >= 1
    assert test_patients >= 2
    wanted: Wanted = {
        "version": VERSION,
        "sites": sites,
        "patients_per_site": patients_per_site,
        "test_patients": test_patients,
        "seed": seed,
    }
    files = (sites * patients_per_site + test_patients) * VIEWS

    def written(done: int, _total: int) -> None:
        if progress is not None:
            progress(done, 2 * files)

    def read(done: int, _total: int) -> None:
        if progress is not None:
            progress(files + done, 2 * files)

    if not _is_there(folder, wanted):
        _write(folder, wanted, written)
    return read_folder(folder, seed=seed, positive=LABELS[1], source=SOURCE, progress=read)


def write_own_phantom(
    folder: Path,
    site: SiteId,
    *,
    sites: int = 6,
    patients_per_site: int = PATIENTS_PER_SITE,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write one site's part of the study into ``folder``, unless it is there already.

    They are the files, byte for byte, that ``write_phantom`` draws for this site's training;
    read them with ``records.folder.read_own_folder``.

    Raises:
        SiteWithoutRecords: A study of so many sites has none of this name.
        StorageError: The disk did not take the files.
    """
    if site not in site_names(sites):
        raise SiteWithoutRecords(site, SOURCE.name)
    wanted: Wanted = {
        "version": VERSION,
        "sites": sites,
        "patients_per_site": patients_per_site,
        "test_patients": TEST_PATIENTS,
        "seed": seed,
        "only": site,
    }
    files = patients_per_site * VIEWS

    def written(done: int, _total: int) -> None:
        if progress is not None:
            progress(done, files)

    if not _is_there(folder, wanted):
        _write(folder, wanted, written)


class Wanted(TypedDict):
    """What decides a folder's files; kept beside them."""

    version: int
    sites: int
    patients_per_site: int
    test_patients: int
    seed: int
    only: NotRequired[SiteId]
    """Draw this site's patients to train on, and no others."""


@dataclass(frozen=True)
class _Drawn:
    """One patient of the study, before she is drawn."""

    name: str
    site: str
    number: int
    """Of the patient within her site, those held out after those trained on."""
    site_number: int
    lesion: bool
    split: str


def _patients(wanted: Wanted) -> Iterator[_Drawn]:
    """Name every patient and say who has a lesion: the rounded prevalence, shuffled."""
    sites, seed = wanted["sites"], wanted["seed"]
    for index, site in enumerate(site_names(sites)):
        if wanted.get("only", site) != site:
            continue
        held = wanted["test_patients"] // sites + (index < wanted["test_patients"] % sites)
        generator = np.random.default_rng([seed, VERSION, index, 1])
        train = wanted["patients_per_site"]
        ill = np.zeros(train + held, dtype=bool)
        # Held-out patients are half and half everywhere, so that chance scores one half.
        ill[: round(scanner(index, seed).prevalence * train)] = True
        generator.shuffle(ill[:train])
        ill[train : train + (held + index % 2) // 2] = True
        for number in range(train if "only" in wanted else train + held):
            yield _Drawn(
                name=f"SYN-{site}-{number + 1:04d}",
                site=site,
                number=number,
                site_number=index,
                lesion=bool(ill[number]),
                split="train" if number < train else "test",
            )


def _write(folder: Path, wanted: Wanted, progress: Callable[[int, int], None]) -> None:
    """Write every instance, then the manifest, then the marker that makes it valid."""
    try:
        (folder / MARKER).unlink(missing_ok=True)
        digest = hashlib.sha256()
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("file", "label", "patient", "site", "split"))
        done = 0
        for patient in _patients(wanted):
            paths = _paths(folder, patient)
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            for path, content in zip(paths, _instances(patient, wanted["seed"]), strict=True):
                _replace(path, content)
                digest.update(hashlib.sha256(content).digest())
                name = path.relative_to(folder).as_posix()
                label = LABELS[patient.lesion]
                writer.writerow((name, label, patient.name, patient.site, patient.split))
                done += 1
                progress(done, done)
        manifest = table.getvalue().encode()
        digest.update(manifest)
        _replace(folder / MANIFEST, manifest)
        marker = json.dumps({**wanted, "sha256": digest.hexdigest()}, indent=1).encode()
        _replace(folder / MARKER, marker, durable=True)
    except OSError as error:
        raise storage_error(error, "the synthetic study") from error


def _replace(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put ``content`` at ``path`` whole or not at all.

    Only the marker is forced to the disk: its digest tells whether everything before it arrived.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)


def _is_there(folder: Path, wanted: Wanted) -> bool:
    """Return whether ``folder`` holds this very study, to the last byte.

    The first patient is drawn again and compared, so that a folder from an older drawing is
    noticed even by whoever forgot to raise ``VERSION``.
    """
    first = next(_patients(wanted))
    try:
        for path, content in zip(
            _paths(folder, first), _instances(first, wanted["seed"]), strict=True
        ):
            if path.read_bytes() != content:
                return False
        marker = json.loads((folder / MARKER).read_bytes())
        manifest = (folder / MANIFEST).read_bytes()
        digest = hashlib.sha256()
        for line in manifest.decode().splitlines()[1:]:
            content = (folder / line.split(",", 1)[0]).read_bytes()
            digest.update(hashlib.sha256(content).digest())
        digest.update(manifest)
    except (OSError, ValueError):
        return False
    return bool(marker == {**wanted, "sha256": digest.hexdigest()})


def _paths(folder: Path, patient: _Drawn) -> list[Path]:
    """Where a patient's instances lie, in the order they are drawn."""
    place = folder / patient.site
    return [place / f"{patient.name}-{view}.dcm" for view in range(1, VIEWS + 1)]


def _instances(patient: _Drawn, seed: int) -> Iterator[bytes]:
    """Draw a patient's views and encode each as a DICOM file."""
    machine = scanner(patient.site_number, seed)
    for view in range(1, VIEWS + 1):
        generator = np.random.default_rng(
            [seed, VERSION, patient.site_number, 2, patient.number, view]
        )
        pixels = draw_view(machine, lesion=patient.lesion, generator=generator)
        yield _encode(pixels, patient, view, f"{VERSION}/{seed}/{patient.name}")


def _uid(name: str) -> UID:
    """A UID below 2.25, made from a name-based UUID (PS3.5 section B.2)."""
    return UID(f"2.25.{uuid.uuid5(UID_NAMESPACE, name).int}")


def _encode(pixels: NDArray[np.uint8], patient: _Drawn, view: int, name: str) -> bytes:
    """Encode one picture as US Image Storage, Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(f"{name}/{view}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation")
    meta.ImplementationVersionName = "BITHIVE_PHANTOM"
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    elements: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        # Not derived from any other image, but made outside any examination.
        "ImageType": ["DERIVED", "SECONDARY"],
        "SOPClassUID": UltrasoundImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "Modality": "US",
        "Manufacturer": "BitHive phantom",
        "ReferringPhysicianName": "",
        "StudyDescription": "SYNTHETIC phantom",
        "SeriesDescription": "SYNTHETIC phantom",
        "ManufacturerModelName": f"phantom-{patient.site}",
        "DerivationDescription": SYNTHETIC,
        "PatientName": "SYNTHETIC^PHANTOM",
        "PatientID": patient.name,
        "PatientBirthDate": "",
        "PatientSex": "",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "No person was ever behind this image",
        "StudyInstanceUID": _uid(name),
        "SeriesInstanceUID": _uid(f"{name}/series"),
        "StudyID": "",
        "SeriesNumber": 1,
        "InstanceNumber": view,
        "PatientOrientation": "",
        "ImageComments": SYNTHETIC,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SIDE,
        "Columns": SIDE,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        # The standard's own way to say that the object is a phantom (PS3.3 C.7.6.1).
        "QualityControlImage": "YES",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    image.add_new("PixelData", "OB", pixels.tobytes())
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
