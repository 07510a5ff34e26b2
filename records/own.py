"""Open one hospital's records: its own folder, or its part of what a demonstration divides.

============== ==================================================================================
named          the hospital's
============== ==================================================================================
a folder       with ``manifest.csv``: all rows, or where it has a column ``site`` those of this
               site, but no row for the test; with volumes: all, or those of this site; with heart
               tables: ``processed.SITE.data`` alone
``divided``    its part of whatever ``records.sources`` opens, drawn for a demonstration
============== ==================================================================================

A hospital holds nothing out: what a study is judged by lies elsewhere.

What holds, each line a test in tests/records/test_own.py:

1. Patients have the numbers and digests that ``open_source`` gives them: grants and proofs match.
2. No record of another hospital is opened, and none for the test is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from protocol.ids import PatientId, SiteId
from records.dataset import SiteWithoutRecords
from records.folder import read_own_folder
from records.image import INPUT_SHAPE, ImageLoader
from records.sources import PHANTOM, WISCONSIN_NAME, SourceUnknown, modality_of, open_source
from records.tables import HEART, TableLoader, read_own_heart, width
from records.volumes import GRID, VolumeLoader, read_own_volumes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from records.dataset import Loader, Patient, Progress


@dataclass(frozen=True)
class Divided:
    """How a demonstration divides records that are no hospital's own."""

    seed: int
    sites: int


@dataclass(frozen=True)
class OwnRecords:
    """One hospital's records: patients by its own number, and what reads them."""

    patients: Mapping[PatientId, Patient]
    loader: Loader
    input_shape: tuple[int, ...]
    modality: Literal["image", "table", "volume"]


def open_site_records(
    spec: str,
    site: SiteId,
    *,
    positive: str = "malignant",
    divided: Divided | None = None,
    progress: Progress | None = None,
) -> OwnRecords:
    """Return the records of ``site``, every one of them checked; nothing is written.

    Args:
        spec: A folder, or with ``divided`` also ``wisconsin``.
        site: The hospital.
        positive: The label told apart from all others, where the records are images.
        divided: Set in a demonstration on records that are no hospital's own.
        progress: Called with the steps done and the steps in all, where reading takes time.

    Raises:
        SiteWithoutRecords: None is this hospital's.
        SourceUnknown: The word stands for no hospital's records; see ``write_own_phantom``.
        SourceMissing, RecordError: As ``records.sources.open_source``.
    """
    if spec == PHANTOM or (spec == WISCONSIN_NAME and divided is None):
        raise SourceUnknown(spec, "is no hospital's own")
    modality = modality_of(spec)
    if divided is not None:
        return _part(spec, site, divided, progress)
    path = Path(spec).expanduser()
    if modality == "image":
        own = read_own_folder(path, site, positive=positive, progress=progress)
        return OwnRecords(_by_id(own), ImageLoader(), INPUT_SHAPE, modality)
    if modality == "volume":
        own = read_own_volumes(path, site, progress=progress)
        return OwnRecords(_by_id(own), VolumeLoader(), (1, *GRID), modality)
    own = read_own_heart(path, site)
    return OwnRecords(_by_id(own), TableLoader(HEART), (width(HEART),), modality)


def _part(spec: str, site: SiteId, divided: Divided, progress: Progress | None) -> OwnRecords:
    study, loader = open_source(
        spec, home=Path(spec), seed=divided.seed, sites=divided.sites, progress=progress
    )
    if site not in study.sites:
        raise SiteWithoutRecords(site, study.source.name)
    source = study.source
    return OwnRecords(_by_id(study.sites[site]), loader, study.input_shape, source.modality)


def _by_id(patients: tuple[Patient, ...]) -> dict[PatientId, Patient]:
    return {patient.id: patient for patient in patients}
