"""Set a hospital up: check its records and what the server handed over, and write ``site.json``.

What a hospital trusts is pinned once, by people: the registry's key by its fingerprint, read out by
telephone, and the rest because the study's terms, which name it, are of that registry. The file is
written last, so a folder that has it is set up whole; setting up again writes all of it anew.

What holds, each line a test in tests/portal/test_site_setup.py:

1. A study's folder that is cut, of other keys than its terms name, or of a registry whose key is
   not the one read out, sets nothing up.
2. A study that does not name this hospital by its keys, or takes other records than it has, sets
   nothing up.
3. Set up twice, the folder is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from consent.purposes import category_mask
from identity.requests import check_fingerprint, read_bounded
from portal.site_settings import (
    FOR_SITES,
    PROVING_KEY,
    SETTINGS,
    TERMS,
    VERIFICATION_KEY,
    Packaged,
    SiteOwn,
    proof_files,
    registry_digest,
    registry_fingerprint,
    site_keys,
)
from privacy.cohorts import EVERYONE
from protocol.errors import ConfigurationError, FederationError, RecordError
from protocol.ids import SiteId
from protocol.terms import StudyTerms
from records.own import Divided, OwnRecords, open_site_records
from records.phantom import LABELS, PATIENTS_PER_SITE, write_own_phantom
from records.sources import PHANTOM, WISCONSIN_NAME, SourceUnknown, modality_of
from storage.files import link_or_copy, private_folder
from zk.keys import KeyMalformed, VerificationKey

if TYPE_CHECKING:
    from portal.home import Home, Settings
    from records.dataset import Progress, StudyData

TERMS_BYTES_MAX: Final = 2**20
RECORDS: Final = "records"
"""Below the hospital's folder: what is drawn for a demonstration."""


class StudyFolderUnusable(ConfigurationError):
    """What a server handed over for its hospitals is not whole, or does not belong together."""

    code = "study-folder-unusable"

    def __init__(self, folder: Path, why: str) -> None:
        self.folder = folder
        super().__init__(
            f"{folder} cannot be used: {why}; ask the server's operator for the folder "
            f"{FOR_SITES} anew"
        )


class SiteNotInStudy(FederationError):
    """A study does not name this hospital by the keys it has."""

    code = "site-not-in-study"

    def __init__(self, study: str, site: str) -> None:
        self.study = study
        self.site = site
        super().__init__(
            f"study {study} does not name site {site} by its present keys; ask the server's "
            "operator to found it with this site, or restore the keys it was admitted with"
        )


class RecordsUnlikeStudy(RecordError):
    """The hospital's records are of another kind than the study takes."""

    code = "records-unlike-study"

    def __init__(self, study: str, what: str) -> None:
        self.study = study
        super().__init__(
            f"study {study} takes other records: {what}; name the records it asks for, or do not "
            "take part"
        )


@dataclass(frozen=True)
class Holding:
    """What a hospital says it has.

    Attributes:
        records: A folder, or in a demonstration ``phantom`` or ``wisconsin``.
        positive: The label told apart from all others, where the records are images.
        divided: Which part of what, in a demonstration on records that are no hospital's own.
        patients: How many are drawn of the synthetic study.
        registry_reader: The registry's database, where this machine has it.
        researcher: For whom epsilon is spent; empty for who holds the server's key.
        budget_cohort: On whom it is spent.
    """

    records: str
    positive: str = "malignant"
    divided: Divided | None = None
    patients: int = PATIENTS_PER_SITE
    registry_reader: Path | None = None
    researcher: str = ""
    budget_cohort: str = EVERYONE


@dataclass(frozen=True)
class SetUp:
    """A hospital that was set up: its settings, the study's terms, and its records if read."""

    own: SiteOwn
    terms: StudyTerms
    records: OwnRecords | None


def set_up(
    folder: Path,
    site: SiteId,
    holding: Holding,
    study: Path,
    *,
    fingerprint: str,
    read: bool = True,
    progress: Progress | None = None,
) -> SetUp:
    """Check everything that ``site`` needs for a study, and keep it in its folder.

    Args:
        folder: The hospital's own, which holds its keys.
        site: Its name.
        holding: What it has.
        study: The folder ``for-sites`` that the server handed over; hostile.
        fingerprint: Of the registry's key, as the server's operator read it out.
        read: Read every record now; False where the caller has just done so.
        progress: Called with the records read and the records in all.

    Raises:
        StudyFolderUnusable, FingerprintDiffers, SiteNotInStudy, RecordsUnlikeStudy: As the names
            say.
        SiteKeysMissing, SiteKeysUnreadable: The hospital has no keys that can be used.
        RecordError: A record is not what it says; see ``records.own``.
        StorageError: The disk refused.
    """
    terms, verification_key = read_study(study)
    check_fingerprint(
        fingerprint, registry_digest(terms.consent.registry_key), what="registry's key"
    )
    _check_named(terms, site, folder)
    if holding.records == PHANTOM:
        holding = _drawn(folder, site, holding, progress)
    own = _settings(folder, site, holding, terms)
    records = None
    if read:
        records = open_own(folder, own, progress)
        _check_like(terms, records)
    proving, verifying = proof_files(folder)
    private_folder(proving.parent)
    link_or_copy(study / PROVING_KEY, proving)
    verification_key.save(verifying)
    own.save(folder)
    return SetUp(own, terms, records)


