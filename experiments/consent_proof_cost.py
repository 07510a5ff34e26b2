"""What does it cost to prove that every patient in a round consents, beside one proof a patient?

Question  For 64, 256 and 1,024 patients: how long do coverage certificates take to make, to check,
          and to make again after a withdrawal? What would one Semaphore proof, or one AnonCreds
          presentation, cost for each patient instead?
Method    Chunks of 64 patients are proved by two warm worker processes (the key loaded, one proof
          made before). Wall seconds are of all chunks together, processor seconds those of the
          workers. A contribution's certificates are then verified by the fast verifier, by py_ecc
          in one batch, and looked up by digest as a server does that has seen them; what that
          server spends beside on hashing the lane's leaves to roots is measured apart. A
          withdrawal sets one leaf to 0 and its chunk is proved again. In the same run: Semaphore
          proofs by node (npm @semaphore-protocol), checked by snarkjs and by zk.fast; AnonCreds
          presentations (one attribute, one predicate, non-revocation) in an environment of their
          own. Single-process times are the least processor seconds of their repetitions.
Expected  1,024 patients in at most 45 s on two idle cores; verified in 50 ms the first time and
          1 ms later; 900 constraints and 4 bytes a patient; 6 s to prove a chunk again. One proof a
          patient costs some 20 times as much to make with Semaphore and, with AnonCreds, about as
          much to make, but over 1,000 times as much to check and 5,000 times the bytes.
Run       python -m experiments.consent_proof_cost [--quick] [--json]   (about 2 minutes, 1 GB)
Result    experiments/results/consent_proof_cost.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments._recorded import record
from experiments._stopwatch import Stopwatch
from portal.demo import cache_folder
from zk import fast, groth16
from zk.circuit import Circuit, circuit
from zk.cover import CoverStatement, Scope, Slot, closed_slot, context_of, leaf_of, pack_terms
from zk.groth16 import PROOF_BYTES
from zk.keys import VerificationKey, development_key
from zk.merkle import root_of
from zk.poseidon import FIELD, poseidon
from zk.prover import Prover
from zk.semaphore import SemaphoreProof, check

Proven = list[tuple[CoverStatement, bytes]]
Tick = Callable[[str], None]

HERE: Final = Path(__file__).parent
SEMAPHORE: Final = HERE.parent / "zk" / "semaphore"
ANONCREDS: Final = "0.2.3"
GRANTS, REQUIRED = 0b111, 0b101
FIRST_DAY, LAST_DAY, EXPIRY = 20777, 20807, 21142
MESSAGE_BYTES: Final = 32
INSTALL_SECONDS_MAX: Final = 300
RUN_SECONDS_MAX: Final = 600

EXAMPLES: Final = """examples:
  python -m experiments.consent_proof_cost                 all of it, and record the result
  python -m experiments.consent_proof_cost --quick         small chunks only; records nothing
  python -m experiments.consent_proof_cost --json > o.json one object instead of the table

