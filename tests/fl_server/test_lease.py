"""Two servers can never both write: a run has one holder, and who lost it is stopped."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fl_server import lease as lease_module
from fl_server.database import LeaseLost, ServerDatabase
from fl_server.lease import Lease, RunBusy
from fl_server.live import RunEvent
from fl_server.store import ServerStore
from tests.fl_server.records import model, planned, terms

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
RUN = "0" * 16


@pytest.fixture
def source(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def store(source):
    made = ServerStore(source)
    made.found(terms(), model())
    return made


@pytest.fixture
def elsewhere(monkeypatch):
    """Holders are never found to have ended: as if each were on another machine."""
    monkeypatch.setattr(lease_module, "_has_ended", lambda _holder: False)


def lease(store, seconds=0.5):
    return Lease(store.database, RUN, seconds=seconds)


def another(source):
    return ServerStore(source)


def test_while_one_holds_the_run_another_is_refused(store, source):
    with lease(store).held(), pytest.raises(RunBusy, match=RUN), lease(another(source)).held():
        pass


def test_a_run_that_was_given_back_is_free_at_once(store, source):
    with lease(store, seconds=3600.0).held() as first:
        pass
    with lease(another(source), seconds=3600.0).held() as second:
        assert second > first


def test_a_holder_whose_heart_stopped_is_followed_after_its_time(
    store, source, elsewhere, monkeypatch
):
    monkeypatch.setattr(Lease, "_beat", lambda *_: None)
    with lease(store).held() as first:
        with lease(another(source)).held() as second:
            assert second == first + 1
        with pytest.raises(LeaseLost):
            store.events.append(RunEvent("run"))


def test_who_lost_the_run_writes_nothing_any_more(store, source, monkeypatch):
    monkeypatch.setattr(Lease, "_beat", lambda *_: None)
    with lease(store).held():
        after = another(source)
        with lease(after).held():
            with pytest.raises(LeaseLost, match=RUN):
                store.plan(planned())
            assert after.round(1) is None
            after.plan(planned())
        assert another(source).round(1) is not None


def test_a_heart_that_beats_keeps_the_run_longer_than_the_lease(store, source, elsewhere):
    with lease(store, seconds=0.3).held():
        time.sleep(0.9)
        with pytest.raises(RunBusy), lease(another(source), seconds=0.3).held():
            pass


def test_of_many_that_take_over_at_once_one_gets_it(store, source, elsewhere, monkeypatch):
    monkeypatch.setattr(Lease, "_beat", lambda *_: None)
    with lease(store).held():
        pass
    start, got, done = threading.Barrier(4), [], threading.Event()

    def contend():
        mine = another(source)
        start.wait()
        try:
            with lease(mine, seconds=30.0).held() as fence:
                got.append(fence)
                done.wait(60)
        except RunBusy:
            got.append(None)

    monkeypatch.setattr(lease_module, "_POLLS", 3000)
    threads = [threading.Thread(target=contend) for _ in range(4)]
    for one in threads:
        one.start()
    until = time.monotonic() + 60
    while got.count(None) < 3 and time.monotonic() < until:
        time.sleep(0.01)
        if len([one for one in got if one]) == 1:
            _touch(another(source))  # the holder's heart beats once
    done.set()
    for one in threads:
        one.join()
    assert len([one for one in got if one]) == 1


def _touch(store):
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE lease SET beat = beat + 1")


def test_what_a_killed_process_held_is_free_at_once(store, source):
    if isinstance(source, Path):
        script = f"""
            import os
            from pathlib import Path
            from fl_server.lease import Lease
            from fl_server.store import ServerStore
            store = ServerStore(Path({str(source)!r}))
            held = Lease(store.database, {RUN!r}, seconds=3600.0).held()
            held.__enter__()
            os.kill(os.getpid(), 9)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=False
        )
        assert done.returncode == -9
        started = time.monotonic()
        with lease(store, seconds=3600.0).held() as fence:
            assert fence == 2
        assert time.monotonic() - started < 60


def test_a_process_of_another_namespace_is_not_found_to_have_ended():
    mine = lease_module._name_of_this_process()
    boot, namespace, pid, start, word = mine.split(" ")
    assert not lease_module._has_ended(mine)
    assert lease_module._has_ended(f"{boot} {namespace} {pid} 1{start} {word}")
    assert not lease_module._has_ended(f"{boot} pid:[1] {pid} 1{start} {word}")
    assert not lease_module._has_ended(f"other {namespace} {pid} 1{start} {word}")
    assert not lease_module._has_ended("anything")


def test_a_database_in_memory_has_its_lease_too():
    database = ServerDatabase(":memory:")
    with Lease(database, RUN).held() as fence:
        assert database.fence == (RUN, fence)
    assert database.fence is None
    assert os.getpid()