def open_own(folder: Path, own: SiteOwn, progress: Progress | None = None) -> OwnRecords:
    """Return the records that a hospital's settings name, every one of them checked.

    Raises:
        RecordError: They are not there, or are not what they say.
    """
    spec = own.records if own.records == WISCONSIN_NAME else str(folder / own.records)
    packaged = own.packaged
    divided = None if packaged is None else Divided(packaged.seed, packaged.sites)
    return open_site_records(
        spec, own.site, positive=own.positive, divided=divided, progress=progress
    )


def read_study(study: Path) -> tuple[StudyTerms, VerificationKey]:
    """Return the terms and the verification key in a folder that a server handed over.

    Raises:
        StudyFolderUnusable: They are not there, cut, or not of each other.
    """
    missing = [
        name for name in (TERMS, VERIFICATION_KEY, PROVING_KEY) if not (study / name).is_file()
    ]
    if missing:
        raise StudyFolderUnusable(study, f"it has no {' and no '.join(missing)}")
    content = read_bounded(study / TERMS, limit=TERMS_BYTES_MAX)
    try:
        terms = StudyTerms.model_validate_json(content)
        verification_key = VerificationKey.load(study / VERIFICATION_KEY)
    except (ValidationError, KeyMalformed):
        raise StudyFolderUnusable(study, "its terms or its verification key are none") from None
    if verification_key.hash != terms.consent.key_hash:
        raise StudyFolderUnusable(study, "its verification key is not the one its terms name")
    return terms, verification_key


def set_up_demonstration(home: Home, settings: Settings, data: StudyData) -> None:
    """Set up every hospital of a demonstration that is not yet, from what its server hands out.

    The "telephone" is this function; that all records are well, whoever opened ``data`` has seen.

    Args:
        home: Where all parties are; its server's folder has ``for-sites``.
        settings: Of the run.
        data: The study's records.
    """
    study = home.server / FOR_SITES
    terms, _ = read_study(study)
    drawn = settings.data == PHANTOM
    holding = Holding(
        records=str((home.data / PHANTOM).resolve()) if drawn else settings.data,
        positive=LABELS[1] if drawn else Holding.positive,
        divided=None if drawn else Divided(settings.seed, settings.sites),
        registry_reader=(home.server / "registry.db").resolve(),
    )
    for site in sorted(data.sites):
        if (home.site(site) / SETTINGS).is_file():
            continue
        set_up(
            home.site(site),
            site,
            holding,
            study,
            fingerprint=registry_fingerprint(terms.consent.registry_key),
            read=False,
        )


def _check_named(terms: StudyTerms, site: SiteId, folder: Path) -> None:
    keys = site_keys(folder)
    identity = terms.identity(site)
    known = (keys.signing_public, keys.agreement_public)
    if identity is None or (identity.signing_key, identity.agreement_key) != known:
        raise SiteNotInStudy(terms.study, site)


def _drawn(folder: Path, site: SiteId, holding: Holding, progress: Progress | None) -> Holding:
    """Draw the hospital's part of the synthetic study; name what was drawn."""
    if holding.divided is None:
        raise SourceUnknown(holding.records, "is no hospital's own")
    write_own_phantom(
        folder / RECORDS,
        site,
        sites=holding.divided.sites,
        patients_per_site=holding.patients,
        seed=holding.divided.seed,
        progress=progress,
    )
    return replace(holding, records=str(folder / RECORDS), positive=LABELS[1], divided=None)


def _settings(folder: Path, site: SiteId, holding: Holding, terms: StudyTerms) -> SiteOwn:
    consent, spec, divided = terms.consent, holding.records, holding.divided
    modality = modality_of(spec)
    if not consent.required & category_mask([modality]):
        raise RecordsUnlikeStudy(terms.study, f"it asks for no consent to a {modality}")
    if spec != WISCONSIN_NAME:
        spec = _place(Path(spec).expanduser().resolve(), folder.resolve())
    reader = holding.registry_reader
    return SiteOwn(
        site=site,
        records=spec,
        dataset=consent.dataset,
        modality=modality,
        positive=holding.positive,
        packaged=None if divided is None else Packaged(seed=divided.seed, sites=divided.sites),
        registry=consent.registry,
        registry_key=consent.registry_key,
        circuit=consent.circuit,
        key_hash=consent.key_hash,
        registry_reader=None if reader is None else str(reader),
        researcher=holding.researcher,
        budget_cohort=holding.budget_cohort,
    )


def _place(records: Path, folder: Path) -> str:
    """Name records below the hospital's folder from there, so that both can be moved together."""
    return str(records.relative_to(folder) if records.is_relative_to(folder) else records)


def _check_like(terms: StudyTerms, records: OwnRecords) -> None:
    training = terms.training
    wanted = training.input_shape if training.features is None else training.features.input_shape
    if records.input_shape != wanted:
        shapes = f"each of shape {wanted}, and these are of {records.input_shape}"
        raise RecordsUnlikeStudy(terms.study, shapes)
