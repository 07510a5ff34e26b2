"""Where root starts the front door, its workers are nobody's, or the doctor says otherwise."""

import pwd

import pytest

from portal.deployment import workers
from portal.deployment.front import Front, front_config
from portal.deployment.workers import Workers, look, remove_scratch, workers_for

ALL = "CapEff:\t00000000000000c1\n"
WHOLE = "         0          0 4294967295\n"


@pytest.fixture
def process(tmp_path):
    """What proc(5) says of a root that may do everything."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "status").write_text(f"Name:\tbithive\n{ALL}")
    for name in ("uid_map", "gid_map"):
        (folder / name).write_text(WHOLE)
    return folder


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(workers.os, "geteuid", lambda: 0)


def found(tmp_path, process):
    return workers_for(tmp_path / "front", scratch=tmp_path / "scratch", process=process)


def test_root_hands_workers_to_an_account_without_rights(tmp_path, process, root):
    made = found(tmp_path, process)
    account = pwd.getpwnam(made.user)
    assert account.pw_uid != 0
    assert made.scratch.parent == tmp_path / "scratch"
    assert made.scratch.stat().st_mode & 0o777 == 0o711
    assert found(tmp_path, process) == made
    (made.scratch / "body").mkdir()
    remove_scratch(tmp_path / "front", scratch=tmp_path / "scratch")
    assert not made.scratch.exists()


def test_another_user_hands_workers_to_nobody(tmp_path, process, monkeypatch):
    monkeypatch.setattr(workers.os, "geteuid", lambda: 1000)
    assert found(tmp_path, process) is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("status", "CapEff:\t0000000000000080\n"),
        ("status", "Name:\tbithive\n"),
        ("uid_map", "0 100000 1\n"),
        ("gid_map", "0 100000 65534\n"),
    ],
)
def test_root_of_a_container_that_may_not_hand_over_keeps_them(tmp_path, process, root, file, text):
    (process / file).write_text(text)
    assert found(tmp_path, process) is None


def test_where_there_is_no_such_account_they_stay(tmp_path, process, root, monkeypatch):
    monkeypatch.setattr(workers, "ACCOUNTS", ("root", "nosuchaccount"))
    assert found(tmp_path, process) is None


def test_where_nothing_can_be_written_they_stay(tmp_path, process, root):
    (tmp_path / "scratch").write_text("a file")
    assert found(tmp_path, process) is None


def config(tmp_path, whose):
    return front_config(
        Front(
            listen="8443",
            server_name="localhost",
            certificate=tmp_path / "c",
            key=tmp_path / "k",
            authority=tmp_path / "a",
            revoked=tmp_path / "r",
            superlink_port=1,
            superlink_authority=tmp_path / "s",
            run=tmp_path / "run",
            access_log=tmp_path / "log",
            workers=whose,
        )
    )


def test_the_door_is_written_for_them_and_the_doctor_reads_it(tmp_path, root):
    whose = Workers("nobody", "nogroup", tmp_path / "scratch")
    written = config(tmp_path, whose)
    assert "\nuser nobody nogroup;\n" in written
    assert f"client_body_temp_path {tmp_path}/scratch/body;" in written
    assert f"pid {tmp_path}/run/nginx.pid;" in written
    assert look(tmp_path) == []
    (tmp_path / "nginx.conf").write_text(written)
    assert [(one.check, one.state) for one in look(tmp_path)] == [
        ("front door's workers", "ok"),
        ("root", "warning"),
    ]
    (tmp_path / "nginx.conf").write_text(config(tmp_path, None))
    assert [one.state for one in look(tmp_path)] == ["warning"]
    assert "deploy/" in look(tmp_path)[0].advice


def test_who_is_not_root_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.os, "geteuid", lambda: 1000)
    assert [one.state for one in look(tmp_path)] == ["ok"]
