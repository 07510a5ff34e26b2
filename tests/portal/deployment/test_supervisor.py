"""The supervisor keeps processes running, starts them in order, and leaves none behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.deployment.backoff import Backoff
from portal.deployment.hold import AlreadySupervised, hold, holder, read_state
from portal.deployment.rotation import last_error, rotate
from portal.deployment.supervisor import Supervisor
from portal.deployment.units import FileThere, PortOpen, SocketOpen, Unit, in_order

pytestmark = pytest.mark.slow

QUICK = Backoff(first_seconds=0.01, most_seconds=0.05, failed_seconds=0.2, limit=4)
SLEEP = ("sleep", "600")


def until(supervisor, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        supervisor.step()
        rows = {row.name: row for row in supervisor.rows()}
        if holds(rows):
            return rows
        assert time.monotonic() < deadline, rows
        time.sleep(0.01)


@pytest.fixture
def supervise(tmp_path):
    made = []

    def make(*units, backoff=QUICK):
        made.append(Supervisor(tmp_path / "folder", units, root=tmp_path, backoff=backoff))
        return made[-1]

    yield make
    for one in made:
        one._stop_all()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid, seconds=60):
    deadline = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)


@given(
    st.floats(0.01, 5), st.floats(5, 60), st.floats(60, 600), st.integers(2, 20), st.integers(1, 50)
)
def test_a_wait_is_never_shorter_than_the_one_before(first, most, failed, limit, ends):
    rule = Backoff(first, most, 60.0, failed, limit)
    assert 0 < rule.wait(ends) <= rule.wait(ends + 1) <= failed


def test_a_process_that_stayed_up_begins_anew():
    rule = Backoff(healthy_seconds=60)
    assert rule.ends_after(7, up_seconds=59.9) == 8
    assert rule.ends_after(7, up_seconds=60.0) == 1


def test_a_killed_process_is_started_again(supervise):
    supervisor = supervise(Unit("one", SLEEP))
    first = until(supervisor, lambda rows: rows["one"].state == "ready")["one"].pid
    os.kill(first, signal.SIGKILL)
    again = until(
        supervisor, lambda rows: rows["one"].state == "ready" and rows["one"].pid != first
    )
    assert again["one"].restarts == 1
    assert again["one"].pid != first


def test_a_crash_loop_is_named_and_still_tried(supervise):
    supervisor = supervise(Unit("one", ("sh", "-c", "echo an error of the disk; exit 3")))
    rows = until(supervisor, lambda rows: rows["one"].state == "failed")
    assert rows["one"].exit_code == 3
    assert rows["one"].error == "an error of the disk"
    seen = rows["one"].restarts
    until(supervisor, lambda rows: rows["one"].restarts > seen)


def test_a_program_that_does_not_exist_is_a_crash_with_a_reason(supervise):
    supervisor = supervise(Unit("one", ("/nowhere/program",)))
    rows = until(supervisor, lambda rows: rows["one"].state == "failed")
    assert "No such file" in rows["one"].error


def test_a_unit_waits_until_those_it_needs_are_ready(supervise, tmp_path):
    there = tmp_path / "there"
    first = Unit("first", SLEEP, ready=FileThere(there))
    supervisor = supervise(Unit("second", SLEEP, after=("first",)), first)
    for _ in range(20):
        supervisor.step()
        time.sleep(0.01)
    states = {row.name: row.state for row in supervisor.rows()}
    assert states == {"first": "starting", "second": "waiting"}
    there.write_text("ready")
    until(supervisor, lambda rows: rows["second"].state == "ready")


def test_a_unit_that_ends_well_is_done(supervise):
    supervisor = supervise(Unit("one", ("true",), ends=True), Unit("two", ("true",)))
    rows = until(supervisor, lambda rows: rows["one"].state == "done" and rows["two"].restarts)
    assert rows["one"].restarts == 0


def test_a_unit_that_does_not_become_ready_is_started_again(supervise, tmp_path):
    never = FileThere(tmp_path / "never")
    supervisor = supervise(Unit("one", SLEEP, ready=never, start_seconds=0.05))
    until(supervisor, lambda rows: rows["one"].restarts >= 2)


def test_what_a_process_leaves_of_its_group_is_ended_before_it_starts_again(supervise, tmp_path):
    orphan = tmp_path / "orphan"
    command = f"sleep 600 & echo $! > {orphan}.new; mv {orphan}.new {orphan}; wait"
    supervisor = supervise(Unit("one", ("sh", "-c", command), ready=FileThere(orphan)))
    rows = until(supervisor, lambda rows: rows["one"].state == "ready")
    child, first = int(orphan.read_text()), rows["one"].pid
    os.kill(first, signal.SIGKILL)
    until(supervisor, lambda rows: rows["one"].state == "ready" and rows["one"].pid != first)
    gone(child)


def test_what_a_process_left_in_a_session_of_its_own_is_ended_with_it(supervise, tmp_path):
    orphan = tmp_path / "orphan"
    command = f"setsid sh -c 'echo $$ > {orphan}.new; mv {orphan}.new {orphan}; sleep 600' & wait"
    supervisor = supervise(Unit("one", ("sh", "-c", command), ready=FileThere(orphan)))
    rows = until(supervisor, lambda rows: rows["one"].state == "ready")
    child, first = int(orphan.read_text()), rows["one"].pid
    os.kill(first, signal.SIGKILL)
    until(supervisor, lambda rows: rows["one"].state == "ready" and rows["one"].pid != first)
    gone(child)
    last = int(orphan.read_text())
    supervisor._stop_all()
    gone(last)


def test_a_changed_file_is_told_by_sighup(supervise, tmp_path):
    watched, told, there = tmp_path / "watched", tmp_path / "told", tmp_path / "there"
    # A shell loses a signal that comes while it forks.
    code = (
        "import pathlib, signal, sys, time\n"
        "told, there = map(pathlib.Path, sys.argv[1:])\n"
        "signal.signal(signal.SIGHUP, lambda *_: told.touch())\n"
        "there.touch()\n"
        "time.sleep(600)\n"
    )
    command = (sys.executable, "-c", code, str(told), str(there))
    supervisor = supervise(Unit("one", command, ready=FileThere(there), reload_on=(watched,)))
    until(supervisor, lambda rows: rows["one"].state == "ready")
    watched.write_text("new")
    until(supervisor, lambda _: told.is_file())


def test_a_hurried_supervisor_starts_what_failed_now(supervise):
    supervisor = supervise(
        Unit("one", ("false",)),
        backoff=Backoff(first_seconds=0.01, most_seconds=0.01, failed_seconds=9999, limit=2),
    )
    rows = until(supervisor, lambda rows: rows["one"].state == "failed")
    seen = rows["one"].restarts
    supervisor.hurry()
    until(supervisor, lambda rows: rows["one"].restarts > seen)


def test_stopping_ends_all_in_order_even_one_that_is_frozen(tmp_path):
    supervisor = Supervisor(
        tmp_path / "folder", [Unit("one", SLEEP), Unit("two", SLEEP)], root=tmp_path
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    deadline = time.monotonic() + 60
    while {one["state"] for one in read_state(tmp_path / "folder")["units"]} != {"ready"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = [row.pid for row in supervisor.rows()]
    os.kill(pids[0], signal.SIGSTOP)
    assert holder(tmp_path / "folder") == (os.getpid(), True)
    supervisor.stop()
    thread.join(60)
    assert not any(map(alive, pids))
    assert {one["state"] for one in read_state(tmp_path / "folder")["units"]} == {"stopped"}


def test_two_supervisors_do_not_share_a_folder(tmp_path):
    with hold(tmp_path), pytest.raises(AlreadySupervised):
        Supervisor(tmp_path, [], root=tmp_path).run()
    Supervisor(tmp_path, [], root=tmp_path)


def test_no_process_outlives_a_killed_supervisor(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent.parent.parent)!r})
from pathlib import Path
from portal.deployment.supervisor import Supervisor
from portal.deployment.units import Unit
folder = Path({str(tmp_path)!r})
Supervisor(folder, [Unit("one", ("sleep", "600"))], root=folder).run()
"""
    killed = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not any(one["pid"] for one in read_state(tmp_path)["units"]):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.05)
    child = read_state(tmp_path)["units"][0]["pid"]
    killed.kill()
    killed.wait()
    gone(child)
    assert holder(tmp_path) == (killed.pid, False)  # the number is stale


