"""Workers prove what was asked of the group that was given, and end with whoever started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("groth16py", reason="real proofs need the extra `prover`")

from portal.semaphore_workers import Saying, SemaphoreWorkers, new_secret
from zk import fast
from zk.lean_imt import LeanIMT
from zk.semaphore import check
from zk.semaphore_prover import SUBGROUP_ORDER, NotAMember

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAY = """
import time
from portal.semaphore_workers import SemaphoreWorkers
if __name__ == "__main__":
    with SemaphoreWorkers(2) as workers:
        workers.commitments([5, 6, 7, 8, 9])
        print(*workers._pool._processes, flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def workers():
    with SemaphoreWorkers(2) as pool:
        yield pool


def test_each_proof_says_what_was_asked_in_the_order_of_asking(workers):
    secrets = [new_secret() for _ in range(6)]
    members = workers.commitments(secrets)
    told = []
    sayings = [Saying(secret, 7, number) for number, secret in enumerate(secrets)]
    proofs = workers.prove(members, sayings, tell=lambda *one: told.append(one))
    root = LeanIMT(members).root
    for number, proof in enumerate(proofs):
        check(proof, root=root, scope=7, message=number, verifier=fast.verify)
    assert len({proof.nullifier for proof in proofs}) == 6
    assert told == [("proving", done, 6) for done in range(1, 7)]


def test_who_is_no_member_gets_no_proof(workers):
    members = workers.commitments([new_secret()])
    with pytest.raises(NotAMember):
        workers.prove(members, [Saying(new_secret(), 1, 2)], tell=lambda *_: None)


def test_a_saying_does_not_show_its_secret():
    assert str(SUBGROUP_ORDER - 1) not in repr(Saying(SUBGROUP_ORDER - 1, 1, 2))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "stay.py"
    script.write_text(STAY)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    numbers = [int(one) for one in parent.stdout.readline().split()]
    assert len(numbers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 300
    while any(is_running(number) for number in numbers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def is_running(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