Semaphore needs node 20 and `npm ci --ignore-scripts` in zk/semaphore/node. AnonCreds is installed
from PyPI into the cache folder on first use. What is missing is named, nothing is recorded then,
and the exit code is 1.
"""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    circuit: str = "cover64"
    patients: tuple[int, ...] = (64, 256, 1024)
    workers: int = 2
    verifications: int = 5
    lookups: int = 20
    semaphore_proofs: int = 3
    anoncreds_presentations: int = 5


@dataclass(frozen=True)
class Goal:
    """A bound on one number of one row."""

    patients: int
    key: str
    bound: float

    def met(self, rows: Sequence[dict[str, Any]]) -> bool | None:
        """Return whether it holds, or None where it was not measured."""
        values = [row[self.key] for row in rows if row["patients"] == self.patients]
        return values[0] <= self.bound if values and values[0] is not None else None


GOALS: Final = (
    Goal(1024, "prove_wall_s", 45),
    Goal(1024, "verify_ms_first", 50),
    Goal(1024, "verify_ms_cached", 1),
    Goal(64, "pyecc_verify_s", 1.5),
    Goal(1024, "pyecc_verify_s", 6),
    Goal(1024, "constraints_per_patient", 900),
    Goal(1024, "proof_bytes_per_patient", 4),
    Goal(1024, "reprove_after_withdrawal_s", 6),
)


class Missing(Exception):
    """What a comparison needs is not here; the text says what and how to get it."""


def main() -> int:
    """Measure, print, record; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="chunks of 8, fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    config = Config()
    if options.quick:
        config = Config("cover8", (8, 32), 2, 2, 5, 1, 2)
    started = time.monotonic()
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        # Drawn between measurements: a thread that draws would be in the processor time.
        task = progress.add_task("", total=None)

        def tick(words: str) -> None:
            progress.update(task, description=words, advance=1)
            progress.refresh()

        rows = measure(config, tick)
    missing = [block["missing"] for block in rows["per_patient"].values() if "missing" in block]
    if not missing and not options.quick:
        record("consent_proof_cost", config, rows, seconds=time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        show(rows)
    for reason in missing:
        sys.stderr.write(f"consent_proof_cost: {reason}\n")
    return 1 if missing else 0


def measure(config: Config, tick: Tick) -> dict[str, Any]:
    """Return a row for each number of patients, the comparisons, the host's load and the goals."""
    load_before = os.getloadavg()
    compiled = circuit(config.circuit)
    tick("key")
    proving_key, vk = development_key(compiled, cache_folder())
    with Prover(compiled, proving_key, vk, workers=config.workers) as prover:
        tick("warm up")
        warm_up(prover, config.workers)
        rows = [measure_coverage(size, prover, vk, config, tick) for size in config.patients]
    return {
        "coverage": rows,
        "per_patient": {
            "semaphore": measured(lambda: measure_semaphore(config, tick)),
            "anoncreds": measured(lambda: measure_anoncreds(config, tick)),
        },
        "host": {
            "cores": os.cpu_count(),
            "load_before": [round(one, 2) for one in load_before],
            "load_after": [round(one, 2) for one in os.getloadavg()],
        },
        "goals": [
            {"patients": goal.patients, "key": goal.key, "bound": goal.bound, "met": goal.met(rows)}
            for goal in GOALS
        ],
    }


def measure_coverage(
    patients: int, prover: Prover, vk: VerificationKey, config: Config, tick: Tick
) -> dict[str, Any]:
    """Return the numbers of one contribution of so many patients, all slots used."""
    compiled = prover.circuit
    chunks = patients // compiled.slots
    assert chunks * compiled.slots == patients
    slots = [chunk_of(compiled, chunk) for chunk in range(chunks)]
    tick(f"{patients} patients: prove")
    load = os.getloadavg()[0]
    used, started = workers_seconds(), time.monotonic()
    futures = [prover.submit(one, scope_of(vk, chunk), 1) for chunk, one in enumerate(slots)]
    proven = [future.result() for future in futures]
    wall, used_after = time.monotonic() - started, workers_seconds()
    assert sum(statement.count for statement, _ in proven) == patients

    tick(f"{patients} patients: withdraw one and prove her chunk again")
    changed = (closed_slot(0), *slots[0][1:])
    started = time.monotonic()
    statement, _proof = prover.submit(changed, scope_of(vk, 0), 1).result()
    reprove = time.monotonic() - started
    assert statement.count == compiled.slots - 1

    return {
        "patients": patients,
        "certificates": chunks,
        "prove_wall_s": round(wall, 2),
        "prove_cpu_s": None if used is None or used_after is None else round(used_after - used, 2),
        **measure_verification(proven, vk, config, tick),
        "lane_roots_ms": round(measure_roots(slots, config), 2),
        "proof_bytes_per_patient": PROOF_BYTES * chunks / patients,
        "constraints_per_patient": compiled.constraints / compiled.slots,
        "reprove_after_withdrawal_s": round(reprove, 2),
        "load_average": round(load, 2),
    }


def measure_verification(
    proven: Proven, vk: VerificationKey, config: Config, tick: Tick
) -> dict[str, float]:
    """Return what checking one contribution's certificates takes, first and when they are known."""
    patients = sum(statement.count for statement, _ in proven)
    watch = Stopwatch()
    tick(f"{patients} patients: verify")
    fast.verify_many(vk, proven[:1])  # reads the key once, as a server does when it starts
    for _ in range(config.verifications):
        with watch.timed("fast"):
            fast.verify_many(vk, proven)
    sent = [statement.public_inputs() for statement, _ in proven]
    known = {statement.digest() for statement, _ in proven}
    for _ in range(config.lookups):
        with watch.timed("cached"):
            found = [CoverStatement.from_public_inputs(one).digest() in known for one in sent]
        assert all(found)
    tick(f"{patients} patients: verify with py_ecc")
    with watch.timed("py_ecc"):
        groth16.verify_many(vk, proven)
    return {
        "verify_ms_first": round(1000 * watch.least("fast"), 2),
        "verify_ms_cached": round(1000 * watch.least("cached"), 3),
        "pyecc_verify_s": round(watch.least("py_ecc"), 2),
    }


def measure_roots(slots: Sequence[Sequence[Slot]], config: Config) -> float:
    """Return the milliseconds that hashing a lane's leaves to chunk roots takes."""
    leaves = [[slot.leaf for slot in chunk] for chunk in slots]
    watch = Stopwatch()
    for _ in range(config.verifications):
        with watch.timed("roots"):
            for chunk in leaves:
                root_of(chunk)
    return 1000 * watch.least("roots")


def measured(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a measurement gives, or what it misses."""
    try:
        return measurement()
    except Missing as missing:
        return {"missing": str(missing)}


def measure_semaphore(config: Config, tick: Tick) -> dict[str, Any]:
    """Return what one Semaphore proof costs: made by node, checked by snarkjs and by us."""
    node = shutil.which("node")
    if node is None or not (SEMAPHORE / "node" / "node_modules").is_dir():
        raise Missing("Semaphore needs node and `npm ci --ignore-scripts` in zk/semaphore/node")
    tick("one Semaphore proof a patient")
    script = str(HERE / "_semaphore_proof.mjs")
    row = run([node, script, str(SEMAPHORE), str(config.semaphore_proofs)])
    proof = SemaphoreProof.from_json(row["proof"])
    watch = Stopwatch()
    for _ in range(config.verifications):
        with watch.timed("check"):
            check(
                proof,
                root=proof.root,
                scope=proof.scope,
                message=proof.message,
                verifier=fast.verify,
            )
    return {
        "proofs": config.semaphore_proofs,
        "prove_cpu_s": round(min(row["prove_cpu"]), 3),
        "prove_wall_s": round(min(row["prove_wall"]), 3),
        "prove_wall_s_first": round(row["prove_wall"][0], 3),
        "verify_ms": round(1000 * watch.least("check"), 2),
        "verify_ms_snarkjs": round(1000 * min(row["verify_cpu"]), 1),
        # Root and scope are common to all; the nullifier and the message are the patient's.
        "bytes": PROOF_BYTES + 2 * MESSAGE_BYTES,
    }


def measure_anoncreds(config: Config, tick: Tick) -> dict[str, Any]:
    """Return what one AnonCreds presentation costs, by the library in an environment of its own."""
    python = anoncreds_python(tick)
    tick("one AnonCreds presentation a patient")
    script = str(HERE / "_anoncreds_presentation.py")
    row = run([str(python), script, str(config.anoncreds_presentations)])
    return {
        "version": row["version"],
        "presentations": config.anoncreds_presentations,
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


def chunk_of(compiled: Circuit, chunk: int) -> tuple[Slot, ...]:
    """Return a chunk all of whose patients granted what the scope asks."""
    first = chunk * compiled.slots
    return tuple(slot_of(number) for number in range(first, first + compiled.slots))


def slot_of(number: int) -> Slot:
    """Return a used slot whose numbers follow from ``number``: an experiment hides nobody."""
    subject, salt, digest = (poseidon(kind, number) for kind in (1, 2, 3))
    terms = pack_terms(GRANTS, 1, 1, 1, FIRST_DAY - 100, EXPIRY)
    return Slot(
        leaf=leaf_of(subject, terms, salt),
        used=True,
        subject=subject,
        salt=salt,
        grants=GRANTS,
        not_before=FIRST_DAY - 100,
        expiry=EXPIRY,
        record=digest,
    )


def scope_of(vk: VerificationKey, chunk: int) -> Scope:
    """Return the scope of a chunk's certificate."""
    return Scope(
        study=1,
        site=1,
        dataset=1,
        required=REQUIRED,
        from_day=FIRST_DAY,
        through_day=LAST_DAY,
        context=context_of(1, "experiment", vk.hash, chunk),
    )


def warm_up(prover: Prover, workers: int) -> None:
    """Let every worker load its key and make a proof, of a chunk that nobody counts."""
    slots = tuple(closed_slot(number) for number in range(prover.circuit.slots))
    scope = scope_of(prover.verification_key, 0)
    for future in [prover.submit(slots, scope, FIELD - 1) for _ in range(2 * workers)]:
        future.result()


def workers_seconds() -> float | None:
    """Return the processor seconds of this process's children so far; None if it cannot be told."""
    ticks = 0
    try:
        for child in multiprocessing.active_children():
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, of proc(5)
    except OSError:
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def show(rows: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    table = Table(
        "patients", "prove wall s", "CPU s", "verify ms", "known ms", "py_ecc s", "again s"
    )
    for row in rows["coverage"]:
        keys = (
            "patients", "prove_wall_s", "prove_cpu_s", "verify_ms_first", "verify_ms_cached",
            "pyecc_verify_s", "reprove_after_withdrawal_s",
        )  # fmt: skip
        table.add_row(*("-" if row[key] is None else f"{row[key]:,}" for key in keys))
    console.print(table)
    largest = rows["coverage"][-1]
    per = Table("per patient", "prove CPU ms", "verify ms", "bytes")
    per.add_row(
        f"certificates, {largest['patients']:,} patients",
        "-"
        if largest["prove_cpu_s"] is None
        else f"{1000 * largest['prove_cpu_s'] / largest['patients']:.0f}",
        f"{largest['verify_ms_first'] / largest['patients']:.3f}",
        f"{largest['proof_bytes_per_patient']:.0f}",
    )
    for name, block in rows["per_patient"].items():
        if "missing" in block:
            per.add_row(name, "not measured", "", "")
        else:
            per.add_row(
                name,
                f"{1000 * block['prove_cpu_s']:,.0f}",
                f"{block['verify_ms']:.1f}",
                f"{block['bytes']:,}",
            )
    console.print(per)
    host = rows["host"]
    console.print(f"load average {host['load_before'][0]} before, {host['load_after'][0]} after")
    for goal in rows["goals"]:
        if goal["met"] is not None:
            word = "met" if goal["met"] else "NOT met"
            console.print(
                f"{goal['key']} of {goal['patients']:,} <= {goal['bound']}: {word}", highlight=False
            )


if __name__ == "__main__":
    raise SystemExit(main())
