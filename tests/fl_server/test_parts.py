"""Large blobs are whole or not there, in files and in rows."""

import errno
import os

import pytest

from fl_server.database import ServerDatabase
from fl_server.parts import INLINE_BYTES, PART_BYTES, cut
from protocol.errors import DiskFull

SMALL, LARGE = b"s" * 10, os.urandom(PART_BYTES + 5)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def database(source):
    return ServerDatabase(source)


def keep(database, blob, number=1, site="site"):
    with database.writing() as connection:
        database.parts.keep(connection, number, "upload", site, cut(blob))


def kept(database, number=1, site="site"):
    with database.reading() as connection:
        return database.parts.whole(connection, number, "upload", site)


def files(database):
    database.parts.settle()
    folder = database.parts._folder
    return [] if folder is None or not folder.is_dir() else sorted(folder.iterdir())


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, PART_BYTES, 2**21 + 3])
def test_what_is_read_is_what_was_kept(database, source, size):
    blob = os.urandom(size)
    keep(database, blob)
    assert kept(ServerDatabase(source)) == blob


def test_a_failed_transaction_leaves_neither_row_nor_file(database):
    keep(database, LARGE)

    def change():
        with database.writing() as connection:
            database.parts.drop(connection, 1, "upload", "site")
            database.parts.keep(connection, 1, "upload", "site", cut(LARGE[::-1]))
            raise RuntimeError

    before = files(database)
    with pytest.raises(RuntimeError):
        change()
    assert kept(database) == LARGE
    assert files(database) == before


def test_what_is_dropped_is_gone(database):
    keep(database, LARGE)
    keep(database, LARGE, number=2)
    keep(database, SMALL, number=3)
    with database.writing() as connection:
        database.parts.drop_kind(connection, 1, 2, "upload")
    assert (kept(database), kept(database, 2), kept(database, 3)) == (b"", b"", SMALL)
    assert files(database) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    database = ServerDatabase(tmp_path / "server.db")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        keep(database, LARGE)
    monkeypatch.undo()
    assert files(database) == []
    assert kept(database) == b""


def test_what_a_killed_server_left_is_swept_away_and_no_other_file(tmp_path):
    database = ServerDatabase(tmp_path / "server.db")
    keep(database, LARGE)
    (tmp_path / "server.db.parts" / ("0" * 32)).write_bytes(b"half")
    assert database.sweep() == 1
    assert kept(database) == LARGE


def test_files_are_their_owners_alone(tmp_path):
    database = ServerDatabase(tmp_path / "server.db")
    keep(database, LARGE)
    (file,) = files(database)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
