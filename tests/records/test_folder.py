"""A folder of images that opens is a study: every image once, every patient in one place."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from records.dataset import PatientInTwoPlaces
from records.files import FileTruncated, NotAnImage
from records.folder import LabelAbsent, TestSetOneSided, read_folder
from records.image import ImageLoader
from records.split import TooFewPatients


def everyone(study):
    return [*(patient for site in study.sites.values() for patient in site), *study.test]


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_image_belongs_to_one_patient_in_one_place(plain_study, seed, sites):
    study = read_folder(plain_study, sites=sites, seed=seed)
    files = [record.path.name for patient in everyone(study) for record in patient.records]
    assert sorted(files) == sorted(f"{number}.png" for number in range(40))
    assert len({patient.id for patient in everyone(study)}) == 40
    assert len(study.sites) == sites
    assert len(study.test) == 8
    assert sum(patient.label for patient in study.test) == 4
    assert study == read_folder(plain_study, sites=sites, seed=seed)


def test_a_folder_that_names_no_patients_says_so(plain_study):
    source = read_folder(plain_study, seed=1).source
    assert source.unit == "image"
    assert not source.synthetic
    assert "each image counts as a patient" in source.note
    assert source.task == "malignant against benign"


def test_the_records_load(plain_study):
    study = read_folder(plain_study, seed=1)
    assert ImageLoader().load(study.test).x.shape == (8, *study.input_shape)


def test_progress_is_told_of_every_image(plain_study):
    told = []
    read_folder(plain_study, seed=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 40) for done in range(1, 41)]


def named(make_study, folder, rows, columns="file,label,patient,site,split"):
    return make_study(folder, columns, rows)


def test_natural_sites_patients_and_split_are_kept(tmp_path, make_study):
    rows = [
        "a.png,malignant,p1,west,train",
        "b.png,benign,p1,west,train",
        "c.png,benign,p2,east,train",
        "d.png,benign,p3,west,test",
        "e.png,malignant,p4,east,test",
    ]
    study = read_folder(named(make_study, tmp_path, rows), seed=1)
    placed = {site: [patient.id for patient in there] for site, there in study.sites.items()}
    assert placed == {"west": ["p1"], "east": ["p2"]}
    assert [(patient.id, patient.label) for patient in study.test] == [("p3", 0), ("p4", 1)]
    both = study.sites["west"][0]
    assert both.label == 1, "a patient is positive if any of her images is"
    assert [record.path.name for record in both.records] == ["a.png", "b.png"]
    assert study.source.unit == "patient"


def test_every_natural_site_gives_its_share_to_the_test(tmp_path, make_study):
    rows = [
        f"{site}{number}.png,{('benign', 'malignant')[number % 2]},{site}{number},{site}"
        for site in ("west", "east")
        for number in range(20)
    ]
    study = read_folder(named(make_study, tmp_path, rows, "file,label,patient,site"), seed=1)
    assert {site: len(there) for site, there in study.sites.items()} == {"west": 16, "east": 16}
    assert sum(patient.id.startswith("west") for patient in study.test) == 4


def test_a_site_of_one_class_is_kept(tmp_path, make_study):
    rows = [f"w{number}.png,malignant,w{number},west" for number in range(10)]
    rows += [f"e{number}.png,benign,e{number},east" for number in range(10)]
    study = read_folder(named(make_study, tmp_path, rows, "file,label,patient,site"), seed=1)
    assert {patient.label for patient in study.sites["west"]} == {1}


def test_images_equal_byte_for_byte_are_one_patient_where_none_is_named(plain_study):
    (plain_study / "0.png").write_bytes((plain_study / "1.png").read_bytes())
    study = read_folder(plain_study, seed=1)
    assert len(everyone(study)) == 39
    (joined,) = [patient for patient in everyone(study) if patient.id == "0"]
    assert len(joined.records) == 1
    assert joined.label == 1
    assert "count once (1)" in study.source.note


def test_files_of_one_name_in_two_folders_are_two_patients(tmp_path, make_study):
    rows = [f"{label}/{n}.png,{label}" for label in ("benign", "malignant") for n in range(15)]
    study = read_folder(make_study(tmp_path, "file,label", rows), sites=2, seed=1)
    assert len({patient.id for patient in everyone(study)}) == 30


def test_a_patient_at_two_sites_is_refused(tmp_path, make_study):
    rows = ["a.png,malignant,p1,west,train", "b.png,benign,p1,east,train"]
    with pytest.raises(PatientInTwoPlaces) as refusal:
        read_folder(named(make_study, tmp_path, rows), seed=1)
    assert "p1" not in str(refusal.value)


def test_a_patient_both_trained_and_tested_on_is_refused(tmp_path, make_study):
    rows = ["a.png,malignant,p1,west,train", "b.png,benign,p1,west,test"]
    with pytest.raises(PatientInTwoPlaces):
        read_folder(named(make_study, tmp_path, rows), seed=1)


def test_a_positive_label_that_is_nowhere_is_refused(plain_study):
    with pytest.raises(LabelAbsent, match="benign, malignant"):
        read_folder(plain_study, seed=1, positive="tumour")


def test_a_folder_of_one_label_is_refused(tmp_path, make_study):
    folder = make_study(tmp_path, "file,label", ["a.png,malignant", "b.png,malignant"])
    with pytest.raises(LabelAbsent):
        read_folder(folder, seed=1)


def test_a_test_set_of_one_class_is_refused(tmp_path, make_study):
    rows = ["a.png,malignant,p1,west,train", "b.png,benign,p2,west,test"]
    with pytest.raises(TestSetOneSided):
        read_folder(named(make_study, tmp_path, rows), seed=1)


def test_more_sites_than_the_patients_can_fill_are_refused(plain_study):
    with pytest.raises(TooFewPatients):
        read_folder(plain_study, sites=9, seed=1)


def test_a_study_with_nobody_to_train_on_is_refused(tmp_path, make_study):
    rows = ["a.png,malignant,p1,west,test", "b.png,benign,p2,west,test"]
    with pytest.raises(TooFewPatients):
        read_folder(named(make_study, tmp_path, rows), seed=1)


def test_an_image_cut_short_is_found_when_the_folder_is_opened(plain_study):
    path = plain_study / "7.png"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileTruncated, match=r"7\.png"):
        read_folder(plain_study, seed=1)


def test_a_file_that_is_no_image_is_found_when_the_folder_is_opened(plain_study):
    (plain_study / "7.png").write_text("not a picture")
    with pytest.raises(NotAnImage, match=r"7\.png"):
        read_folder(plain_study, seed=1)


def test_real_breast_ultrasound_opens_unchanged(real):
    study = read_folder(real("busi_breast_us"), seed=7)
    # 780 files, of which two are the same picture.
    assert len(everyone(study)) == 779
    assert sum(patient.label for patient in everyone(study)) == 210
    assert len(study.sites) == 6
    assert min(len(there) for there in study.sites.values()) >= 30
    assert len(study.test) == 156
    assert study.source.unit == "image"
    assert study.source.task == "malignant against benign and normal"


def test_held_out_patients_are_told_apart_by_natural_sites_and_only_by_them(tmp_path, make_study):
    rows = [
        f"{number}.png,{('benign', 'malignant')[number % 2]},{('north', 'south')[number // 20]}"
        for number in range(40)
    ]
    data = read_folder(make_study(tmp_path, "file,label,site", rows), seed=1)
    found = data.test_by_site()
    assert set(found) == {"north", "south"}
    assert sorted(one.id for members in found.values() for one in members) == sorted(
        one.id for one in data.test
    )


def test_made_up_sites_have_no_held_out_patients_of_their_own(plain_study):
    assert read_folder(plain_study, seed=1).test_by_site() == {}
