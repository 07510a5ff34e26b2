"""Killed at every step of a settlement of 500 payouts, and resumed, each is paid exactly once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from ledger.chain import outbox as outboxes
from ledger.chain.outbox import ATTEMPTS, INTENTS
from ledger.store import writing
from tests.ledger.chain.crashes import Deaths, Killed
from tests.ledger.chain.world import NOW

PAYOUTS = {f"site-{number:03d}": 10**18 + number for number in range(500)}
KILLS_MAX = 400


def paid_once(world):
    assert {name: world.held(name) for name in PAYOUTS} == PAYOUTS
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


@pytest.mark.slow
def test_on_anvil_each_step_is_the_last_one_once(anvil):
    counting = Deaths()
    anvil.owe(PAYOUTS)
    start, books = anvil.chain.snapshot(), saved(anvil)
    assert settle_until_alive(anvil, counting) == 0
    paid_once(anvil)
    for at in range(len(counting.passed)):
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
    path = world.ledger.engine.url.database
    for ending in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ending)
    with open(path, "wb") as file:
        file.write(books)
