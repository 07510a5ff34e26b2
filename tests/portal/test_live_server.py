"""The live server only reads, answers only to its own names, and a real reader loses nothing."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from portal.cli import app as command
from portal.deployment.hold import hold
from portal.home import Home
from portal.live import cli as live_cli
from portal.live.server import READERS_MAX, Watched, create_app
from portal.live.source import HomeSource, ServerSource
from portal.live.stream import events_of
from tests.portal.live_run import LiveRun

pytestmark = pytest.mark.slow

FACTS = ("4711", "Ada Example", "b3f177aa")


@pytest.fixture
def run(tmp_path):
    run = LiveRun(Home(tmp_path / "home"))
    run.begin()
    run.round(1, codes={"lakeside": "certificate-stale"})
    return run


@pytest.fixture
def watched(run):
    return Watched(HomeSource(run.home), clock=lambda: run.at)


@pytest.fixture
def client(watched):
    # What nobody expected is an answer here too, as it is behind a real server.
    return TestClient(
        create_app(watched), base_url="http://127.0.0.1", raise_server_exceptions=False
    )


def events(client, **headers):
    answer = client.get("/runs/now/events", headers=headers)
    return [one for one in events_of(answer.content.splitlines(keepends=True)) if one is not None]


def test_the_address_leads_to_the_run_that_is_here(client, watched):
    assert client.get("/").url.path == f"/runs/{watched.source.run()}"
    assert client.get("/runs/now").url.path == f"/runs/{watched.source.run()}"


def test_a_finished_run_is_told_whole_and_its_reader_is_told_that_it_is_over(client, run):
    run.finish()
    told = events(client)
    assert [one.position for one in told] == list(range(1, run.events.last() + 1))
    assert events(client, **{"Last-Event-ID": "7"}) == told[7:]
    assert client.get("/runs/now/events?after=7").content.count(b"id: ") == len(told) - 7
    last = {"Last-Event-ID": str(told[-1].position)}
    assert client.get("/runs/now/events", headers=last).status_code == 204


def test_an_address_of_another_run_is_refused(client):
    for path in ("/runs/0123456789abcdef", "/runs/0123456789abcdef/events"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "live-run-unknown")


def test_only_reading_does_anything(client):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/", "/runs/now", "/runs/now/events"):
            assert client.request(method, path).status_code == 405


def test_a_page_of_another_site_gets_nothing(client):
    answer = client.get("/runs/now", headers={"Host": "elsewhere.example"})
    assert answer.status_code == 400
    assert b"Round" not in answer.content


@pytest.mark.parametrize("path", ["/runs/now", "/runs/0123456789abcdef", "/nowhere"])
def test_every_answer_forbids_scripts_and_loads_from_elsewhere(client, path):
    headers = client.get(path).headers
    assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_files_are_served_under_their_hash_alone(client):
    page = client.get("/runs/now").text
    addresses = set(re.findall(r"/files/[0-9a-f]{32}/[a-z.]+", page))
    assert {one.rsplit("/", 1)[1] for one in addresses} == {
        "live.js",
        "fold.js",
        "live.css",
        "icon.svg",
    }
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    assert client.get(f"/files/{'0' * 32}/live.js").status_code == 404
    assert client.get(f"/files/{'0' * 32}/..%2f..%2fserver.db").status_code == 404


def test_no_more_readers_than_there_may_be(client, watched):
    watched.readers = READERS_MAX
    answer = client.get("/runs/now/events")
    assert (answer.status_code, answer.json()["code"]) == (503, "too-many-readers")
    assert answer.headers["Retry-After"]


def test_a_reader_that_left_is_counted_no_more(client, run, watched):
    run.finish()
    events(client)
    assert watched.readers == 0


def test_what_nobody_expected_is_logged_by_its_type_alone(client, watched, caplog):
    def broken(*_args, **_how):
        raise ValueError(FACTS[1])

    watched.source.since = broken
    answer = client.get("/runs/now")
    assert answer.status_code == 500
    assert FACTS[1] not in answer.text + caplog.text
    assert "ValueError" in caplog.text


def test_no_fact_about_a_patient_is_sent_whatever_was_written_down(client, run):
    for fact in FACTS:
        run.write("refused", 1, phase="uploads", site="lakeside", code=fact)
        run.write("answered", 1, phase=fact, site=fact, numbers={fact: 1.0, "patients": 4711.0})
        run.write("metrics", 1, numbers={"patient-4711": 0.5, "auc": 0.9})
        run.write("run", code=fact)
    run.finish()
    for path in ("/runs/now", "/runs/now?language=zh", "/runs/now/events"):
        sent = client.get(path).text
        assert not [fact for fact in FACTS if fact in sent]


def test_a_home_whose_run_is_not_founded_has_a_page(tmp_path):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    (home.path / "settings.json").write_text("{}")
    client = TestClient(create_app(Watched(HomeSource(home))), base_url="http://127.0.0.1")
    assert "Waiting for the first round" in client.get("/").text


# The command.


def test_watching_prints_one_event_a_line_and_ends_with_the_run(run):
    run.finish()
    found = CliRunner().invoke(command, ["watch", "--home", str(run.home.path), "--json"])
    assert found.exit_code == 0
    lines = [json.loads(line) for line in found.output.splitlines()]
    assert [line["position"] for line in lines] == list(range(1, run.events.last() + 1))


def test_watching_a_run_that_stopped_ends_with_one(run):
    run.write("run", code="too-few-sites")
    found = CliRunner().invoke(command, ["watch", "--home", str(run.home.path)])
    assert found.exit_code == 1
    assert "the run stopped: too-few-sites" in found.output
    assert "refused lakeside: certificate-stale" in found.output
    assert "round 1/10 closed" in found.output


def test_watching_goes_on_after_a_server_that_stopped_and_was_started_again(run):
    run.write("run", code="too-few-sites")
    run.write("run", code="started")
    run.finish()
    found = CliRunner().invoke(command, ["watch", "--home", str(run.home.path)])
    assert found.exit_code == 0


def test_watching_a_stopped_run_waits_while_a_supervisor_is_there_to_start_it_again(run):
    run.write("run", code="too-few-sites")
    folder = run.home.path / "deployment"
    folder.mkdir()

    def begin_again():
        run.write("run", code="started")
        run.finish()

    with hold(folder):
        later = threading.Timer(1.0, begin_again)
        later.start()
        found = CliRunner().invoke(command, ["watch", "--home", str(run.home.path)])
        later.join()
    assert found.exit_code == 0
    assert "the run stopped: too-few-sites" in found.output


def test_over_an_address_a_stopped_run_is_waited_for(run, monkeypatch):
    run.write("run", code="too-few-sites")
    stopped = [*HomeSource(run.home).since(0, limit=10_000), None, None]
    run.write("run", code="started")
    run.finish()
    again = HomeSource(run.home).since(0, limit=10_000)[len(stopped) - 2 :]
    for events, code in ((stopped + again, 0), (stopped, 1)):
        monkeypatch.setattr(ServerSource, "follow", lambda _self, told=events: iter(told))
        found = CliRunner().invoke(command, ["watch", "--url", "http://127.0.0.1:1"])
        assert found.exit_code == code
        assert "the run stopped: too-few-sites" in found.output
    clock = itertools.count(0, live_cli.STOPPED_SECONDS)
    monkeypatch.setattr(live_cli.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        ServerSource, "follow", lambda _self: itertools.chain(stopped, itertools.repeat(None))
    )
    assert CliRunner().invoke(command, ["watch", "--url", "http://127.0.0.1:1"]).exit_code == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_watcher_ends_as_soon_as_nobody_reads(run, words):
    watcher = subprocess.Popen(
        [sys.executable, "-m", "portal", "watch", "--home", str(run.home.path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watcher.stdout.readline()
    watcher.stdout.close()  # and no event comes any more
    assert watcher.wait(60) == 0
    assert watcher.stderr.read() == b""
    watcher.stderr.close()


def test_it_ends_too_where_the_first_word_of_it_was_lost():
    code = """
