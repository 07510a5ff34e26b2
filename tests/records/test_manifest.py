"""A manifest names files inside its folder, each once, or is refused by the line at fault."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import RecordError
from records.manifest import (
    ManifestColumnsMissing,
    ManifestLeavesFolder,
    ManifestMissing,
    ManifestNamesAbsentFile,
    ManifestPatientAbsent,
    ManifestRepeatsFile,
    ManifestRowInvalid,
    ManifestUnreadable,
    read_manifest,
)


def manifest(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("place", ["", "images/", "benign/", "images/benign/"])
def test_a_file_is_found_where_people_put_it(tmp_path, make_png, place):
    path = tmp_path / place / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_png(1))
    (row,) = read_manifest(manifest(tmp_path, "file,label\na.png,benign\n"))
    assert row.path == path
    assert (row.label, row.patient, row.site, row.split) == ("benign", None, None, None)


def test_columns_may_come_in_any_order_and_case_with_others_between(tmp_path, make_png):
    (tmp_path / "a.png").write_bytes(make_png(1))
    text = "\ufeffSplit,notes, Site ,PATIENT,Label,File\nTest,x,St Anna,p1,benign,a.png\n"
    (row,) = read_manifest(manifest(tmp_path, text))
    assert (row.split, row.site, row.patient, row.label) == ("test", "st-anna", "p1", "benign")


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestMissing):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file,label\n",
        b"file,label\n\xff\xfe,x\n",
        'file,label\n"a,b\n',
        "file,label,file\na,b,c\n",
    ],
)
def test_what_is_not_a_table_is_unreadable(tmp_path, text):
    with pytest.raises(ManifestUnreadable):
        read_manifest(manifest(tmp_path, text))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ManifestColumnsMissing, match="label"):
        read_manifest(manifest(tmp_path, "file,diagnosis\na.png,benign\n"))


@pytest.mark.parametrize("row", ["a.png,", ",benign", "a.png", "a.png,benign,extra"])
def test_a_row_of_another_shape_is_refused_with_its_line(tmp_path, make_png, row):
    (tmp_path / "a.png").write_bytes(make_png(1))
    with pytest.raises(ManifestRowInvalid, match="line 2"):
        read_manifest(manifest(tmp_path, f"file,label\n{row}\n"))


@pytest.mark.parametrize("cells", ["p,,train", "p,***,train", "p,north,validation", "p,north,"])
def test_a_site_or_split_nobody_can_mean_is_refused(tmp_path, make_png, cells):
    (tmp_path / "a.png").write_bytes(make_png(1))
    with pytest.raises(ManifestRowInvalid):
        read_manifest(manifest(tmp_path, f"file,label,patient,site,split\na.png,benign,{cells}\n"))


def test_absent_files_are_refused_and_three_of_them_named(tmp_path, make_png):
    (tmp_path / "a.png").write_bytes(make_png(1))
    rows = "".join(f"{name}.png,benign\n" for name in "abcdef")
    with pytest.raises(ManifestNamesAbsentFile) as refusal:
        read_manifest(manifest(tmp_path, "file,label\n" + rows))
    assert refusal.value.files == ("b.png", "c.png", "d.png", "e.png", "f.png")
    assert "b.png, c.png, d.png)" in str(refusal.value)


def test_absent_patients_are_refused_by_line(tmp_path, make_png):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(make_png(1))
    text = "file,label,patient\na.png,benign,p1\nb.png,benign,\n"
    with pytest.raises(ManifestPatientAbsent, match="line 3"):
        read_manifest(manifest(tmp_path, text))


def test_one_file_in_two_rows_is_refused(tmp_path, make_png):
    (tmp_path / "a.png").write_bytes(make_png(1))
    text = "file,label\na.png,benign\n./a.png,malignant\n"
    with pytest.raises(ManifestRepeatsFile):
        read_manifest(manifest(tmp_path, text))


@pytest.mark.parametrize(
    "row",
    [
        "../a.png,x",
        "/etc/hostname,x",
        "sub/../../a.png,x",
        "..\\a.png,x",
        "C:\\a.png,x",
        "a.png,../x",
    ],
)
def test_a_path_out_of_the_folder_is_refused(tmp_path, make_png, row):
    (tmp_path / "a.png").write_bytes(make_png(1))
    with pytest.raises(ManifestLeavesFolder):
        read_manifest(manifest(tmp_path / "study", f"file,label\n{row}\n"))


def test_a_link_out_of_the_folder_is_refused(tmp_path, make_png):
    (tmp_path / "a.png").write_bytes(make_png(1))
    folder = manifest(tmp_path / "study", "file,label\nlink.png,benign\n")
    (folder / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ManifestLeavesFolder):
        read_manifest(folder)


names = st.lists(
    st.sampled_from(["..", ".", "a.png", "sub", "images", "/", "\\", "~", "\0"]), max_size=5
)


@given(st.lists(st.tuples(names.map("/".join), names.map("/".join)), min_size=1, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_row_ever_names_a_file_outside(tmp_path, make_png, rows):
    study = tmp_path / "study"
    (study / "sub").mkdir(parents=True, exist_ok=True)
    for folder in (tmp_path, study, study / "sub"):
        (folder / "a.png").write_bytes(make_png(1))
    text = "file,label\n" + "".join(f'"{name}","{label}"\n' for name, label in rows)
    try:
        found = read_manifest(manifest(study, text))
    except RecordError:
        return
    assert all(row.path.resolve().is_relative_to(study.resolve()) for row in found)
    assert len({row.path.resolve() for row in found}) == len(found)
