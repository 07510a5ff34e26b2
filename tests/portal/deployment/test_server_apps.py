"""A SuperLink claims ServerApps itself and hands each its token where nobody else can read it."""

import sys
import time
from pathlib import Path

import pytest

from portal.deployment import server_apps
from portal.deployment.server_apps import ServerApps

TOKEN = "5e" * 128
APP = """
import sys, time
from pathlib import Path
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
token = Path(options["--token-file"]).read_text()
said = Path("/proc/self/cmdline").read_bytes() + Path("/proc/self/environ").read_bytes()
Path(sys.argv[1]).write_text(f"{token} {token.encode() in said} {options['--parent-pid']}")
time.sleep(600)
"""


class Store:
    """Flower's store of tasks: what was asked for, and what is given next."""

    def __init__(self, *given):
        self.given = list(given)
        self.asked = []

    def claim(self, request):
        from flwr.proto.runtime_pb2 import AcquireTaskResponse

        self.asked.append(list(request.supported_task_types))
        given = self.given.pop(0) if self.given else ""
        if isinstance(given, Exception):
            raise given
        return AcquireTaskResponse(token=given)


@pytest.fixture
def apps(tmp_path):
    def make(store):
        program = (sys.executable, "-c", APP, str(tmp_path / "told"))
        made.append(ServerApps(store.claim, "127.0.0.1:1", Path("ca.pem"), program))
        return made[-1]

    made = []
    yield make
    for one in made:
        for process in one._running:
            process.kill()
            process.wait()


def until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_only_server_apps_are_claimed_and_where_none_waits_nothing_starts(apps):
    store = Store()
    kept = apps(store)
    kept.look()
    assert store.asked == [["flwr-serverapp"]]
    assert kept._running == []


def test_a_token_is_read_by_the_app_and_stands_in_no_command_line_or_environment(apps, tmp_path):
    import os

    apps(Store(TOKEN)).look()
    told = tmp_path / "told"
    until(lambda: told.exists() and told.read_text())
    assert told.read_text() == f"{TOKEN} False {os.getpid()}"


def test_a_claim_that_fails_is_tried_again(apps, tmp_path, monkeypatch):
    monkeypatch.setattr(server_apps, "LOOK_SECONDS", 0.01)
    store = Store(OSError("the store is locked"), ValueError("no such task"), TOKEN)
    kept = apps(store)
    kept.start()
    until((tmp_path / "told").exists)
    kept.stop()
    (process,) = kept._running
    assert process.wait(120) == -15
    assert len(store.asked) >= 3


def test_an_app_that_ended_is_forgotten(apps):
    kept = apps(Store(TOKEN))
    kept.look()
    (process,) = kept._running
    process.kill()
    process.wait()
    kept.look()
    assert kept._running == []
