"""How many events a second does the audit log take over HTTP, and how long do proofs wait?

Question  At what rate are batches of 1,000 events received over HTTP, checked (canonical JSON,
          sizes, no patient), put into the tree, signed and fsynced, while inclusion proofs are
          asked for?
Method    The server is one process with its log in SQLite. Clients in another process send bodies
          made beforehand over two kept connections; one more asks for the proof of a random record
          of the log so far, fifty times a second, and checks every proof against the head of its
          size at the end. Several runs, each on a new log that holds some events already. In turn
          with them, on the same disk, a bare executemany of the same records into a table, one
          fsynced commit a batch: no HTTP, no check, no tree, no signature. Processor time is the
          server's alone, from the system's clock of that process.
Expected  50,000 events a second and p99 below 100 ms on two idle cores; 10 to 15 µs of processor
          time an event; a tenth to a third of the bare insert's rate.
Run       python -m experiments.audit_throughput [--batches 200] [--runs 5] [--json] [--keep]
          (about a minute on two idle cores; on a busy machine the rates say little)
Result    experiments/results/audit_throughput.json
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import secrets
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoints import read_head
from audit.log import AuditLog
from audit.notes import read_note
from audit.records import record_of
from experiments._recorded import record
from storage.merkle import check_inclusion, leaf_hash

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

GOALS: Final = {"events_per_second": 50_000, "proof_p99_ms": 100}
CONTEXT: Final = multiprocessing.get_context("spawn")
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    batch: int = 1_000
    batches: int = 200
    runs: int = 5
    connections: int = 2
    proofs_per_second: int = 50
    before: int = 20
    """Batches that the log holds when the clock starts."""
    seed: int = 7


def bodies(config: Config) -> list[bytes]:
    """Return what is sent: events as a site's agent logs them, some 200 bytes each."""
    kinds = ("update-accepted", "grant-checked", "epsilon-reserved", "round-key-shown")
    made = []
    for number in range(config.before + config.batches):
        records = []
        for index in range(config.batch):
            facts = {
                "proven_patients": index % 64,
                "request": f"r-{number:05d}-{index:04d}",
                "round": number,
                "sha256": hashlib.sha256(b"%d/%d" % (number, index)).hexdigest(),
                "site": f"site-{index % 8}",
                "study": "busi-2026",
            }
            records.append(record_of(kinds[index % len(kinds)], facts))
        made.append(b"\n".join(records) + b"\n")
    return made


def one_run(folder: Path, config: Config, sent: Sequence[bytes]) -> dict[str, float]:
    """Return the rates of one new log."""
    with serving(folder / "audit.db") as (port, token, process):
        start, rest = sent[: config.before], sent[config.before :]
        send(port, token, start, connections=1)
        stop = threading.Event()
        asker = Asker(port, config, stop)
        asker.start()
        spent, started = processor_seconds(process), time.perf_counter()
        send(port, token, rest, connections=config.connections)
        seconds = time.perf_counter() - started
        spent = processor_seconds(process) - spent
        stop.set()
        asker.join()
    asker.check(folder / "audit.db")
    events = config.batch * len(rest)
    cuts = statistics.quantiles(asker.taken, n=100)
    return {
        "events_per_second": round(events / seconds),
        "cpu_us_per_event": round(spent / events * 1e6, 2),
        "proof_p50_ms": round(cuts[49] * 1000, 2),
        "proof_p99_ms": round(cuts[98] * 1000, 2),
        "proofs": len(asker.taken),
    }


