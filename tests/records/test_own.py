"""A hospital's records are those of the study, opened without anybody else's."""

import nibabel as nib
import numpy as np
import pytest

from protocol.ids import SiteId
from records.dataset import PatientInTwoPlaces, SiteWithoutRecords, patient_digest
from records.folder import LabelAbsent
from records.manifest import ManifestMissing
from records.own import Divided, open_site_records
from records.phantom import write_own_phantom, write_phantom
from records.sources import SourceMissing, SourceUnknown, open_source
from records.tables import TableMalformed
from records.volumes import CasesWithoutSite, VolumesMissing

COLUMNS = "file,label,patient,site,split"
ROWS = [
    f"{site}/{number}.png,{label},{site}-{split}-{number % 4},{site},{split}"
    for site in ("north", "south")
    for split, numbers in (("train", range(16)), ("test", range(16, 24)))
    for number in numbers
    for label in (("benign", "malignant")[number % 2],)
]
NORTH = SiteId("north")


def known_by(patients):
    """Return what grants and proofs know a patient by."""
    return {one.id: (one.label, patient_digest(one)) for one in patients}


def same(own, study, site):
    """See that a hospital's records are the study's at this site."""
    assert known_by(own.patients.values()) == known_by(study.sites[site])
    assert list(own.patients) == [one.id for one in study.sites[site]]
    assert own.input_shape == study.input_shape
    assert own.modality == study.source.modality
    first = list(own.patients.values())[:2]
    assert own.loader.load(first).x.shape[1:] == own.input_shape


def only_opened(monkeypatch, module):
    """Return the list into which the files that a module opens are written."""
    opened = []
    real = module.read_bytes

    def read(path, **options):
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(module, "read_bytes", read)
    return opened


def test_of_a_shared_folder_only_this_hospitals_rows_are_opened(tmp_path, make_study, monkeypatch):
    from records import folder as module

    folder = make_study(tmp_path / "shared", COLUMNS, ROWS)
    study, _ = open_source(str(folder), home=tmp_path, seed=1)
    opened = only_opened(monkeypatch, module)
    same(open_site_records(str(folder), NORTH), study, NORTH)
    assert {path.relative_to(folder).as_posix() for path in opened} == {
        f"north/{number}.png" for number in range(16)
    }


def test_files_of_one_name_at_two_hospitals_are_named_as_in_the_whole(tmp_path, make_study):
    rows = [
        f"{site}/{number}.png,{('benign', 'malignant')[number % 2]},{site},{split}"
        for split, numbers in (("train", range(6)), ("test", range(6, 9)))
        for site in ("north", "south")
        for number in numbers
    ]
    folder = make_study(tmp_path / "shared", "file,label,site,split", rows)
    study, _ = open_source(str(folder), home=tmp_path, seed=1)
    for site in study.sites:
        same(open_site_records(str(folder), site), study, site)


def test_a_folder_that_names_no_site_is_the_hospitals_whole(tmp_path, make_study):
    rows = [",".join(row.split(",")[:3]) for row in ROWS if ",north," in row]
    folder = make_study(tmp_path / "own", "file,label,patient", rows)
    own = open_site_records(str(folder), NORTH)
    assert len(own.patients) == 8
    assert sum(len(one.records) for one in own.patients.values()) == 24


def test_images_are_progress(tmp_path, make_study):
    told = []
    folder = make_study(tmp_path / "own", COLUMNS, ROWS)
    open_site_records(str(folder), NORTH, progress=lambda *step: told.append(step))
    assert told == [(done, 16) for done in range(1, 17)]


def test_another_label_counts_where_it_is_named(tmp_path, make_study):
    folder = make_study(tmp_path / "own", COLUMNS, ROWS)
    own = open_site_records(str(folder), NORTH, positive="benign")
    usual = open_site_records(str(folder), NORTH)
    for patient, one in own.patients.items():
        assert one.label == 1 - usual.patients[patient].label
    with pytest.raises(LabelAbsent, match="lesion"):
        open_site_records(str(folder), NORTH, positive="lesion")


def test_a_hospital_without_rows_is_told_so(tmp_path, make_study):
    folder = make_study(tmp_path / "shared", COLUMNS, ROWS)
    with pytest.raises(SiteWithoutRecords, match="site east"):
        open_site_records(str(folder), SiteId("east"))


@pytest.mark.parametrize(
    "other",
    ["late.png,benign,north-train-0,south,train", "late.png,benign,north-train-0,north,test"],
)
def test_a_patient_of_two_places_is_refused(tmp_path, make_study, other):
    folder = make_study(tmp_path / "shared", COLUMNS, [*ROWS, other])
    with pytest.raises(PatientInTwoPlaces):
        open_site_records(str(folder), NORTH)


def test_a_words_part_needs_to_be_divided(tmp_path):
    for word in ("phantom", "wisconsin"):
        with pytest.raises(SourceUnknown, match="no hospital's own"):
            open_site_records(word, NORTH)
    with pytest.raises(SourceMissing):
        open_site_records(str(tmp_path / "gone"), NORTH)


