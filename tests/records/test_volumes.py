"""A folder of volumes and masks becomes arrays that a segmentation network trains on."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from records.dataset import RecordChanged, patient_digest
from records.grid import fit_grid, standardised
from records.manifest import ManifestRowInvalid
from records.sources import modality_of, open_source
from records.volumes import (
    CasesWithoutSite,
    MaskInvalid,
    VolumeLoader,
    VolumesMissing,
    read_volumes,
)

GRID = (8, 8, 8)


def write(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def write_case(folder, number, shape=(6, 9, 8)):
    generator = np.random.default_rng(number)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[2:4, 3:6, 2:5] = 1 + number % 2
    voxels = (generator.normal(size=shape) + mask) * 10.0 ** (number % 3)
    write(folder / "images" / f"case-{number}.nii.gz", voxels.astype(np.float32))
    write(folder / "labels" / f"case-{number}.nii.gz", mask)


@pytest.fixture
def study(tmp_path):
    for number in range(12):
        write_case(tmp_path, number)
    rows = [f"case-{number},{('A_low', 'B_mid')[number % 2]}" for number in range(12)]
    (tmp_path / "manifest.csv").write_text("\n".join(["id,acq_group", *rows]) + "\n")
    return tmp_path


def test_a_folder_becomes_sites_a_test_set_and_arrays(study):
    data = read_volumes(study, seed=1, grid=GRID)
    assert {site: len(members) for site, members in data.sites.items()} == {"a-low": 5, "b-mid": 5}
    assert len(data.test) == 2
    found = VolumeLoader(GRID).load(data.sites["a-low"])
    assert found.x.shape == (5, 1, *GRID)
    assert found.y.shape == (5, *GRID)
    assert (found.x.dtype, found.y.dtype) == (np.float32, np.int64)
    assert set(np.unique(found.y)) == {0, 1}
    assert list(found.patient) == [0, 1, 2, 3, 4]


def test_held_out_patients_of_natural_sites_are_told_apart(study):
    data = read_volumes(study, seed=1)
    assert {site: len(members) for site, members in data.test_by_site().items()} == {
        "a-low": 1, "b-mid": 1,
    }  # fmt: skip
    (study / "manifest.csv").unlink()
    assert read_volumes(study, seed=1).test_by_site() == {}


def test_the_same_folder_and_seed_give_the_same_study(study):
    assert read_volumes(study, seed=1) == read_volumes(study, seed=1)
    assert len({read_volumes(study, seed=seed).test for seed in range(5)}) > 1


def test_without_a_manifest_patients_are_split_evenly(study):
    (study / "manifest.csv").unlink()
    data = read_volumes(study, seed=1, sites=3)
    assert [len(members) for members in data.sites.values()] == [3, 3, 3]
    assert len(data.test) == 3


def test_the_command_line_opens_such_a_folder(study, tmp_path):
    assert modality_of(str(study)) == "volume"
    data, loader = open_source(str(study), home=tmp_path, seed=1)
    assert loader.load(data.test).x.shape[1:] == data.input_shape


@settings(max_examples=30, deadline=None)
@given(
    gain=st.floats(0.01, 1e4),
    offset=st.floats(-1e3, 1e3),
    voxels=arrays.arrays(np.float32, (3, 4, 5), elements=st.floats(-100, 100, width=16)),
)
def test_scale_and_offset_of_a_scanner_change_nothing(gain, offset, voxels):
    voxels[0, 0, 0], voxels[-1, -1, -1] = 200.0, -200.0
    again = (voxels.astype(np.float64) * gain + offset).astype(np.float32)
    spread = max(1.0, abs(offset) / gain) * 1e-4
    assert np.allclose(standardised(again), standardised(voxels), atol=spread)


def test_a_flat_volume_stays_flat():
    assert not standardised(np.full((2, 2, 2), 7.0, dtype=np.float32)).any()


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_a_grid_keeps_the_centre_and_whatever_fits(shape, grid):
    values = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    fitted = fit_grid(values, grid)
    assert fitted.shape == grid
    assert (fitted > 0).sum() == np.prod(np.minimum(shape, grid))
    if all(have <= want for have, want in zip(shape, grid, strict=True)):
        assert np.array_equal(fit_grid(fitted, shape), values)


def test_volume_and_mask_are_both_part_of_what_a_proof_covers(study):
    before = {one.id: patient_digest(one) for one in read_volumes(study, seed=1).test}
    for name in before:
        mask = np.asarray(nib.load(study / "labels" / f"{name}.nii.gz").dataobj).copy()
        mask[0, 0, 0] = 1
        write(study / "labels" / f"{name}.nii.gz", mask)
    after = {one.id: patient_digest(one) for one in read_volumes(study, seed=1).test}
    assert all(before[name] != after[name] for name in before)


def test_a_mask_that_changed_after_it_was_listed_is_refused(study):
    data = read_volumes(study, seed=1)
    write(data.test[0].records[0].mask.path, np.zeros((6, 9, 8), dtype=np.uint8))
    with pytest.raises(RecordChanged):
        VolumeLoader().load(data.test)


@pytest.mark.parametrize(
    ("mask", "affine"),
    [
        (np.zeros((6, 9, 7), dtype=np.uint8), np.eye(4)),
        (np.full((6, 9, 8), 3, dtype=np.uint8), np.eye(4)),
        (np.full((6, 9, 8), -1, dtype=np.int16), np.eye(4)),
        (np.full((6, 9, 8), 0.5, dtype=np.float32), np.eye(4)),
        (np.zeros((6, 9, 8), dtype=np.uint8), np.diag([2.0, 1.0, 1.0, 1.0])),
    ],
    ids=["shape", "class", "negative", "between", "place"],
)
def test_a_mask_that_does_not_belong_is_refused(study, mask, affine):
    write(study / "labels" / "case-3.nii.gz", mask, affine)
    with pytest.raises(MaskInvalid):
        read_volumes(study, seed=1)


def test_a_volume_without_a_mask_is_refused(study):
    (study / "labels" / "case-3.nii.gz").unlink()
    with pytest.raises(VolumesMissing):
        read_volumes(study, seed=1)


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(VolumesMissing):
        read_volumes(tmp_path, seed=1)


def test_a_link_out_of_the_folder_is_refused(study, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other.nii.gz"
    file = study / "images" / "case-3.nii.gz"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(VolumesMissing):
        read_volumes(study, seed=1)


def test_a_case_without_a_site_is_refused(study):
    (study / "manifest.csv").write_text("id,site\ncase-0,north\n")
    with pytest.raises(CasesWithoutSite):
        read_volumes(study, seed=1)
    (study / "manifest.csv").write_text("id,site\ncase-0,!\n")
    with pytest.raises(ManifestRowInvalid):
        read_volumes(study, seed=1)


def test_the_real_hippocampus_study_has_three_sites(real):
    data = read_volumes(real("hippocampus_msd"), seed=7)
    assert {site: len(members) for site, members in data.sites.items()} == {
        "a-uint8": 44, "b-mid": 138, "c-huge": 26,
    }  # fmt: skip
    found = VolumeLoader().load(data.test[:4])
    assert np.isfinite(found.x).all()
    assert set(np.unique(found.y)) == {0, 1, 2}
