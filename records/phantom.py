"""Make a synthetic ultrasound study: real DICOM files of patients who do not exist.

Every file says in its header that it is synthetic. A picture is layered tissue seen by a simple
B-mode model: echo strength in decibels, fully developed speckle (a circular complex Gaussian field
smoothed by the probe's point spread, its magnitude Rayleigh distributed; two directions are
compounded), attenuation with depth, log compression to 8 bits. A positive patient has one lesion,
darker than its surroundings, of irregular outline and with a shadow below, in each of her views;
everyone has vessels, fat lobules and shadows that a careless reader takes for one. Sites differ in
gain, dynamic range, speckle, attenuation and in how many of their patients are positive.

The pictures teach nothing about medicine. They let everyone run the whole system, on files that
a PACS would take, without anyone's records.

What holds, each line a property test in tests/records/test_phantom.py:

1. The same parameters give the same bytes, UIDs included.
2. A second call writes nothing; a damaged or foreign folder is written again, whole.
3. Every file names itself synthetic in four elements and reads back as it was drawn.

References:
    Wagner, Smith, Sandrik, Lopez, Statistics of Speckle in Ultrasound B-Scans, IEEE Trans. Sonics
    and Ultrasonics 30(3), 1983, section II (Rayleigh magnitude). DICOM PS3.3 A.6 (US Image IOD),
    C.8.5.6 (US Image module), PS3.5 B.2 (UIDs from UUIDs).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundImageStorage

from protocol.errors import storage_error
from records.dataset import Source, StudyData
from records.folder import read_folder
from records.manifest import MANIFEST
from records.split import SITES_MAX, site_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

SIDE: Final = 64
"""Rows and columns: what a network sees, so that nothing is spent on pixels it would lose."""
VIEWS: Final = 3
"""Instances per patient."""
LOOKS: Final = 2
"""Directions whose echoes are averaged, as machines do to calm the speckle."""
PATIENTS_PER_SITE: Final = 64
TEST_PATIENTS: Final = 150
"""Held out, dealt evenly over the sites."""
VERSION: Final = 1
"""Of the drawing. Raise it when any pixel or header changes, and old folders are written again."""
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


@dataclass(frozen=True)
class Scanner:
    """How one site's machine and patients differ from another's."""

    gain_db: float
    dynamic_range_db: float
    speckle_axial: float
    """Point spread along the beam, pixels (standard deviation)."""
    speckle_lateral: float
    attenuation_db: float
    """From the top of the picture to its bottom."""
    prevalence: float
    """Share of patients who have a lesion."""


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
    wanted = {
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


def scanner(site: int, seed: int) -> Scanner:
    """Return the machine and patients of the site numbered ``site``.

    The prevalence is spread evenly over 0.3 to 0.7, so that neighbours differ for any number of
    sites; the rest is drawn.
    """
    generator = np.random.default_rng([seed, VERSION, site])
    # Multiples of the golden ratio, modulo 1, cover the interval evenly from the first few on.
    even = (0.5 + site * 0.6180339887498949) % 1
    return Scanner(
        gain_db=float(generator.uniform(-6, 6)),
        dynamic_range_db=float(generator.uniform(48, 66)),
        speckle_axial=float(generator.uniform(0.5, 0.9)),
        speckle_lateral=float(generator.uniform(0.9, 1.7)),
        attenuation_db=float(generator.uniform(4, 14)),
        prevalence=0.3 + 0.4 * even,
    )


def draw_view(machine: Scanner, *, lesion: bool, generator: Generator) -> NDArray[np.uint8]:
    """Draw one picture, ``(64, 64)``, row 0 at the skin."""
    down, across = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    echo = _tissue(down, across, machine, generator)
    for _ in range(int(generator.integers(1, 4))):
        echo -= _vessel(down, across, generator)
    if generator.random() < 0.5:
        echo -= _ligament_shadow(down, across, generator)
    if lesion:
        echo -= _lesion(down, across, generator)
    decibel = echo + 10 * np.log10(_speckle(machine, generator) + 1e-4) + machine.gain_db
    shown = 0.72 + decibel / machine.dynamic_range_db
    return np.asarray(np.clip(np.round(255 * shown), 0, 255), dtype=np.uint8)


def _tissue(
    down: NDArray[np.float64],
    across: NDArray[np.float64],
    machine: Scanner,
    generator: Generator,
) -> NDArray[np.float64]:
    """Echo strength in decibels of fat, gland and muscle layers with lobules."""
    lobules = np.asarray(_smooth(generator.standard_normal((SIDE, SIDE)), 3.5, 6.0).real)
    echo = np.asarray(2.75 * lobules / lobules.std() - machine.attenuation_db * down / SIDE)
    for depth, step in ((10, 4.0), (46, -3.0)):
        level = depth + generator.uniform(-4, 4)
        edge = level + 3 * np.sin(across / generator.uniform(8, 16) + generator.uniform(0, 6.3))
        echo = echo + step * _sigmoid(down - edge)
        echo = echo + 6.0 * np.exp(-((down - edge) ** 2) / 2)  # fascia, bright and thin
    return np.asarray(echo)


def _vessel(
    down: NDArray[np.float64], across: NDArray[np.float64], generator: Generator
) -> NDArray[np.float64]:
    """Decibels taken by a small, smooth, dark ellipse without a shadow."""
    row, column = generator.uniform(14, 56), generator.uniform(6, 58)
    high, wide = generator.uniform(1.2, 2.6), generator.uniform(2.5, 6.0)
    reach = np.sqrt(((down - row) / high) ** 2 + ((across - column) / wide) ** 2)
    return np.asarray(generator.uniform(8, 16) * _sigmoid(6 * (1 - reach)))


def _ligament_shadow(
    down: NDArray[np.float64], across: NDArray[np.float64], generator: Generator
) -> NDArray[np.float64]:
    """Decibels taken by a narrow shadow that begins anywhere and runs to the bottom."""
    row, column = generator.uniform(8, 40), generator.uniform(6, 58)
    slope, wide = generator.uniform(-0.25, 0.25), generator.uniform(1.5, 4.0)
    aside = (across - column - slope * (down - row)) / wide
    return np.asarray(
        generator.uniform(4, 9) * _sigmoid((down - row) / 2) * np.exp(-(aside**2) / 2)
    )


def _lesion(
    down: NDArray[np.float64], across: NDArray[np.float64], generator: Generator
) -> NDArray[np.float64]:
    """Decibels taken by a dark mass of irregular outline and by the shadow below it."""
    row, column = generator.uniform(20, 46), generator.uniform(14, 50)
    radius = generator.uniform(5.5, 10.0)
    tall = generator.uniform(0.75, 1.35)
    angle = np.arctan2(down - row, across - column)
    outline = np.ones_like(down)
    for waves in (2, 3, 5, 7):
        phase = generator.uniform(0, 2 * np.pi)
        outline += generator.uniform(0, 0.16) * np.cos(waves * angle + phase)
    reach = np.hypot((down - row) / tall, (across - column) * tall) / (radius * outline)
    mass = generator.uniform(7, 14) * _sigmoid(5 * (1 - reach))
    below = _sigmoid((down - row - radius) / 2) * np.exp(-(((across - column) / radius) ** 2))
    return np.asarray(mass + generator.uniform(2, 6) * below)


def _speckle(machine: Scanner, generator: Generator) -> NDArray[np.float64]:
    """Intensity of fully developed speckle, mean 1, compounded of ``LOOKS`` directions."""
    intensity = np.zeros((SIDE, SIDE))
    for _ in range(LOOKS):
        real, imaginary = generator.standard_normal((2, SIDE, SIDE))
        field = _smooth(real + 1j * imaginary, machine.speckle_axial, machine.speckle_lateral)
        power = np.abs(field) ** 2
        intensity += power / power.mean() / LOOKS
    return intensity


def _smooth(field: NDArray[Any], axial: float, lateral: float) -> NDArray[np.complex128]:
    """Convolve with a Gaussian point spread, wrapping around, by its Fourier transform."""
    turns = 2 * np.pi * np.fft.fftfreq(SIDE)
    passes = np.exp(-np.add.outer((axial * turns) ** 2, (lateral * turns) ** 2) / 2)
    return np.fft.ifft2(np.fft.fft2(field) * passes)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))


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


def _patients(wanted: dict[str, int]) -> Iterator[_Drawn]:
    """Name every patient and say who has a lesion: the rounded prevalence, shuffled."""
    sites, seed = wanted["sites"], wanted["seed"]
    for index, site in enumerate(site_names(sites)):
        held = wanted["test_patients"] // sites + (index < wanted["test_patients"] % sites)
        generator = np.random.default_rng([seed, VERSION, index, 1])
        train = wanted["patients_per_site"]
        ill = np.zeros(train + held, dtype=bool)
        # Held-out patients are half and half everywhere, so that chance scores one half.
        ill[: round(scanner(index, seed).prevalence * train)] = True
        generator.shuffle(ill[:train])
        ill[train : train + (held + index % 2) // 2] = True
        for number in range(train + held):
            yield _Drawn(
                name=f"SYN-{site}-{number + 1:04d}",
                site=site,
                number=number,
                site_number=index,
                lesion=bool(ill[number]),
                split="train" if number < train else "test",
            )


def _write(folder: Path, wanted: dict[str, int], progress: Callable[[int, int], None]) -> None:
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


def _is_there(folder: Path, wanted: dict[str, int]) -> bool:
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
        # "an image that is a quality control or phantom image" (PS3.3 C.7.6.1)
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
