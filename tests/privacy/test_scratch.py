"""Scratch files are private, take and give bytes, and leave nothing behind."""

import os
from pathlib import Path

import pytest

from privacy.scratch import scratch_file
from protocol.errors import DiskFull, StorageError


@pytest.fixture(params=["memory", "folder"])
def kind(request, monkeypatch, tmp_path):
    if request.param == "memory" and not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous files")
    if request.param == "folder":
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return request.param


def test_content_is_replaced_whole(kind):
    with scratch_file() as file:
        file.write(b"long content")
        file.write(b"short")
        assert file.read() == b"short"
        assert file.size() == 5


def test_a_part_of_the_content_is_replaced_in_place(kind):
    with scratch_file() as file:
        file.write(b"long content")
        file.patch(5, b"CON")
        assert file.read() == b"long CONtent"


def test_only_the_owner_may_open_it(kind):
    with scratch_file() as file:
        assert Path(file.path).stat().st_mode & 0o077 == 0


def test_nothing_is_left(kind, tmp_path):
    with pytest.raises(ZeroDivisionError), scratch_file() as file:
        file.write(b"secret")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    assert not Path(file.path).exists() or Path(file.path).read_bytes() != b"secret"


def test_in_memory_no_file_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous files")
    with scratch_file() as file:
        file.write(b"secret")
        assert "memfd" in str(Path(file.path).readlink())
        assert list(tmp_path.iterdir()) == []


def test_a_closed_file_is_a_storage_error(kind):
    with scratch_file() as file:
        pass
    with pytest.raises(StorageError):
        file.read()
    with pytest.raises(StorageError):
        file.patch(0, b"late")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the full device is Linux's")
def test_a_full_device_is_a_typed_error(monkeypatch):
    from privacy.scratch import ScratchFile

    with pytest.raises(DiskFull):
        ScratchFile("/dev/full").write(b"x" * 100_000)
