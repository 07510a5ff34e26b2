"""Killed at every step of a settlement of 500 payouts, and resumed, each is paid exactly once."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from ledger.chain import outbox as outboxes
from ledger.chain.evidence import BatchDiffers
from ledger.chain.outbox import ATTEMPTS, INTENTS
from ledger.store import writing
from tests.ledger.chain.crashes import Deaths, Killed

PAYOUTS = {f"site-{number:03d}": 10**18 + number for number in range(500)}
KILLS_MAX = 400


def paid_once(world):
    assert world.all_held(list(PAYOUTS)) == PAYOUTS
    assert world.reconciled().differences == ()
    assert {one.state for one in world.outbox().intents()} == {"final"}


def settle_until_alive(world, deaths):
    """Settle with a process that dies at the given points; start it again each time."""
    transport = deaths.node(world.chain)
    for kills in range(KILLS_MAX):
        try:
            world.settle(transport, deaths.outbox(world.ledger.engine))
        except Killed:
            continue
        return kills
    raise AssertionError(deaths.passed[-5:])


def die_within_the_booking(monkeypatch):
    """Let the transaction that books an epoch fail once, half done."""
    real, seen = outboxes.plan, []

    def plan(connection, intents, *, now):
        real(connection, intents, now=now)
        if len(seen) == 0:
            seen.append(1)
            raise Killed("within")

    monkeypatch.setattr(outboxes, "plan", plan)


@pytest.mark.slow
def test_on_py_evm_one_settlement_dies_at_each_of_its_steps(evm, monkeypatch):
    evm.owe(PAYOUTS)
    die_within_the_booking(monkeypatch)
    kills = settle_until_alive(evm, Deaths(each=True))
    assert kills > 30
    paid_once(evm)


@pytest.mark.parametrize(
    "step",
    [pytest.param(13, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.exhaustive)],
)
def test_on_anvil_each_step_is_the_last_one_once(anvil, step):
    counting = Deaths()
    anvil.owe(PAYOUTS)
    start, books = anvil.chain.snapshot(), saved(anvil)
    assert settle_until_alive(anvil, counting) == 0
    paid_once(anvil)
    for at in range(0, len(counting.passed), step):
        anvil.chain.revert(start)
        start = anvil.chain.snapshot()
        restore(anvil, books)
        assert settle_until_alive(anvil, Deaths(at=at)) == 1
        paid_once(anvil)


def saved(world):
    with contextlib.closing(world.ledger.engine.raw_connection()) as connection:
        return connection.driver_connection.serialize()


def restore(world, books):
    world.ledger.engine.dispose()
    path = Path(world.ledger.engine.url.database)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.write_bytes(books)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_is_followed_by_one_that_pays_the_rest(anvil):
    anvil.owe(PAYOUTS)
    chances = random.Random(7)
    words = [sys.executable, "-m", "tests.ledger.chain.settle_process", anvil.chain.url]
    words += [anvil.ledger.engine.url.database, str(anvil.write_deployment())]
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        process.stdout.readline()  # it begins to settle
        time.sleep(chances.uniform(0, 1.5))
        process.kill()
        killed += process.wait() == -9
    assert killed
    assert (
        subprocess.run(words, check=False, stdout=subprocess.DEVNULL, timeout=300).returncode == 0
    )
    paid_once(anvil)


@pytest.mark.slow
def test_with_the_outbox_lost_nothing_is_paid_again(evm):
    owed = {"north": 5, "south": 6, "west": 7}
    evm.owe(owed)
    deaths = Deaths()
    sent = deaths.outbox(evm.ledger.engine)
    real = sent.sent

    def die_when_the_second_batch_is_out(attempt, height):
        real(attempt, height)
        if attempt.intent.endswith("00001"):
            evm.chain.mine(3)
            raise Killed

    sent.sent = die_when_the_second_batch_is_out
    with pytest.raises(Killed):
        evm.settle(outbox=sent, batch=2)
    with writing(evm.ledger.engine) as connection:
        connection.execute(sa.delete(ATTEMPTS))
        connection.execute(sa.delete(INTENTS))
    assert evm.settle(batch=2).recipients == 0
    assert evm.all_held(list(owed)) == owed
    assert evm.reconciled().differences == ()
    notes = [one.note for one in evm.outbox().intents()]
    assert notes == ["the chain shows it as done"] * 2


@pytest.mark.slow
def test_older_books_that_would_pay_otherwise_are_refused(evm):
    evm.owe({"north": 5})
    older = saved(evm)
    evm.settle()
    restore(evm, older)
    evm.owe({"south": 9}, key="later")
    with pytest.raises(BatchDiffers):
        evm.settle()
    assert evm.all_held(["north", "south"]) == {"north": 5, "south": 0}
