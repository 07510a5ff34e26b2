"""A large file is linked where that can be, and copied where not, whole or not at all."""

import pytest

from protocol.errors import StorageFailed
from storage import files
from storage.files import link_or_copy


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
