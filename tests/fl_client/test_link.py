"""Frames reach the resident agent over a private socket and with its token; a dead one is named."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fl_client import link, service
from fl_client.link import AgentUnreachable, TokenRefused, ask, connected, receive, send
from fl_client.service import listening, make_token, serve

ROOT = Path(__file__).parents[2]
LOADED = """
import sys
from flwr.app import Message
from flwr.clientapp import ClientApp
ClientApp().train()
before = set(sys.modules)
import fl_client.app
print(*sorted(set(sys.modules) - before - set(sys.stdlib_module_names)))
"""


@contextlib.contextmanager
def door(folder, answer):
    """Serve ``answer`` at a socket in ``folder``; yield its path and its token's."""
    stop = threading.Event()
    path, token = folder / "agent.sock", folder / "agent.token"
    with listening(path) as listener:
        thread = threading.Thread(
            target=serve, args=(answer, listener, stop), kwargs={"token": make_token(token)}
        )
        thread.start()
        yield path, token
        stop.set()
        thread.join()
    assert not path.exists()


@pytest.fixture
def served(tmp_path):
    with door(tmp_path, lambda frame: frame[::-1]) as (path, _):
        yield path


@pytest.fixture
def token(served):
    return served.with_suffix(".token")


def test_a_frame_goes_there_and_the_answer_comes_back(served, token):
    frame = bytes(range(256)) * 10_000
    assert ask(f"unix:{served}", frame, token) == frame[::-1]
    assert ask(f"unix:{served}", b"", token) == b""


def test_one_connection_may_ask_again_and_again(served, token):
    with connected(str(served), token) as connection:
        for frame in (b"one", b"two", b"three"):
            send(connection, frame)
            assert receive(connection) == frame[::-1]


def test_only_its_own_user_may_speak_to_the_agent(served, token):
    assert stat.S_IMODE(served.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_token_is_made_once_and_is_another_at_every_door(tmp_path):
    first = make_token(tmp_path / "one")
    assert make_token(tmp_path / "one") == first
    assert len(first) == link.TOKEN_DIGITS
    assert make_token(tmp_path / "two") != first


@pytest.mark.parametrize("told", [None, b"", b"0" * 64, b"f" * 63, b"f" * 65])
def test_whoever_does_not_know_the_token_is_turned_away(served, tmp_path, told):
    other = None
    if told is not None:
        other = tmp_path / "other.token"
        other.write_bytes(told)
    with pytest.raises(TokenRefused, match="token file"):
        ask(f"unix:{served}", b"frame", other)


def test_the_token_is_told_to_nobody_but_its_owner(tmp_path, monkeypatch):
    place, token = tmp_path / "agent.sock", tmp_path / "agent.token"
    make_token(token)
    stranger = token.stat().st_uid + 1
    monkeypatch.setattr(link, "listens", lambda _connection: stranger)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place))
        listener.listen(1)
        with pytest.raises(AgentUnreachable, match="another user"):
            ask(f"unix:{place}", b"frame", token)
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b""


def test_the_kernel_tells_who_listens(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen(1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / "agent.sock"))
            assert link.listens(client) in {os.geteuid(), None}


def test_without_the_token_no_frame_is_read(tmp_path):
    heard = []
    with (
        door(tmp_path, lambda frame: heard.append(frame) or b"") as (path, _),
        socket.socket(socket.AF_UNIX) as stranger,
    ):
        stranger.connect(str(path))
        stranger.sendall(b"0" * 64 + (5).to_bytes(8, "big") + b"frame")
        assert stranger.recv(1) == link.TURNED_AWAY
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert heard == []


def test_a_short_question_is_answered_while_a_long_one_is(tmp_path):
    going_on, enough = threading.Event(), threading.Event()

    def answer(frame):
        if frame == b"train":
            going_on.set()
            enough.wait(60)
        return frame

    with door(tmp_path, answer) as (path, token):
        long = threading.Thread(target=ask, args=(f"unix:{path}", b"train", token))
        long.start()
        assert going_on.wait(60)
        assert ask(f"unix:{path}", b"health", token) == b"health"
        enough.set()
        long.join()


def test_what_is_being_answered_at_the_end_is_answered(tmp_path):
    going_on, replies = threading.Event(), []
    stop = threading.Event()

    def answer(frame):
        going_on.set()
        stop.wait(60)
        return frame

    path, token = tmp_path / "agent.sock", tmp_path / "agent.token"
    with listening(path) as listener:
        serving = threading.Thread(
            target=serve, args=(answer, listener, stop), kwargs={"token": make_token(token)}
        )
        serving.start()
        asking = threading.Thread(
            target=lambda: replies.append(ask(f"unix:{path}", b"open", token))
        )
        asking.start()
        assert going_on.wait(60)
        stop.set()
        asking.join()
        serving.join()
    assert replies == [b"open"]


def test_a_peer_that_goes_away_or_says_nothing_does_not_end_the_agent(served, token, monkeypatch):
    monkeypatch.setattr(service, "PEER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent, connected(str(served), token) as half:
        silent.connect(str(served))
        half.sendall((1 << 20).to_bytes(8, "big") + b"only this")
        assert silent.recv(1) == b""
    assert ask(f"unix:{served}", b"still here", token) == b"ereh llits"


def test_an_agent_that_is_not_there_is_named_with_the_way_out(tmp_path):
    with pytest.raises(AgentUnreachable, match="bithive site run"):
        ask(f"unix:{tmp_path}/none.sock", b"")
    with pytest.raises(AgentUnreachable):
        ask(f"unix:{tmp_path}/none.sock", b"", Path("no-such.token"))
    with pytest.raises(AgentUnreachable):
        ask("local:nobody", b"")


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_allocated():
    here, there = socket.socketpair()
    with here, there:
        there.sendall((1 << 60).to_bytes(8, "big"))
        with pytest.raises(OSError, match="too large"):
            receive(here)


def test_an_agent_of_this_process_answers_by_name():
    address = link.register("twin", bytes.upper)
    assert ask(address, b"abc") == b"ABC"
    link.forget("twin")
    with pytest.raises(AgentUnreachable):
        ask(address, b"abc")


def test_the_client_app_loads_flower_and_what_carries_frames_and_nothing_else():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    beside = [name for name in done.stdout.split() if name.split(".")[0] != "flwr"]
    assert beside == [
        *("fl_client", "fl_client.app", "fl_client.link"),
        *("protocol", "protocol.errors", "protocol.frames"),
    ]
