"""Frames reach the resident agent over a private socket, and a dead agent is named."""

import socket
import stat
import threading

import pytest

from fl_client import link
from fl_client.link import AgentUnreachable, ask, receive
from fl_client.service import serve


@pytest.fixture
def served(tmp_path):
    stop = threading.Event()
    path = tmp_path / "agent.sock"
    thread = threading.Thread(target=serve, args=(lambda frame: frame[::-1], path, stop))
    thread.start()
    while not path.exists():
        stop.wait(0.01)
    yield path
    stop.set()
    thread.join()
    assert not path.exists()


def test_a_frame_goes_there_and_the_answer_comes_back(served):
    frame = bytes(range(256)) * 10_000
    assert ask(f"unix:{served}", frame) == frame[::-1]
    assert ask(f"unix:{served}", b"") == b""


def test_only_its_own_user_may_speak_to_the_agent(served):
    assert stat.S_IMODE(served.stat().st_mode) == 0o600


def test_a_peer_that_goes_away_does_not_end_the_agent(served):
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(str(served))
        half.sendall((1 << 20).to_bytes(8, "big") + b"only this")
    assert ask(f"unix:{served}", b"still here") == b"ereh llits"


def test_an_agent_that_is_not_there_is_named_with_the_way_out(tmp_path):
    with pytest.raises(AgentUnreachable, match="bithive site run"):
        ask(f"unix:{tmp_path}/none.sock", b"")
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
