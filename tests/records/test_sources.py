"""What a person names is opened, or told apart from what it is not."""

import pytest

from records.image import ImageLoader
from records.sources import (
    PACKAGED,
    SitesOutOfRange,
    SourceMissing,
    SourceUnknown,
    modality_of,
    open_source,
)
from records.tables import TableLoader

pytestmark = pytest.mark.slow


def test_the_phantom_is_made_below_home_and_nowhere_else(tmp_path):
    study, loader = open_source(
        "phantom", home=tmp_path / "home", seed=1, sites=2, patients_per_site=3
    )
    assert isinstance(loader, ImageLoader)
    assert study.source.synthetic
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["phantom"]


def test_wisconsin_needs_no_file(tmp_path):
    study, loader = open_source("wisconsin", home=tmp_path, seed=1, sites=3)
    assert isinstance(loader, TableLoader)
    assert loader.load(study.test).x.shape[1:] == study.input_shape
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_manifest_is_a_folder_of_images(tmp_path, plain_study):
    study, loader = open_source(str(plain_study), home=tmp_path, seed=1, sites=2)
    assert isinstance(loader, ImageLoader)
    assert len(study.sites) == 2


def test_a_folder_of_hospital_tables_is_the_heart_study(tmp_path, real):
    study, loader = open_source(str(real("heart_disease_4sites")), home=tmp_path, seed=1)
    assert isinstance(loader, TableLoader)
    assert len(study.sites) == 4


@pytest.mark.parametrize("spec", ["nowhere", "", "phantoms"])
def test_a_path_that_is_not_there_is_missing(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceMissing, match="phantom or wisconsin"):
        open_source(spec or str(tmp_path / "gone"), home=tmp_path, seed=1)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceUnknown, match="not a folder"):
        open_source(str(tmp_path / "a.png"), home=tmp_path, seed=1)


def test_a_name_no_path_can_have_is_refused(tmp_path):
    with pytest.raises(SourceUnknown):
        open_source("a\0b", home=tmp_path, seed=1)


def test_dicom_files_without_a_manifest_are_told_what_is_expected(tmp_path):
    (tmp_path / "IM0001.dcm").write_bytes(b"")
    with pytest.raises(SourceUnknown, match=r"DICOM files but no table.*manifest\.csv"):
        open_source(str(tmp_path), home=tmp_path, seed=1)


def test_an_empty_folder_is_unknown(tmp_path):
    with pytest.raises(SourceUnknown, match="nothing that can be read"):
        open_source(str(tmp_path), home=tmp_path, seed=1)


@pytest.mark.parametrize("sites", [0, -1, 101])
def test_an_impossible_number_of_sites_is_refused(tmp_path, sites):
    with pytest.raises(SitesOutOfRange):
        open_source("wisconsin", home=tmp_path, seed=1, sites=sites)


@pytest.mark.parametrize("spec", sorted(PACKAGED))
def test_the_kind_of_packaged_records_is_known_before_they_are_opened(tmp_path, spec):
    study, _ = open_source(spec, home=tmp_path, seed=1, sites=2, patients_per_site=2)
    assert modality_of(spec) == study.source.modality


def test_the_kind_of_a_folder_is_told_by_the_names_in_it(tmp_path, plain_study):
    assert modality_of(str(plain_study)) == "image"
    (tmp_path / "processed.va.data").write_text("")
    assert modality_of(str(tmp_path)) == "table"
    with pytest.raises(SourceMissing):
        modality_of(str(tmp_path / "gone"))
