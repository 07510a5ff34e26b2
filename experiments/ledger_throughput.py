"""How many durable postings a second do the books take, and what does double entry cost?

Question  At what rate do transfers of one posting each, with keys of their own, become durable in
          batches of 1,000, on SQLite and on PostgreSQL; and how long does one take over HTTP?
Method    A posting is a transfer from one wallet to another under its own key: checked against
          balances and flags, chained by SHA-256, netted into its accounts, committed with an fsync.
          Beside each batch, on the same database, a bare executemany of the same rows (transfers
          and legs, with the same keys and constraints, in one commit, and nothing else). Batches
          alternate, each side goes first every other time. Rates are of the whole time and of the
          median batch; the ratio is of the medians, because other work on the machine meets both.
          Over HTTP: uvicorn on this machine, one transfer in each request, one after another.
Expected  20,000 a second on SQLite and 10,000 on PostgreSQL on an idle machine; at most 2.5 times
          the bare insert; under 50 ms over HTTP for 99 of 100.
Run       python -m experiments.ledger_throughput [--batches 20] [--requests 400] [--json] [--keep]
          (about a minute; PostgreSQL is left out, and said to be, where its programs are missing)
Result    experiments/results/ledger_throughput.json
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from experiments._postgresql import running_server
from experiments._recorded import record
from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.journal import Entry, Leg
from ledger.store import Amount, open_tables, stored_amount
from storage.database import open_database, writing
from storage.postgresql import open_postgresql

if TYPE_CHECKING:
    from protocol.ids import AccountId

NOW: Final = datetime(2026, 11, 21, tzinfo=UTC)
GOALS: Final = {"sqlite": 20_000, "postgresql": 10_000, "api_p99_ms": 50}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    batch: int = 1_000
    batches: int = 20
    accounts: int = 200
    requests: int = 400


BARE: Final = sa.MetaData()
TRANSFERS: Final = sa.Table(
    "bare_transfers",
    BARE,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String, unique=True, nullable=False),
    sa.Column("memo", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)
LEGS: Final = sa.Table(
    "bare_legs",
    BARE,
    sa.Column("sequence", sa.ForeignKey("bare_transfers.sequence"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("debit", sa.String, nullable=False),
    sa.Column("credit", sa.String, nullable=False),
    sa.Column("amount", Amount, nullable=False),
)


def measure(engine: sa.Engine, config: Config) -> dict[str, Any]:
    """Return rates of a database, which is empty."""
    ledger = Ledger(engine)
    wallets = [chart.wallet(f"party-{number}") for number in range(config.accounts)]
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    ledger.open_accounts(wallets)
    start = [Leg(chart.treasury("community"), one, 10**22) for one in wallets]
    ledger.transfer_many("start", start, memo="", now=NOW)
    with writing(engine) as connection:
        BARE.create_all(connection)
    posted, bare = [], []
    for number in range(config.batches):
        entries = batch(config, wallets, number)
        sides: list[tuple[list[float], Callable[[], object]]] = [
            (posted, lambda entries=entries: ledger.post_batch(entries, now=NOW)),  # type: ignore[misc] # mypy knows no defaults of a lambda
            (bare, lambda entries=entries, number=number: insert_bare(engine, entries, number)),  # type: ignore[misc] # likewise
        ]
        for taken, run in sides if number % 2 else sides[::-1]:
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    assert ledger.verify().transfers == 2 + config.batch * config.batches
    middle, middle_bare = statistics.median(posted), statistics.median(bare)
    return {
        "postings_per_second": round(config.batch * config.batches / sum(posted)),
        "postings_per_second_median_batch": round(config.batch / middle),
        "bare_postings_per_second": round(config.batch * config.batches / sum(bare)),
        "bare_postings_per_second_median_batch": round(config.batch / middle_bare),
        "ratio_to_bare_insert": round(middle / middle_bare, 2),
    }


def batch(config: Config, wallets: list[AccountId], number: int) -> list[Entry]:
    """Return the transfers of one batch: each wallet pays the one some places on."""
    entries = []
    for index in range(config.batch):
        debit = wallets[index % len(wallets)]
        credit = wallets[(index * 7 + number + 1) % len(wallets)]
        amount = 10**15 + index
        entries.append(Entry(f"pay:{number}:{index}", (Leg(debit, credit, amount),), "a payment"))
    return entries


def insert_bare(engine: sa.Engine, entries: list[Entry], number: int) -> None:
    """Write the same rows by executemany of the driver and nothing else, in one commit."""
    mark = "%s" if engine.dialect.name == "postgresql" else "?"
    first = number * len(entries)
    at, link = NOW.isoformat(), bytes(32)
    transfers = [(first + n, one.key, one.memo, at, link) for n, one in enumerate(entries)]
    legs = [
        (first + n, 0, leg.debit, leg.credit, stored_amount(leg.amount, engine.dialect))
        for n, one in enumerate(entries)
        for leg in one.legs
    ]
    marks = ", ".join([mark] * 5)
    with writing(engine) as connection:
        connection.exec_driver_sql(f"INSERT INTO bare_transfers VALUES ({marks})", transfers)  # noqa: S608 - marks alone
        connection.exec_driver_sql(f"INSERT INTO bare_legs VALUES ({marks})", legs)  # noqa: S608 - likewise


def measure_api(folder: Path, config: Config) -> dict[str, float]:
    """Return percentiles, in milliseconds, of single transfers over HTTP on this machine."""
    import httpx  # noqa: PLC0415 - for this measurement alone

    ledger = Ledger(folder / "api.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    payer, payee = chart.treasury("ecosystem"), ledger.open_account(chart.wallet("payee"))
    token, taken = secrets.token_hex(32), []
    with serving(ledger, token) as address, httpx.Client(trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        for number in range(config.requests + 20):
            asked = {"key": f"k{number}", "debit": payer, "credit": payee, "amount": str(10**18)}
            started = time.perf_counter()
            client.post(f"{address}/transfers", json=asked).raise_for_status()
            taken.append((time.perf_counter() - started) * 1000)
    ledger.verify()
    ledger.close()
    cuts = statistics.quantiles(taken[20:], n=100)  # the first few load modules
    return {"api_p50_ms": round(cuts[49], 2), "api_p99_ms": round(cuts[98], 2)}


@contextmanager
def serving(ledger: Ledger, token: str) -> Iterator[str]:
    """Serve the books on a free port of this machine."""
    import uvicorn  # noqa: PLC0415 - for this measurement alone

    from portal.ledger_api import ledger_app  # noqa: PLC0415 - likewise

    app = ledger_app(ledger, token=token, clock=lambda: datetime.now(UTC))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def run(config: Config) -> dict[str, Any]:
    """Return all that is measured; what PostgreSQL would say is null where there is none."""
    found: dict[str, Any] = {"load_average": [round(one, 1) for one in os.getloadavg()]}
    with tempfile.TemporaryDirectory(prefix="bithive-") as name:
        folder = Path(name)
        engine = open_tables(open_database(folder / "ledger.db", sa.MetaData(), private=True))
        found["sqlite"] = measure(engine, config)
        engine.dispose()
        found |= measure_api(folder, config)
    with running_server() as address:
        if address is not None:
            engine = open_tables(open_postgresql(address))
            found["postgresql"] = measure(engine, config)
            engine.dispose()
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    server = found.get("postgresql")
    return {
        "sqlite_postings_per_second": found["sqlite"]["postings_per_second"],
        "postgresql_postings_per_second": server and server["postings_per_second"],
        "ratio_to_bare_insert": {
            "sqlite": found["sqlite"]["ratio_to_bare_insert"],
            "postgresql": server and server["ratio_to_bare_insert"],
        },
        "api_p99_ms": found["api_p99_ms"],
        "load_average": found["load_average"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ledger_throughput",
        description="Durable postings a second, beside bare inserts of the same rows.",
    )
    parser.add_argument("--batches", type=int, default=Config.batches, help="of 1,000 postings")
    parser.add_argument("--requests", type=int, default=Config.requests, help="over HTTP")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", action="store_true", help="write the result file")
    asked = parser.parse_args()
    config = replace(Config(), batches=asked.batches, requests=asked.requests)
    started = time.monotonic()
    found = run(config)
    if asked.keep:
        record("ledger_throughput", config, found, seconds=time.monotonic() - started)
    if asked.json:
        sys.stdout.write(json.dumps(summary(found)) + "\n")
        return
    for name, goal in GOALS.items():
        what = found.get(name)
        print(f"{name}: {what if what is not None else 'not measured: no server'} (goal {goal})")
    print(f"load average of the machine: {found['load_average']}")


if __name__ == "__main__":
    main()
