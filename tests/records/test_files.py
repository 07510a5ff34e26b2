"""A file that cannot be had whole and within limits is refused by name."""

import os

import pytest

from records.files import FileMissing, FileUnreadable, TooLarge, read_bytes


def test_the_whole_content_is_returned(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_bytes(tmp_path / "a", limit=3) == b"abc"


def test_an_absent_file_is_missing(tmp_path):
    with pytest.raises(FileMissing, match=r"a\.png is not in"):
        read_bytes(tmp_path / "a.png")


def test_a_path_through_a_file_is_missing(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileMissing):
        read_bytes(tmp_path / "a" / "b")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(FileUnreadable):
        read_bytes(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileUnreadable):
        read_bytes(tmp_path / "pipe")


def test_a_name_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(FileUnreadable):
        read_bytes(tmp_path / "a\0b")


def test_a_file_above_the_limit_is_too_large(tmp_path):
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(TooLarge) as refusal:
        read_bytes(tmp_path / "a", limit=3)
    assert (refusal.value.found, refusal.value.limit) == (4, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_unreadable(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "a").chmod(0)
    with pytest.raises(FileUnreadable):
        read_bytes(tmp_path / "a")
