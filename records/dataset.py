"""What a study's records are, before anyone trains on them: patients, sites and a held-out test.

A patient is the unit of everything: she consents, she is the unit of privacy, and no patient is
both trained on and tested on. Her records are named by digests, which a consent proof commits to.

    >>> row = TableRow(key="demo/1", values=(1.0, None))
    >>> patient_digest(Patient(PatientId("one"), 1, (row,))) < 2**248
    True

What holds, each line a property test in tests/records/test_dataset.py:

1. A patient's digest depends on the set of her records, not on their order.
2. Every patient is in exactly one place: one site, or the test set.
3. What is loaded is what was listed: a file whose bytes changed is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from protocol.errors import RecordError
from protocol.ids import PatientId
from records.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from protocol.ids import SiteId

Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with the steps done and the steps in all, so that a person can see work advance."""


class RecordChanged(RecordError):
    """The file is not the one that was listed, so no proof covers it."""

    code = "record-changed"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path.name} changed after it was listed; restore it, or list the records again"
        )


class PatientInTwoPlaces(RecordError):
    """One patient is at two sites, or both trained on and tested on."""

    code = "patient-in-two-places"

    def __init__(self, places: Sequence[str]) -> None:
        self.places = tuple(places)
        super().__init__(
            f"a patient is listed under both {places[0]} and {places[1]}; give each patient one "
            "site and one split"
        )


class SiteWithoutRecords(RecordError):
    """The records hold nothing of this hospital's that may be trained on."""

    code = "site-without-records"

    def __init__(self, site: str, where: str) -> None:
        self.site = site
        super().__init__(
            f"{where} holds no record of site {site} to train on; name the hospital's own records, "
            "or correct the site's name in them"
        )


@dataclass(frozen=True)
class ImageFile:
    """A record that is a file: where it lies and the SHA-256 its bytes had when it was listed."""

    path: Path
    digest: bytes

    def read(self) -> bytes:
        """Return the file's bytes; raises RecordChanged unless they are those that were listed."""
        content = read_bytes(self.path)
        if hashlib.sha256(content).digest() != self.digest:
            raise RecordChanged(self.path)
        return content


@dataclass(frozen=True)
class TableRow:
    """A record that is a row: its place (``heart/cleveland/17``) and its raw values.

    ``None`` is a value nobody measured. The place is part of the digest, because two patients may
    well have equal values.
    """

    key: str
    values: tuple[float | None, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key and the values as ``repr`` writes them, one exact text per float."""
        fields = ("?" if value is None else repr(float(value)) for value in self.values)
        return hashlib.sha256("\x1f".join((self.key, *fields)).encode()).digest()


@dataclass(frozen=True)
class VolumeFile:
    """A record that is a volume and the mask drawn over it; both are part of its digest."""

    image: ImageFile
    mask: ImageFile

    @property
    def digest(self) -> bytes:
        """SHA-256 of the two files' digests, the volume's first."""
        return hashlib.sha256(b"volume" + self.image.digest + self.mask.digest).digest()


Record: TypeAlias = ImageFile | TableRow | VolumeFile


@dataclass(frozen=True)
class Patient:
    """One patient of one hospital: her local id, her label (0 or 1) and her records."""

    id: PatientId
    label: int
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        assert self.label in {0, 1}
        assert self.records


@dataclass(frozen=True)
class Source:
    """Where records come from and what may be said about them, printed beside every result."""

    name: str
    title: str
    synthetic: bool
    unit: Literal["patient", "image"]
    """What one ``Patient`` really is. ``image`` where the source names no patients."""
    modality: Literal["image", "table", "volume"]
    task: str
    positive: str
    negative: str
    licence: str
    note: str


@dataclass(frozen=True)
class StudyData:
    """The records of one study: who is at which site, who is held out, and the input's shape."""

    source: Source
    sites: Mapping[SiteId, tuple[Patient, ...]]
    test: tuple[Patient, ...]
    input_shape: tuple[int, ...]
    """``(1, 64, 64)`` for images, ``(features,)`` for tables, ``(1, *grid)`` for volumes."""
    test_homes: Mapping[PatientId, SiteId] = field(default_factory=dict)
    """The hospital each held-out patient is from, where the source has hospitals of its own."""

    def test_by_site(self) -> dict[SiteId, tuple[Patient, ...]]:
        """Return the held-out patients of each natural site; empty where sites are made up."""
        found: dict[SiteId, list[Patient]] = {}
        for patient in self.test:
            if patient.id in self.test_homes:
                found.setdefault(self.test_homes[patient.id], []).append(patient)
        return {site: tuple(found[site]) for site in self.sites if site in found}

    def __post_init__(self) -> None:
        places: dict[PatientId, str] = {}
        groups = [*self.sites.items(), ("the test set", self.test)]
        for place, patients in groups:
            for patient in patients:
                other = places.setdefault(patient.id, place)
                if other != place:
                    raise PatientInTwoPlaces([other, place])
            assert len({patient.id for patient in patients}) == len(patients)


@dataclass(frozen=True)
class Arrays:
    """Records ready for a network, in the order of the patients they were asked for."""

    x: NDArray[np.float32]
    """``(records, *input_shape)``."""
    y: NDArray[np.int64]
    """``(records,)``, 0 or 1: the label of the record's patient; of volumes ``(records, *grid)``,
    the class of each voxel."""
    patient: NDArray[np.int64]
    """``(records,)``: the position of the record's patient in the sequence that was loaded."""


class Loader(Protocol):
    """Turns patients into arrays. It opens the records of these patients and no other file."""

    def load(self, patients: Sequence[Patient]) -> Arrays:
        """Return the arrays of ``patients``; raises a RecordError for a record that is not well."""
        ...


def patient_digest(patient: Patient) -> int:
    """Return the number below ``2**248`` that stands for all records of ``patient`` in a proof.

    It is the first 31 bytes, big endian, of the SHA-256 of her records' sorted digests, and so
    fits a field of 254 bits (BN254) without reduction.
    """
    together = b"".join(sorted(record.digest for record in patient.records))
    return int.from_bytes(hashlib.sha256(together).digest()[:31], "big")


def arrays_of(
    patients: Sequence[Patient],
    read: Callable[[Any], NDArray[np.float32]],
    input_shape: tuple[int, ...],
) -> Arrays:
    """Read every record of every patient with ``read`` and stack the results."""
    import numpy as np  # noqa: PLC0415 - ids and digests must not cost a process numpy's import

    rows = [
        (read(record), patient.label, index)
        for index, patient in enumerate(patients)
        for record in patient.records
    ]
    x = np.zeros((len(rows), *input_shape), dtype=np.float32)
    for index, (values, _, _) in enumerate(rows):
        x[index] = values
    return Arrays(
        x=x,
        y=np.array([label for _, label, _ in rows], dtype=np.int64),
        patient=np.array([position for _, _, position in rows], dtype=np.int64),
    )
