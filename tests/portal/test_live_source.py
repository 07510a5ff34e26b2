"""A home is watched while it is written, and untouched; a broken connection loses nothing."""

import os
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fl_server.database import ServerDatabaseVersion
from portal.books import NoRunHere
from portal.home import Home
from portal.live.events import LiveEventUnreadable
from portal.live.source import (
    TRIES_AGAIN,
    HomeSource,
    LiveAddressInvalid,
    LiveServerSilent,
    ServerSource,
    follow_home,
)
from portal.live.stream import frame, position_of
from portal.live.view import View
from protocol.errors import StorageError
from tests.portal.live_run import LiveRun


@pytest.fixture
def run(tmp_path):
    return LiveRun(Home(tmp_path / "home"))


def all_of(source):
    return list(source.since(0, limit=10_000))


def test_a_home_is_watched_from_before_it_is_founded_until_its_end(tmp_path):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    (home.path / "settings.json").write_text("{}")
    source = HomeSource(home)
    assert (all_of(source), source.newest(), source.run(), source.terms()) == ([], 0, None, None)
    home.server.mkdir()
    (home.server / "server.db").write_bytes(b"")  # as SQLite makes it, before its first table
    assert all_of(source) == []
    (home.server / "server.db").unlink()
    run = LiveRun(home)
    run.begin()
    run.round(1)
    assert source.newest() == len(all_of(source))
    run.finish()
    view = View().all_after(all_of(source))
    assert (view.outcome, view.closed, view.total) == ("finished", 1, 10)


def test_a_folder_that_is_no_home_is_refused(tmp_path):
    with pytest.raises(NoRunHere):
        HomeSource(Home(tmp_path / "nowhere"))
    with pytest.raises(NoRunHere):
        HomeSource(Home(tmp_path))


def test_watching_changes_no_byte_and_writing_is_refused(run):
    run.begin()
    run.database.engine.dispose()
    before = {path: path.read_bytes() for path in run.home.path.rglob("*") if path.is_file()}
    source = HomeSource(run.home)
    assert all_of(source)
    after = {path: path.read_bytes() for path in run.home.path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    with (
        pytest.raises(StorageError, match="readonly"),
        source._database.writing() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM events")


def test_a_home_of_another_user_is_watched_too(run):
    run.begin()
    run.database.engine.dispose()
    for left in run.home.server.glob("server.db-*"):
        left.unlink()
    run.home.server.chmod(0o500)
    try:
        if os.access(run.home.server, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert all_of(HomeSource(run.home))
    finally:
        run.home.server.chmod(0o700)


def test_what_is_read_while_the_server_writes_has_no_gap(run):
    source, done = HomeSource(run.home), threading.Event()

    def write():
        run.begin()
        for number in range(1, 4):
            run.round(number)
        run.finish()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [one.position for one in follow_home(source, poll_seconds=0.001) if one is not None]
    writer.join(60)
    assert done.is_set()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == run.events.last()


def test_an_open_reader_holds_up_no_write(run):
    run.begin()
    source = HomeSource(run.home)
    all_of(source)
    with sqlite3.connect(run.home.server / "server.db", timeout=0) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert all_of(source)  # and the other way round
        writer.rollback()
    checkpointed = sqlite3.connect(run.home.server / "server.db").execute(
        "PRAGMA wal_checkpoint(TRUNCATE)"
    )
    assert checkpointed.fetchone()[0] == 0


def test_another_run_in_the_home_is_another_run(run, tmp_path):
    run.begin()
    source = HomeSource(run.home)
    first = source.run()
    run.database.engine.dispose()
    for file in run.home.server.iterdir():
        file.rename(tmp_path / file.name)
    again = LiveRun(run.home, terms=run.terms.model_copy(update={"rounds": 4}))
    again.write("run", code="started")
    assert source.run() != first
    assert [event.rounds for event in all_of(source)] == [4]


def test_a_database_of_another_version_is_named(run):
    with run.database.writing() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(ServerDatabaseVersion):
        all_of(HomeSource(run.home))


class Breaking:
    """A server that sends so many bytes after the reader's last event, then breaks."""

    def __init__(self, events, pieces):
        self.events, self.pieces, self.asked = events, list(pieces), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                after = position_of(self.headers.get("Last-Event-ID"))
                outer.asked.append(after)
                stream = b"".join(frame(one) for one in outer.events if one.position > after)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(stream[: outer.pieces.pop(0)] if outer.pieces else stream)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def test_a_reader_of_a_breaking_server_gets_every_event_once(run):
    run.begin()
    run.round(1)
    run.finish()
    events = all_of(HomeSource(run.home))
    server = Breaking(events, [0, 10, 400, 401, 3, 1500])
    try:
        source = ServerSource(server.url, sleep=lambda _seconds: None)
        assert source.url == f"{server.url}/runs/now/events"
        assert list(source.follow()) == events
        assert server.asked == sorted(server.asked)
    finally:
        server.close()


def test_a_server_that_stays_silent_is_given_up():
    waited = []
    server = Breaking([], [])
    source = ServerSource(server.url, tries=3, sleep=waited.append)
    try:
        with pytest.raises(LiveServerSilent):
            list(source.follow())
    finally:
        server.close()
    assert len(server.asked) == 3
    assert waited == sorted(waited)
    with pytest.raises(LiveServerSilent):
        list(ServerSource(server.url, tries=2, sleep=waited.append).follow())


def test_a_server_that_sends_something_else_is_refused():
    server = Breaking([], [])
    server.events = [type("Gossip", (), {"position": 1, "text": lambda _: '{"patient":"4711"}'})()]
    try:
        with pytest.raises(LiveEventUnreadable):
            list(ServerSource(server.url).follow())
    finally:
        server.close()


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "127.0.0.1:8480", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(LiveAddressInvalid):
        ServerSource(url)


def test_a_server_that_was_there_is_waited_for_and_one_that_never_was_is_not(run):
    run.begin()
    events = all_of(HomeSource(run.home))
    server = Breaking(events, [len(frame(events[0]))] * 2)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            server.close()

    with pytest.raises(LiveServerSilent):
        list(ServerSource(server.url, tries=3, sleep=sleep).follow())
    assert len(waits) == TRIES_AGAIN - 1
    assert waits == sorted(waits)
    assert sum(waits) >= 500
    waits.clear()
    with pytest.raises(LiveServerSilent):
        list(ServerSource(server.url, tries=3, sleep=waits.append).follow())
    assert len(waits) == 2
