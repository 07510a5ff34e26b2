"""What is committed stays, one writer at a time decides, and a full disk loses nothing."""

import multiprocessing
import stat
import subprocess
import sys

import pytest
import sqlalchemy as sa

from protocol.errors import DiskFull, StorageFailed
from storage.database import DatabaseDamaged, open_database, reading, write_anew, writing
from storage.files import PRIVATE, write_whole

METADATA = sa.MetaData()
COUNTER = sa.Table(
    "counter", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
)


def read(engine):
    with reading(engine) as connection:
        return connection.execute(sa.select(COUNTER.c.n)).scalar_one()


@pytest.fixture
def engine(tmp_path):
    engine = open_database(tmp_path / "a.db", METADATA)
    with writing(engine) as connection:
        connection.execute(COUNTER.insert().values(id=1, n=0))
    return engine


def add(path, times):
    engine = open_database(path, METADATA)
    for _ in range(times):
        with writing(engine) as connection:
            n = connection.execute(sa.select(COUNTER.c.n)).scalar_one()
            connection.execute(COUNTER.update().values(n=n + 1))


def test_two_processes_that_read_and_write_lose_no_addition(engine, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add, args=(tmp_path / "a.db", 25)) for _ in range(2)]
    engine.dispose()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert read(engine) == 50


def test_processes_may_open_a_new_database_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    openers = [
        context.Process(target=open_database, args=(tmp_path / "new.db", METADATA))
        for _ in range(4)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [opener.exitcode for opener in openers] == [0] * 4


def test_a_transaction_that_raises_leaves_nothing_behind(engine):
    with pytest.raises(RuntimeError), writing(engine) as connection:
        connection.execute(COUNTER.update().values(n=7))
        raise RuntimeError
    assert read(engine) == 0


def test_a_full_disk_is_named_and_loses_nothing_committed(engine):
    with pytest.raises(DiskFull), writing(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
        connection.execute(COUNTER.update().values(n=1))
        connection.exec_driver_sql("CREATE TABLE big (b BLOB)")
        connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(1000000))")
    assert read(engine) == 0


def test_a_file_that_is_no_database_is_named_damaged(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseDamaged, match=r"a\.db is damaged"):
        open_database(tmp_path / "a.db", METADATA)


def test_a_private_database_is_closed_to_others(tmp_path):
    open_database(tmp_path / "a.db", METADATA, private=True)
    assert all(stat.S_IMODE(file.stat().st_mode) == PRIVATE for file in tmp_path.iterdir())


def test_a_database_opened_twice_keeps_its_log_when_another_process_leaves(tmp_path):
    path = tmp_path / "a.db"
    first = open_database(path, METADATA, private=True)
    with writing(first) as connection:
        connection.execute(COUNTER.insert().values(id=1, n=0))
    open_database(path, METADATA, private=True)
    stranger = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute({!r}).fetchone()[0])"
    )
    look = [sys.executable, "-c", stranger.format("SELECT n FROM counter"), str(path)]
    assert subprocess.check_output(look) == b"0\n"
    with writing(first) as connection:
        connection.execute(COUNTER.update().values(n=1))
    assert subprocess.check_output(look) == b"1\n"


def test_a_file_is_replaced_whole_with_its_mode(tmp_path):
    path = tmp_path / "deep" / "key"
    write_whole(path, b"old")
    write_whole(path, b"new", mode=PRIVATE)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == PRIVATE
    assert list(path.parent.iterdir()) == [path]


def test_a_file_on_a_full_disk_keeps_its_old_content():
    # /dev/full refuses every write as a full disk does; a folder of the real disk cannot be filled.
    with pytest.raises((DiskFull, StorageFailed)):
        write_whole(__import__("pathlib").Path("/dev/full/key"), b"new")


def test_a_database_written_anew_has_no_byte_of_what_was_deleted(tmp_path):
    names = sa.MetaData()
    table = sa.Table("names", names, sa.Column("name", sa.Text))
    engine = open_database(tmp_path / "a.db", names)
    with writing(engine) as connection:
        connection.execute(table.insert(), [{"name": f"somebody-{n}" * 9} for n in range(500)])
    with writing(engine) as connection:
        connection.execute(table.delete().where(table.c.name.like("somebody-77%")))
    write_anew(engine, wait_seconds=1)
    found = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"somebody-77" not in found
    assert b"somebody-78" in found
