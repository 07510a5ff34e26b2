"""The synthetic study is the same every time, says what it is, and is written whole or again."""

import errno
import json
import os

import numpy as np
import pydicom
import pytest

from protocol.errors import DiskFull
from records import phantom
from records.bmode import SIDE, draw_view, scanner
from records.dicom import read_instance
from records.image import ImageLoader
from records.phantom import MARKER, write_phantom

pytestmark = pytest.mark.slow

SMALL = {"sites": 2, "patients_per_site": 6, "test_patients": 6, "seed": 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return folder, write_phantom(folder, **SMALL)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_same_parameters_give_the_same_bytes(written, tmp_path):
    folder, _ = written
    write_phantom(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(folder)


def test_another_seed_gives_other_pictures_and_uids(written, tmp_path):
    folder, _ = written
    write_phantom(tmp_path, **{**SMALL, "seed": 4})
    path = "north/SYN-north-0001-1.dcm"
    one, other = read_instance(folder / path), read_instance(tmp_path / path)
    assert one.sop_instance_uid != other.sop_instance_uid
    assert (one.pixels != other.pixels).any()


def test_a_second_call_writes_nothing(written):
    folder, study = written
    before = stamps(folder)
    assert write_phantom(folder, **SMALL) == study
    assert stamps(folder) == before


@pytest.mark.parametrize("damage", ["cut", "remove", "marker", "manifest"])
def test_a_damaged_folder_is_written_again(tmp_path, damage):
    study = write_phantom(tmp_path, **SMALL)
    whole = contents(tmp_path)
    victim = tmp_path / "harbour" / "SYN-harbour-0005-2.dcm"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-50])
    elif damage == "remove":
        victim.unlink()
    elif damage == "marker":
        (tmp_path / MARKER).write_text("{")
    else:
        (tmp_path / "manifest.csv").write_text("file,label\n../../x,lesion\n")
    assert write_phantom(tmp_path, **SMALL) == study
    assert contents(tmp_path) == whole


def test_other_parameters_replace_the_study(tmp_path):
    write_phantom(tmp_path, **SMALL)
    study = write_phantom(tmp_path, **{**SMALL, "patients_per_site": 4})
    assert [len(site) for site in study.sites.values()] == [4, 4]
    assert json.loads((tmp_path / MARKER).read_text())["patients_per_site"] == 4


def test_a_folder_of_an_older_drawing_is_noticed(tmp_path, monkeypatch):
    study = write_phantom(tmp_path, **SMALL)

    def darker(machine, *, lesion, generator):
        return draw_view(machine, lesion=lesion, generator=generator) // 2

    monkeypatch.setattr(phantom, "draw_view", darker)
    assert write_phantom(tmp_path, **SMALL) != study


def test_everyone_is_placed_with_three_views_and_both_labels(written):
    _, study = written
    assert list(study.sites) == ["north", "harbour"]
    assert [len(site) for site in study.sites.values()] == [6, 6]
    assert len(study.test) == 6
    assert sum(patient.label for patient in study.test) == 3
    everyone = [*study.test, *(patient for site in study.sites.values() for patient in site)]
    assert all(len(patient.records) == 3 for patient in everyone)
    assert study.source.synthetic
    assert study.source.note.startswith("SYNTHETIC")
    assert ImageLoader().load(study.test).x.shape == (18, 1, 64, 64)


def test_every_file_is_valid_ultrasound_and_says_that_it_is_synthetic(written):
    folder, _ = written
    paths = sorted(folder.rglob("*.dcm"))
    assert len(paths) == 54
    uids = set()
    for path in paths:
        image = pydicom.dcmread(path)
        assert image.SOPClassUID.name == "Ultrasound Image Storage"
        assert image.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert image.SOPInstanceUID.is_valid
        uids.add(image.SOPInstanceUID)
        assert "SYNTHETIC" in str(image.PatientName)
        assert "SYNTHETIC" in image.SeriesDescription
        assert "SYNTHETIC" in image.ImageComments
        assert image.PatientID.startswith("SYN-")
        assert image.QualityControlImage == "YES"
        pydicom.dcmwrite(os.devnull, image, enforce_file_format=True)
    assert len(uids) == len(paths)


def test_a_file_reads_back_as_it_was_drawn(written):
    _folder, study = written
    patient = study.sites["harbour"][0]
    generator = np.random.default_rng([3, phantom.VERSION, 1, 2, 0, 1])
    drawn = draw_view(scanner(1, 3), lesion=bool(patient.label), generator=generator)
    read = read_instance(patient.records[0].path)
    np.testing.assert_array_equal(read.pixels, drawn)
    assert read.patient_id == patient.id


def test_sites_differ_in_prevalence_for_any_number_of_sites():
    for sites in (2, 6, 12):
        shares = sorted(scanner(site, 1).prevalence for site in range(sites))
        assert 0.3 <= shares[0] < shares[-1] <= 0.7
        assert min(np.diff(shares)) > 0.1 / sites


def test_a_lesion_darkens_the_picture_and_stays_in_it():
    machine = scanner(0, 1)
    darkening = np.zeros((SIDE, SIDE))
    for seed in range(200):
        pair = [
            draw_view(machine, lesion=lesion, generator=np.random.default_rng(seed))
            for lesion in (True, False)
        ]
        darkening += pair[1].astype(float) - pair[0]
    assert darkening[20:46, 14:50].mean() > 3 * abs(darkening[:10].mean())


def test_progress_counts_up_to_its_total(tmp_path):
    told = []
    write_phantom(tmp_path, **SMALL, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 108) for done in range(1, 109)]


def test_a_full_disk_is_said_and_the_next_call_makes_it_whole(written, tmp_path, monkeypatch):
    folder, study = written
    replace = phantom._replace
    left = iter(range(10))

    def full(path, content, *, durable=False):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, content, durable=durable)

    monkeypatch.setattr(phantom, "_replace", full)
    with pytest.raises(DiskFull):
        write_phantom(tmp_path, **SMALL)
    monkeypatch.setattr(phantom, "_replace", replace)
    again = write_phantom(tmp_path, **SMALL)
    assert [len(site) for site in again.sites.values()] == [len(s) for s in study.sites.values()]
    assert contents(tmp_path) == contents(folder)
