"""One proof a patient, for comparison: Semaphore by node, AnonCreds in its own environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from experiments._stopwatch import Stopwatch
from portal.demo import cache_folder
from zk import fast
from zk.groth16 import PROOF_BYTES
from zk.semaphore import SemaphoreProof, check

Tick = Callable[[str], None]

HERE: Final = Path(__file__).parent
SEMAPHORE: Final = HERE.parent / "zk" / "semaphore"
ANONCREDS: Final = "0.2.3"
MESSAGE_BYTES: Final = 32
INSTALL_SECONDS_MAX: Final = 300
RUN_SECONDS_MAX: Final = 600


class Missing(Exception):
    """What a comparison needs is not here; the text says what and how to get it."""


def measured(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a measurement gives, or what it misses."""
    try:
        return measurement()
    except Missing as missing:
        return {"missing": str(missing)}


def measure_semaphore(proofs: int, verifications: int, tick: Tick) -> dict[str, Any]:
    """Return what one Semaphore proof costs: made by node, checked by snarkjs and by us."""
    node = shutil.which("node")
    if node is None or not (SEMAPHORE / "node" / "node_modules").is_dir():
        raise Missing("Semaphore needs node and `npm ci --ignore-scripts` in zk/semaphore/node")
    tick("one Semaphore proof a patient")
    script = str(HERE / "_semaphore_proof.mjs")
    row = run([node, script, str(SEMAPHORE), str(proofs)])
    proof = SemaphoreProof.from_json(row["proof"])
    watch = Stopwatch()
    for _ in range(verifications):
        with watch.timed("check"):
            check(
                proof,
                root=proof.root,
                scope=proof.scope,
                message=proof.message,
                verifier=fast.verify,
            )
    return {
        "proofs": proofs,
        "prove_cpu_s": round(min(row["prove_cpu"]), 3),
        "prove_wall_s": round(min(row["prove_wall"]), 3),
        "prove_wall_s_first": round(row["prove_wall"][0], 3),
        "verify_ms": round(1000 * watch.least("check"), 2),
        "verify_ms_snarkjs": round(1000 * min(row["verify_cpu"]), 1),
        # Root and scope are common to all; the nullifier and the message are the patient's.
        "bytes": PROOF_BYTES + 2 * MESSAGE_BYTES,
    }


def measure_anoncreds(presentations: int, tick: Tick) -> dict[str, Any]:
    """Return what one AnonCreds presentation costs, by the library in an environment of its own."""
    python = anoncreds_python(tick)
    tick("one AnonCreds presentation a patient")
    script = str(HERE / "_anoncreds_presentation.py")
    row = run([str(python), script, str(presentations)])
    return {
        "version": row["version"],
        "presentations": presentations,
        "prove_cpu_s": round(min(row["prove"]), 4),
        "verify_ms": round(1000 * min(row["verify"]), 1),
        "bytes": row["bytes"],
    }


def anoncreds_python(tick: Tick) -> Path:
    """Return an interpreter that has anoncreds, made in the cache folder on first use."""
    folder = cache_folder() / f"anoncreds-{ANONCREDS}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        tick(f"installing anoncreds {ANONCREDS} into the cache folder")
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", f"anoncreds=={ANONCREDS}"]
        ended = subprocess.run(  # noqa: S603 - a command of ours
            command, capture_output=True, timeout=INSTALL_SECONDS_MAX, check=False
        )
        if ended.returncode != 0:
            raise Missing(f"AnonCreds needs `pip install anoncreds=={ANONCREDS}`, which failed")
        done.touch()
    return python


def run(command: Sequence[str]) -> dict[str, Any]:
    """Return the JSON object that a program prints."""
    ended = subprocess.run(  # noqa: S603 - commands of ours
        command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
    )
    if ended.returncode != 0:
        why = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise Missing(f"{Path(command[1]).name} ended with status {ended.returncode}: {why}")
    row: dict[str, Any] = json.loads(ended.stdout)
    return row
