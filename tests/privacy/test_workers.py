"""Work spread over processes gives what doing it here gives, whatever becomes of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import workers
from privacy.bfv import encrypt, open_sum, sum_residues, upload_bytes
from privacy.masks import apply
from privacy.packing import pack
from privacy.quantisation import QuantisedUpdate
from privacy.residues import SEED_BYTES
from privacy.wire import MalformedCiphertext
from privacy.workers import VARIABLE, WorkersUnusable, parts, spread, usable_workers

pytestmark = pytest.mark.slow

WORKER = "__import__('os').getpid()"
HERE = f"__import__('os').getpid() == {os.getpid()}"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No workers are left from another test, and none is left by this one."""
    monkeypatch.delenv(VARIABLE, raising=False)
    workers._crew(os.getpid()).close()
    yield
    workers._crew(os.getpid()).close()


@given(st.integers(1, 500), st.integers(1, 50), st.one_of(st.none(), st.integers(0, 16)))
def test_parts_cover_every_row_once_and_are_equal(count, each, asked):
    found = parts(count, each_at_least=each, workers=asked)
    assert [row for part in found for row in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in found]
    assert max(sizes) - min(sizes) <= 1
    if asked is None:
        assert len(found) == 1 or min(sizes) >= each
    else:
        assert len(found) == max(1, min(asked, count))


def test_small_work_stays_here_and_large_work_uses_the_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    assert len(parts(79, each_at_least=40)) == 1
    assert len(parts(80, each_at_least=40)) == 2
    assert len(parts(10**6, each_at_least=40)) == usable_workers() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    assert len(parts(10**6, each_at_least=40)) == usable_workers() == 1


@pytest.mark.parametrize(("text", "number"), [("0", 1), ("1", 1), ("2", 2), ("16", 16)])
def test_the_environment_decides_how_many(monkeypatch, text, number):
    monkeypatch.setenv(VARIABLE, text)
    assert len(parts(100, each_at_least=1000)) == number
    assert len(parts(100, each_at_least=1, workers=3)) == 3


@pytest.mark.parametrize("text", ["two", "-1", "17", "1.5", "²"])
def test_an_unusable_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(WorkersUnusable, match=VARIABLE):
        parts(100, each_at_least=1)


def test_results_come_in_order_from_several_processes():
    found = spread(eval, [WORKER, WORKER, WORKER], wait=True)
    assert found[0] == os.getpid()
    assert len(set(found)) == 3
    assert spread(len, ["", "a", "bc"], wait=True) == [0, 1, 2]


def test_workers_are_kept():
    assert spread(eval, [WORKER, WORKER], wait=True) == spread(eval, [WORKER, WORKER])


def test_one_job_starts_no_worker():
    assert spread(eval, [HERE]) == [True]
    assert workers._crew(os.getpid())._workers == []


def test_work_does_not_wait_for_a_worker_that_is_starting():
    assert spread(eval, [HERE, HERE]) == [True, True]


def test_large_jobs_pass():
    large = bytes(3 * 10**7)
    assert spread(bytes.upper, [b"a", large], wait=True) == [b"A", large]


@pytest.mark.parametrize("death", ["__import__('os')._exit(3)", "1"])
def test_a_job_whose_worker_fails_is_done_here(death):
    """Job 1 kills its worker, or raises in it, and is harmless here."""
    job = f"7 if {HERE} else ({death}, 1 / 0)"
    assert spread(eval, ["6", job], wait=True) == [6, 7]
    assert spread(eval, ["6", f"not {HERE}"], wait=True) == [6, True]  # a worker is there again


def test_a_worker_killed_between_two_jobs_is_replaced():
    _, worker = spread(eval, [WORKER, WORKER], wait=True)
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.05)
    assert spread(len, ["a", "bc"], wait=True) == [1, 2]
    _, replacement = spread(eval, [WORKER, WORKER], wait=True)
    assert replacement not in {worker, os.getpid()}


def test_a_worker_that_never_answers_is_given_up(monkeypatch):
    spread(eval, [HERE, HERE], wait=True)
    monkeypatch.setattr(workers, "WAIT_SECONDS", 0.2)
    assert spread(eval, ["1", f"{HERE} or __import__('time').sleep(60)"]) == [1, True]
    assert workers._crew(os.getpid())._workers == []


