"""The prover hands out proofs that verify, refuses what cannot be proven, and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from zk import fast, groth16
from zk.circuit import circuit
from zk.cover import closed_slot
from zk.keys import ProverMissing, development_key
from zk.prover import Prover, ProverFailed, _Job, _key, _prove, _ready
from zk.witness import WitnessRefused, witness

pytestmark = pytest.mark.slow  # workers are processes that compile

ROOT = Path(__file__).parents[2]


def test_a_proof_verifies_for_the_statement_it_comes_with(proven, chunk, vk):
    statement, proof = proven
    assert statement == chunk.statement
    assert len(proof) == groth16.PROOF_BYTES
    groth16.verify(vk, statement, proof)


def test_slots_that_do_not_satisfy_the_scope_are_refused(prover, chunk):
    slots = (replace(chunk.slots[0], expiry=20800), *chunk.slots[1:])
    with pytest.raises(WitnessRefused):
        prover.prove(slots, chunk.scope, chunk.blind)


def test_a_withdrawn_slot_cannot_be_used(prover, chunk):
    withdrawn = (replace(chunk.slots[0], leaf=0), *chunk.slots[1:])
    with pytest.raises(WitnessRefused):
        prover.prove(withdrawn, chunk.scope, chunk.blind)
    closed = (closed_slot(0), *chunk.slots[1:])
    statement, _proof = prover.prove(closed, chunk.scope, chunk.blind)
    assert statement.count == chunk.statement.count - 1


def test_proofs_can_be_made_ahead(prover, chunk, vk):
    futures = [prover.submit(chunk.slots, chunk.scope, blind) for blind in (1, 2)]
    statements = [future.result() for future in futures]
    fast.verify_many(vk, statements)
    assert statements[0][0].records_commitment != statements[1][0].records_commitment


def test_a_proof_that_does_not_verify_is_not_handed_out(cover8, keys, chunk):
    proving_key, vk = keys
    foreign = replace(vk, ic=(*vk.ic[:-2], vk.ic[-1], vk.ic[-2]))
    job = _Job(cover8, proving_key, foreign, chunk.slots, chunk.scope, chunk.blind)
    with pytest.raises(ProverFailed, match="pairing"):
        _prove(job)


def test_the_library_proves_nonsense_which_is_why_every_proof_is_checked(
    cover8, keys, chunk, tmp_path
):
    """A prover who skips the calculator: one record changed, the rest of the witness kept."""
    library, key = _key(keys[0])
    content = bytearray(witness(cover8, chunk.inputs()))
    at = content.index(chunk.slots[0].record.to_bytes(32, "little"))
    content[at] ^= 1
    (tmp_path / "wtns").write_bytes(content)
    with pytest.raises(groth16.ProofInvalid, match="pairing"):
        fast.verify(keys[1], chunk.statement, library.prove_wtns(key, str(tmp_path / "wtns")))


def test_a_proving_key_that_cannot_be_read_is_refused(cover8, vk, chunk, tmp_path):
    (tmp_path / "pk").write_bytes(b"not a key")
    job = _Job(cover8, tmp_path / "pk", vk, chunk.slots, chunk.scope, chunk.blind)
    with pytest.raises(ProverFailed, match="read"):
        _prove(job)


def test_a_worker_that_is_killed_is_reported_and_replaced(cover8, keys, chunk):
    with Prover(cover8, *keys) as fragile:
        fragile.warm()
        fragile._pool.submit(_ready).result()
        (worker,) = fragile._pool._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ProverFailed, match="ended"):
            fragile.prove(chunk.slots, chunk.scope, chunk.blind)
        fragile.prove(chunk.slots, chunk.scope, chunk.blind)


def test_leaving_the_block_ends_the_workers(cover8, keys, chunk):
    with Prover(cover8, *keys) as brief:
        brief.warm()
        (worker,) = brief._pool._processes
    assert not alive(worker)


def test_a_closed_prover_begins_nothing(cover8, keys, chunk):
    with Prover(cover8, *keys) as brief:
        pass
    with pytest.raises(ProverFailed, match="closed"):
        brief.submit(chunk.slots, chunk.scope, chunk.blind)
    with pytest.raises(ProverFailed, match="closed"):
        brief.warm()


SCRIPT = """
import sys, time
from pathlib import Path
from zk.circuit import circuit
from zk.keys import development_key
from zk.prover import Prover, _ready

if __name__ == "__main__":
    cover8 = circuit("cover8")
    prover = Prover(cover8, *development_key(cover8, Path(sys.argv[1])))
    prover.warm()
    prover._pool.submit(_ready).result()
    print(*prover._pool._processes, flush=True)
    time.sleep(60)
"""


def test_workers_end_when_their_parent_is_killed(keys, key_folder, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(key_folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(process):
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_errors_cross_processes_unchanged():
    for error in (ProverFailed("why"), WitnessRefused("why"), ProverMissing("what")):
        kind, arguments = error.__reduce__()
        assert str(kind(*arguments)) == str(error)


def test_the_production_circuit_proves_64_slots(make_slot, chunk, tmp_path):
    cover64 = circuit("cover64")
    slots = tuple(make_slot(number) for number in range(64))
    keys = development_key(cover64, tmp_path)
    with Prover(cover64, *keys) as large:
        statement, proof = large.prove(slots, chunk.scope, chunk.blind)
    assert statement.count == 64
    groth16.verify(keys[1], statement, proof)
    fast.verify(keys[1], statement, proof)