def send(port: int, token: str, batches: Sequence[bytes], *, connections: int) -> None:
    """Send every batch once, over so many connections at a time."""
    waiting = iter(batches)
    turn, failed = threading.Lock(), []

    def work() -> None:
        link = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
        while True:
            with turn:
                body = next(waiting, None)
            if body is None or failed:
                link.close()
                return
            link.request("POST", "/batches", body, headers)
            answer = link.getresponse()
            content = answer.read()
            if answer.status != 201:
                failed.append(content)

    workers = [threading.Thread(target=work) for _ in range(connections)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise SystemExit(f"a batch was refused: {failed[0].decode()}")


class Asker(threading.Thread):
    """Asks for the proofs of random records, and keeps how long each took."""

    def __init__(self, port: int, config: Config, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.taken: list[float] = []
        self._got: list[tuple[int, dict[str, Any]]] = []
        self._port, self._stop_now = port, stop
        self._pause = 1 / config.proofs_per_second
        self._random = random.Random(config.seed)  # noqa: S311 - which record is no secret
        self._newest = config.batch * config.before

    def run(self) -> None:
        """Ask until told to stop."""
        link = http.client.HTTPConnection("127.0.0.1", self._port)
        while len(self.taken) < 2 or not self._stop_now.wait(self._pause):
            position = self._random.randrange(self._newest)
            started = time.perf_counter()
            link.request("GET", f"/proofs/inclusion?position={position}")
            answer = json.loads(link.getresponse().read())
            self.taken.append(time.perf_counter() - started)
            self._got.append((position, answer))
            self._newest = answer["size"]
        link.close()

    def check(self, path: Path) -> None:
        """Hold every proof against the records and the heads of the finished log."""
        log = AuditLog(path, Ed25519PrivateKey.from_private_bytes(bytes(32)))
        for position, answer in self._got:
            size = answer["size"]
            head = read_head(read_note(log.head_at(size).note(log.public_key).text()).body)
            (event,) = log.events(position, 1)
            hashes = [base64.b64decode(one) for one in answer["hashes"]]
            check_inclusion(head.root, size, position, leaf_hash(event.record.encode()), hashes)
        log.verify()
        log.close()


def bare_insert(path: Path, config: Config, sent: Sequence[bytes]) -> float:
    """Return the records a second of one executemany and one fsynced commit a batch."""
    lines = [body.split(b"\n")[:-1] for body in sent[config.before :]]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE bare (position INTEGER PRIMARY KEY, record BLOB NOT NULL)")
    position, started = 0, time.perf_counter()
    for batch in lines:
        connection.execute("BEGIN IMMEDIATE")
        rows = enumerate(batch, start=position)
        connection.executemany("INSERT INTO bare VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        position += len(batch)
    seconds = time.perf_counter() - started
    connection.close()
    return position / seconds


@contextmanager
def serving(path: Path) -> Iterator[tuple[int, str, int]]:
    """Serve a new log from a process of its own; give its port, token and process number."""
    ours, theirs = CONTEXT.Pipe()
    token = secrets.token_hex(32)
    server = CONTEXT.Process(target=serve, args=(path, token, theirs), daemon=True)
    server.start()
    try:
        assert server.pid is not None
        yield ours.recv(), token, server.pid
    finally:
        ours.send("stop")
        server.join()


def serve(path: Path, token: str, owner: Connection) -> None:
    """Serve until the owner says stop."""
    from audit.cosignatures import Cosignatures  # noqa: PLC0415 - in the server's process alone
    from portal.audit_api import audit_app, audit_server  # noqa: PLC0415 - likewise

    log = AuditLog(path, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    app = audit_app(log, Cosignatures(log, []), token=token)
    server = audit_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    owner.send(server.servers[0].sockets[0].getsockname()[1])
    owner.recv()
    server.should_exit = True
    thread.join()
    log.close()


def processor_seconds(process: int) -> float:
    """Return what a process has spent, as user and as system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def run(config: Config) -> dict[str, Any]:
    """Return all that is measured."""
    sent, runs, bare = bodies(config), [], []
    loads = [os.getloadavg()[0]]
    for number in range(config.runs):
        with tempfile.TemporaryDirectory(prefix="bithive-") as name:
            bare.append(bare_insert(Path(name) / "bare.db", config, sent))
            runs.append(one_run(Path(name), config, sent))
        loads.append(os.getloadavg()[0])
        print(f"run {number + 1}: {runs[-1]}", file=sys.stderr)
    middle_bare = statistics.median(bare)
    rates = [one["events_per_second"] for one in runs]
    return {
        "events_per_second": round(statistics.median(rates)),
        "events_per_second_spread": [min(rates), max(rates)],
        "proof_p99_ms": statistics.median([one["proof_p99_ms"] for one in runs]),
        "proof_p99_ms_worst": max(one["proof_p99_ms"] for one in runs),
        "cpu_us_per_event": statistics.median([one["cpu_us_per_event"] for one in runs]),
        "bare_insert_per_second": round(middle_bare),
        "ratio_to_bare_insert": round(statistics.median(rates) / middle_bare, 3),
        "bytes_per_event": round(sum(map(len, sent)) / (config.batch * len(sent))),
        "load_average": [round(one, 1) for one in loads],
        "runs": runs,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.audit_throughput",
        description="Events a second into the audit log over HTTP, and how long proofs wait.",
    )
    parser.add_argument("--batches", type=int, default=Config.batches, help="of 1,000 events")
    parser.add_argument("--runs", type=int, default=Config.runs, help="each on a new log")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", action="store_true", help="write the result file")
    asked = parser.parse_args()
    config = replace(Config(), batches=asked.batches, runs=asked.runs)
    started = time.monotonic()
    found = run(config)
    if asked.keep:
        record("audit_throughput", config, found, seconds=time.monotonic() - started)
    if asked.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, goal in GOALS.items():
        print(f"{name}: {found[name]} (goal {goal})")
    print(f"processor time an event: {found['cpu_us_per_event']} µs in the server")
    print(f"spread of {asked.runs} runs: {found['events_per_second_spread']}")
    print(f"of a bare insert's rate: {found['ratio_to_bare_insert']}")
    print(f"load average of the machine: {found['load_average']}")


if __name__ == "__main__":
    main()