import time
from portal.live.reader import until_reader_leaves

class Slow:
    def __del__(self):
        print("tidying up", flush=True)
        time.sleep(60)

with until_reader_leaves():
    slow = Slow()
    del slow  # what is raised in there goes nowhere
    time.sleep(60)
"""
    watcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watcher.stdout.readline()
    watcher.stdout.close()
    assert watcher.wait(50) == 0
    assert watcher.stderr.read() == b""
    watcher.stderr.close()


# A real server.


@pytest.mark.slow
def test_a_real_server_tells_a_reader_everything_while_the_run_is_written(run):
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "portal", "live", "serve"),
            *("--home", str(run.home.path), "--port", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    try:
        url = server.stderr.readline().split(": ", 1)[1].strip()

        def write():
            for number in range(2, 5):
                run.round(number)
            run.finish()

        writer = threading.Thread(target=write)
        writer.start()
        told = [one for one in ServerSource(url).follow() if one is not None]
        writer.join(60)
        assert [one.position for one in told] == list(range(1, run.events.last() + 1))
        found = CliRunner().invoke(command, ["watch", "--url", url, "--json"])
        assert found.exit_code == 0
        assert len(found.output.splitlines()) == len(told)
        request = urllib.request.Request(url, method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=60)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in {0, 130, -signal.SIGINT}
        server.stderr.close()
