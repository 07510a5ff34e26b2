"""What does it cost to prove that every patient in a round consents, beside one proof a patient?

Question  For 64, 256 and 1,024 patients: how long do coverage certificates take to make, to check,
          and to make again after a withdrawal? What would one Semaphore proof, or one AnonCreds
          presentation, cost for each patient instead?
Method    Chunks of 64 patients are proved by two warm worker processes (the key loaded, one proof
          made before). Wall seconds are of all chunks together, processor seconds those of the
          workers. A contribution's certificates are then verified by the fast verifier, by py_ecc
          in one batch, and met again by a server that has seen them: its whole way with the
          contribution but for the ciphertext's form (``_gate_path``). It is spared the hashing of
          the lane's leaves to roots, which ``lane_roots_ms`` measures apart. A withdrawal sets one
          leaf to 0 and its chunk is proved again. In the same run: Semaphore proofs by node (npm
          @semaphore-protocol), checked by snarkjs and by zk.fast; AnonCreds presentations (one
          attribute, one predicate, non-revocation) in an environment of their own. Single-process
          times are the least processor seconds of their repetitions.
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
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments._gate_path import FIRST_DAY, GatePath, Study
from experiments._proof_per_patient import Tick, measure_anoncreds, measure_semaphore, measured
from experiments._recorded import record
from experiments._stopwatch import Stopwatch
from portal.demo import cache_folder
from zk import fast, groth16
from zk.circuit import Circuit, circuit
from zk.cover import CoverStatement, Scope, Slot, closed_slot, leaf_of, pack_terms
from zk.groth16 import PROOF_BYTES
from zk.keys import development_key
from zk.merkle import root_of
from zk.poseidon import FIELD, poseidon
from zk.prover import Prover

Proven = list[tuple[CoverStatement, bytes]]
GRANTS: Final = 0b111
EXPIRY: Final = 21142

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
        study = Study.of(vk, config.circuit)
        warm_up(prover, study, config.workers)
        rows = [measure_coverage(size, prover, study, config, tick) for size in config.patients]
    return {
        "coverage": rows,
        "per_patient": {
            "semaphore": measured(
                lambda: measure_semaphore(config.semaphore_proofs, config.verifications, tick)
            ),
            "anoncreds": measured(lambda: measure_anoncreds(config.anoncreds_presentations, tick)),
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
    patients: int, prover: Prover, study: Study, config: Config, tick: Tick
) -> dict[str, Any]:
    """Return the numbers of one contribution of so many patients, all slots used."""
    compiled = prover.circuit
    chunks = patients // compiled.slots
    assert chunks * compiled.slots == patients
    scopes = [study.scope(chunk) for chunk in range(chunks)]
    slots = [chunk_of(compiled, scope, chunk) for chunk, scope in enumerate(scopes)]
    tick(f"{patients} patients: prove")
    load = os.getloadavg()[0]
    used, started = workers_seconds(), time.monotonic()
    futures = [prover.submit(one, scope, 1) for one, scope in zip(slots, scopes, strict=True)]
    proven = [future.result() for future in futures]
    wall, used_after = time.monotonic() - started, workers_seconds()
    assert sum(statement.count for statement, _ in proven) == patients

    tick(f"{patients} patients: withdraw one and prove her chunk again")
    changed = (closed_slot(0), *slots[0][1:])
    started = time.monotonic()
    statement, _proof = prover.submit(changed, scopes[0], 1).result()
    reprove = time.monotonic() - started
    assert statement.count == compiled.slots - 1

    return {
        "patients": patients,
        "certificates": chunks,
        "prove_wall_s": round(wall, 2),
        "prove_cpu_s": None if used is None or used_after is None else round(used_after - used, 2),
        **measure_verification(proven, slots, study, config, tick),
        "lane_roots_ms": round(measure_roots(slots, config), 2),
        "proof_bytes_per_patient": PROOF_BYTES * chunks / patients,
        "constraints_per_patient": compiled.constraints / compiled.slots,
        "reprove_after_withdrawal_s": round(reprove, 2),
        "load_average": round(load, 2),
    }


def measure_verification(
    proven: Proven, slots: Sequence[Sequence[Slot]], study: Study, config: Config, tick: Tick
) -> dict[str, float]:
    """Return what checking one contribution's certificates takes, first and when they are known."""
    vk = study.vk
    patients = sum(statement.count for statement, _ in proven)
    watch = Stopwatch()
    tick(f"{patients} patients: verify")
    fast.verify_many(vk, proven[:1])  # reads the key once, as a server does when it starts
    for _ in range(config.verifications):
        with watch.timed("fast"):
            fast.verify_many(vk, proven)
    path = GatePath(study, proven, [[slot.leaf for slot in chunk] for chunk in slots])
    for _ in range(config.lookups):
        with watch.timed("cached"):
            path.again()
    path.close()
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


def chunk_of(compiled: Circuit, scope: Scope, chunk: int) -> tuple[Slot, ...]:
    """Return a chunk all of whose patients granted what the scope asks."""
    first = chunk * compiled.slots
    return tuple(slot_of(scope, number) for number in range(first, first + compiled.slots))


def slot_of(scope: Scope, number: int) -> Slot:
    """Return a used slot whose numbers follow from ``number``: an experiment hides nobody."""
    subject, salt, digest = (poseidon(kind, number) for kind in (1, 2, 3))
    dates = FIRST_DAY - 100, EXPIRY
    terms = pack_terms(GRANTS, scope.site, scope.dataset, scope.study, *dates)
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


def warm_up(prover: Prover, study: Study, workers: int) -> None:
    """Let every worker load its key and make a proof, of a chunk that nobody counts."""
    slots = tuple(closed_slot(number) for number in range(prover.circuit.slots))
    for future in [prover.submit(slots, study.scope(0), FIELD - 1) for _ in range(2 * workers)]:
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
