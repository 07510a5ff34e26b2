"""Open whatever records a person names on the command line.

============== ==================================================================================
named          opened
============== ==================================================================================
``phantom``    the synthetic study, written below ``home`` on first use (``records.phantom``)
``wisconsin``  scikit-learn's packaged table (``records.tables``)
a folder       with NIfTI files below ``images`` and ``labels``: volumes with masks
               (``records.volumes``); with ``manifest.csv``: images (``records.folder``); with
               ``processed.*.data``: the four hospitals' heart table (``records.tables``)
============== ==================================================================================

The words win over folders of the same name; write ``./phantom`` for the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from protocol.errors import RecordError
from records.folder import read_folder
from records.image import ImageLoader
from records.manifest import MANIFEST
from records.phantom import PATIENTS_PER_SITE, write_phantom
from records.split import SITES_MAX
from records.tables import HEART, WISCONSIN, TableLoader, read_heart, read_wisconsin
from records.volumes import VolumeLoader, holds_volumes, read_volumes

if TYPE_CHECKING:
    from records.dataset import Loader, Progress, StudyData

PHANTOM: Final = "phantom"
WISCONSIN_NAME: Final = "wisconsin"
PACKAGED: Final = frozenset({PHANTOM, WISCONSIN_NAME})
"""The words: what can be opened without a path."""
DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom", ".ima"})


class SourceMissing(RecordError):
    """Neither a word we know nor a path that is there."""

    code = "source-missing"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        super().__init__(
            f"there are no records at {spec!r}; name a folder that is there, or {PHANTOM} or "
            f"{WISCONSIN_NAME}"
        )


class SourceUnknown(RecordError):
    """The path is there, and nothing in it says how to read it."""

    code = "source-unknown"

    def __init__(self, spec: str, reason: str) -> None:
        self.spec = spec
        self.reason = reason
        super().__init__(
            f"{spec!r} {reason}; name a folder with {MANIFEST} (columns file and label, and if "
            "known patient, site and split), with NIfTI files below images and labels, or with the "
            "four processed.HOSPITAL.data tables"
        )


class SitesOutOfRange(RecordError):
    """That many sites cannot make a study."""

    code = "sites-out-of-range"

    def __init__(self, sites: int) -> None:
        self.sites = sites
        super().__init__(f"{sites} sites cannot be made; ask for 1 to {SITES_MAX}")


def open_source(
    spec: str,
    *,
    home: Path,
    seed: int,
    sites: int = 6,
    patients_per_site: int = PATIENTS_PER_SITE,
    progress: Progress | None = None,
) -> tuple[StudyData, Loader]:
    """Return the study that ``spec`` names and the loader that opens its records.

    Args:
        spec: A word or a path, as in the table above.
        home: Where files that are made here are kept; nothing else is written.
        seed: Decides every draw.
        sites: How many, where the source has none of its own.
        patients_per_site: Of the synthetic study.
        progress: Called with the steps done and the steps in all, where reading takes time.

    Raises:
        SourceMissing, SourceUnknown, SitesOutOfRange: As the names say.
        StorageError: The synthetic study could not be written.
        RecordError: The source is not what it says; see the readers.
    """
    if not 1 <= sites <= SITES_MAX:
        raise SitesOutOfRange(sites)
    if spec == PHANTOM:
        study = write_phantom(
            home / PHANTOM,
            sites=sites,
            patients_per_site=patients_per_site,
            seed=seed,
            progress=progress,
        )
        return study, ImageLoader()
    if spec == WISCONSIN_NAME:
        return read_wisconsin(sites=sites, seed=seed), TableLoader(WISCONSIN)
    return _open_path(spec, sites=sites, seed=seed, progress=progress)


def modality_of(spec: str) -> Literal["image", "table", "volume"]:
    """Return what kind of records ``spec`` names; lists a folder at most and opens no record.

    Raises:
        SourceMissing, SourceUnknown: As for ``open_source``.

    Examples:
        >>> modality_of("phantom"), modality_of("wisconsin")
        ('image', 'table')
    """
    if spec == PHANTOM:
        return "image"
    if spec == WISCONSIN_NAME:
        return "table"
    return _modality_of_folder(spec)


def _open_path(
    spec: str, *, sites: int, seed: int, progress: Progress | None
) -> tuple[StudyData, Loader]:
    path = Path(spec).expanduser()
    modality = _modality_of_folder(spec)
    if modality == "volume":
        return read_volumes(path, seed=seed, sites=sites, progress=progress), VolumeLoader()
    if modality == "image":
        return read_folder(path, sites=sites, seed=seed, progress=progress), ImageLoader()
    return read_heart(path, seed=seed), TableLoader(HEART)


def _modality_of_folder(spec: str) -> Literal["image", "table", "volume"]:
    """Tell a folder of volumes, images or tables from another by the names in it."""
    try:
        names = [entry.name for entry in Path(spec).expanduser().iterdir()]
    except NotADirectoryError as error:
        raise SourceUnknown(spec, "is not a folder") from error
    except FileNotFoundError as error:
        raise SourceMissing(spec) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceUnknown(spec, "cannot be opened") from error
    if "labels" in names and holds_volumes(Path(spec).expanduser()):
        return "volume"
    if MANIFEST in names:
        return "image"
    if any(name.startswith("processed.") and name.endswith(".data") for name in names):
        return "table"
    if any(Path(name).suffix.lower() in DICOM_SUFFIXES for name in names):
        raise SourceUnknown(spec, "holds DICOM files but no table that says what they show")
    raise SourceUnknown(spec, "holds nothing that can be read as a study")