def test_a_job_that_raises_raises_here_and_the_workers_answer_the_next_one():
    with pytest.raises(ZeroDivisionError):
        spread(eval, ["1", "1 / 0"], wait=True)
    with pytest.raises(ZeroDivisionError):
        spread(eval, ["1 / 0", "2"], wait=True)
    assert spread(eval, ["3", "4"], wait=True) == [3, 4]


def test_no_worker_can_be_started_and_the_work_is_done(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert spread(eval, [HERE, HERE], wait=True) == [True, True]
    monkeypatch.setattr(sys, "executable", None)
    assert spread(eval, [HERE, HERE], wait=True) == [True, True]


def test_a_second_thread_works_alone_meanwhile():
    spread(eval, [HERE, HERE], wait=True)
    found = []
    with workers._crew(os.getpid()).lock:
        thread = threading.Thread(target=lambda: found.extend(spread(eval, [HERE, HERE])))
        thread.start()
        thread.join()
    assert found == [True, True]


def test_a_fork_gets_workers_of_its_own():
    _, ours = spread(eval, [WORKER, WORKER], wait=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _, theirs = spread(eval, [WORKER, WORKER], wait=True)
        os.write(writing, str(theirs).encode())
        workers._crew(os.getpid()).close()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) not in {ours, child, os.getpid()}
    assert spread(eval, [WORKER, WORKER])[1] == ours


PROGRAM = f"""
import os
from privacy.workers import spread
print("once")
print(spread(eval, ["0", "{WORKER}"], wait=True)[1], flush=True)
"""


@pytest.mark.parametrize("ending", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_workers_end_with_their_program_and_never_run_it_again(tmp_path, ending):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM + ending)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    once, worker = done.stdout.split()
    assert once == "once"
    deadline = time.monotonic() + 120
    while running(int(worker)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(process):
    """Say whether a process lives; one that nobody waits for any more does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def masked(preset):
    values = np.random.default_rng(5).integers(-127, 128, 40_000).astype(np.int16)
    return apply(pack(QuantisedUpdate(values, preset.value_bits, 0), 6, preset), [])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_update_encrypted_and_opened_by_several_processes_is_what_it_was(
    number, masked, group_key, server
):
    updates = [encrypt(masked, group_key, workers=number) for _ in range(2)]
    assert len(updates[0].blob) == upload_bytes(masked.length, group_key.parameters)
    total = server.add(updates)
    doubled = 2 * masked.words % group_key.parameters.plain_modulus
    assert np.array_equal(open_sum(total, group_key, workers=number), doubled)
    assert np.array_equal(open_sum(total, group_key, workers=1), doubled)


def test_no_two_processes_draw_the_same_seed(masked, group_key):
    updates = [encrypt(masked, group_key, workers=2) for _ in range(2)]
    seeds = [
        update.blob[17 + SEED_BYTES * i :][:SEED_BYTES]
        for update in updates
        for i in range(group_key.parameters.ciphertexts(masked.length))
    ]
    assert len(set(seeds)) == len(seeds)


def test_several_processes_draw_what_one_draws(masked, group_key, server):
    updates = [encrypt(masked, group_key) for _ in range(3)]
    alone = sum_residues(server.add(updates), group_key.parameters, workers=1)
    spread_out = sum_residues(server.add(updates), group_key.parameters, workers=2)
    assert np.array_equal(alone, spread_out)


def test_a_sum_with_too_much_noise_is_refused_wherever_it_is_opened(masked, group_key, server):
    total = server.add([encrypt(masked, group_key)])
    noisy = bytearray(total.blob)
    for place in range(800, 9 * 800, 800):  # in the last ciphertext, which a worker opens
        noisy[-place : 8 - place] = bytes(8)
    refused = replace(total, blob=bytes(noisy))
    for number in (1, 2):
        with pytest.raises(MalformedCiphertext, match="noise"):
            open_sum(refused, group_key, workers=number)


def test_encryption_goes_on_when_its_worker_is_killed(masked, group_key, server):
    _, worker = spread(eval, [WORKER, WORKER], wait=True)
    os.kill(worker, signal.SIGKILL)
    update = encrypt(masked, group_key, workers=2)
    assert np.array_equal(open_sum(server.add([update]), group_key), masked.words)
