"""A file is written, linked or copied whole or not at all, and is there after a loss of power."""

import errno
import os
import stat

import pytest

from protocol.errors import StorageFailed
from storage import files
from storage.files import PRIVATE, link_or_copy, write_new, write_whole


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source"
    file.write_bytes(b"much")
    return file


def test_a_link_is_the_same_file_and_leaves_nothing_beside_it(source, tmp_path):
    target = tmp_path / "to" / "target"
    target.parent.mkdir()
    for _ in range(2):  # renaming one name of a file to another of its names does nothing
        link_or_copy(source, target)
        assert target.samefile(source)
        assert list(target.parent.iterdir()) == [target]


def test_where_no_link_can_be_made_the_copy_is_private(source, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(18, "another disk")

    monkeypatch.setattr(files.os, "link", refused)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert target.read_bytes() == b"much"
    assert not target.samefile(source)
    assert target.stat().st_mode & 0o077 == 0


def test_what_is_not_there_leaves_the_old_file(source, tmp_path):
    source.unlink()
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(StorageFailed):
        link_or_copy(source, target)
    assert target.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("write", [write_whole, write_new])
def test_a_files_bytes_reach_the_disk_before_its_name_and_then_the_name_does(
    tmp_path, monkeypatch, write
):
    path, seen = tmp_path / "file", []

    def noted(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(("names" if is_folder else "bytes", path.exists()))

    monkeypatch.setattr(files.os, "fsync", noted)
    write(path, b"much")
    assert seen[0] == ("bytes", False)
    assert seen[-1] == ("names", True)


def test_a_file_system_that_keeps_names_by_itself_is_no_trouble(tmp_path, monkeypatch):
    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not of folders")

    monkeypatch.setattr(files.os, "fsync", refused)
    write_whole(tmp_path / "file", b"much")
    assert (tmp_path / "file").read_bytes() == b"much"


def test_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path):
    other, path = tmp_path / "other", tmp_path / "file"
    other.write_bytes(b"another's")
    path.symlink_to(other)
    write_whole(path, b"a key", mode=PRIVATE)
    assert other.read_bytes() == b"another's"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == PRIVATE