def test_a_full_disk_does_not_end_the_supervisor(supervise, monkeypatch):
    from portal.deployment import supervisor as module
    from protocol.errors import DiskFull

    def full(*_, **__):
        raise DiskFull("state.json")

    supervisor = supervise(Unit("one", SLEEP))
    monkeypatch.setattr(module, "write_whole", full)
    until(supervisor, lambda rows: rows["one"].state == "ready")


def test_a_log_is_cut_and_old_ones_are_kept(tmp_path):
    log = tmp_path / "one.log"
    for number in range(6):
        log.write_text(f"line {number}\n" * 20)
        assert rotate(log, bytes_max=100, kept=3)
    assert log.read_text() == ""
    assert [path.name for path in sorted(tmp_path.glob("one.log.*"))] == [
        "one.log.1",
        "one.log.2",
        "one.log.3",
    ]
    assert (tmp_path / "one.log.1").read_text().startswith("line 5")
    assert not rotate(log, bytes_max=100)


def test_the_last_line_that_speaks_of_an_error_is_found(tmp_path):
    log = tmp_path / "one.log"
    assert last_error(log) == ""
    log.write_text("began\nError: the port is taken\nends\n")
    assert last_error(log) == "Error: the port is taken"


def test_units_that_wait_for_each_other_are_a_mistake():
    with pytest.raises(AssertionError):
        in_order([Unit("a", (), after=("b",)), Unit("b", (), after=("a",))])


def test_readiness_is_asked_without_waiting(tmp_path):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        ready = PortOpen(listener.getsockname()[1])
        assert not ready()
        listener.listen()
        assert ready()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert not SocketOpen(tmp_path / "s")()
        listener.listen()
        assert SocketOpen(tmp_path / "s")()


def test_the_table_is_json(supervise, tmp_path):
    supervisor = supervise(Unit("one", SLEEP, address="127.0.0.1:1"))
    until(supervisor, lambda rows: rows["one"].state == "ready")
    kept = json.loads((tmp_path / "folder" / "state.json").read_text())
    assert kept["units"][0]["address"] == "127.0.0.1:1"
    assert kept["supervisor"] == os.getpid()