def test_a_divided_table_gives_each_hospital_its_part(tmp_path):
    study, _ = open_source("wisconsin", home=tmp_path, seed=5, sites=3)
    divided = Divided(seed=5, sites=3)
    for site in study.sites:
        same(open_site_records("wisconsin", site, divided=divided), study, site)
    with pytest.raises(SiteWithoutRecords, match="site south"):
        open_site_records("wisconsin", SiteId("south"), divided=divided)


def test_a_divided_folder_gives_each_hospital_its_part(tmp_path, plain_study):
    study, _ = open_source(str(plain_study), home=tmp_path, seed=2, sites=3)
    for site in study.sites:
        own = open_site_records(str(plain_study), site, divided=Divided(seed=2, sites=3))
        same(own, study, site)


def test_one_hospital_draws_its_own_part_of_the_synthetic_study(tmp_path):
    parameters = {"sites": 2, "patients_per_site": 6, "seed": 4}
    study = write_phantom(tmp_path / "phantom", **parameters, test_patients=4)
    whole, told = str(tmp_path / "phantom"), []
    for site in study.sites:
        drawn = tmp_path / site
        write_own_phantom(drawn, site, **parameters, progress=lambda *step: told.append(step))
        same(open_site_records(str(drawn), site, positive="lesion"), study, site)
        same(open_site_records(whole, site, positive="lesion"), study, site)
        assert {one.name for one in drawn.iterdir()} == {site, "manifest.csv", "phantom.json"}
    assert told == 2 * [(done, 18) for done in range(1, 19)]
    write_own_phantom(tmp_path / "north", NORTH, **parameters, progress=pytest.fail)
    with pytest.raises(SiteWithoutRecords, match="site lakeside"):
        write_own_phantom(tmp_path / "none", SiteId("lakeside"), sites=2, seed=4)


HEALTHY = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
ILL = "67,1,4,160,0,?,2,108,1,1.5,2,?,?,2"


def test_one_hospitals_table_is_enough(tmp_path):
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        lines = "\n".join([HEALTHY] * 6 + [ILL] * 6) + "\n"
        (tmp_path / f"processed.{name}.data").write_text(lines)
    study, _ = open_source(str(tmp_path), home=tmp_path, seed=1)
    for name in ("hungarian", "switzerland", "va"):
        (tmp_path / f"processed.{name}.data").unlink()
    own = open_site_records(str(tmp_path), SiteId("cleveland"))
    assert len(own.patients) == 12  # nobody is held out here
    whole = known_by(own.patients.values())
    trained = known_by(study.sites[SiteId("cleveland")])
    assert trained.items() <= whole.items()
    assert own.loader.load(list(own.patients.values())).x.shape == (12, *own.input_shape)
    with pytest.raises(SiteWithoutRecords):
        open_site_records(str(tmp_path), SiteId("va"))
    (tmp_path / "processed.cleveland.data").write_text("\n")
    with pytest.raises(TableMalformed, match="empty"):
        open_site_records(str(tmp_path), SiteId("cleveland"))


@pytest.fixture
def volumes(tmp_path):
    for number in range(6):
        for part in ("images", "labels"):
            path = tmp_path / part / f"case-{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            voxels = np.zeros((4, 4, 4), dtype=np.uint8)
            voxels[1:3, 1:3, 1:3] = 1
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return tmp_path


def test_a_hospitals_volumes_are_all_its_own_or_those_its_manifest_names(volumes):
    whole = open_site_records(str(volumes), NORTH)
    assert list(whole.patients) == [f"case-{number}" for number in range(6)]
    rows = [f"case-{number},{('north', 'south')[number % 2]}" for number in range(6)]
    (volumes / "manifest.csv").write_text("\n".join(["id,site", *rows]) + "\n")
    study, _ = open_source(str(volumes), home=volumes, seed=1)
    north = open_site_records(str(volumes), NORTH)
    assert list(north.patients) == ["case-0", "case-2", "case-4"]
    trained = known_by(study.sites[NORTH])
    assert trained.items() <= known_by(north.patients.values()).items()
    with pytest.raises(SiteWithoutRecords):
        open_site_records(str(volumes), SiteId("east"))
    (volumes / "manifest.csv").write_text("\n".join(["id,site", *rows[:-1]]) + "\n")
    with pytest.raises(CasesWithoutSite):
        open_site_records(str(volumes), NORTH)


def test_a_volume_without_its_mask_is_refused(volumes):
    (volumes / "labels" / "case-3.nii.gz").unlink()
    with pytest.raises(VolumesMissing, match="no mask"):
        open_site_records(str(volumes), NORTH)


def test_a_folder_without_its_manifest_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises((SourceUnknown, ManifestMissing)):
        open_site_records(str(tmp_path), NORTH)
