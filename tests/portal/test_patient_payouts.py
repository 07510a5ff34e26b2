"""A payout promises no more than the pool holds, and each claim on it is paid once."""

import secrets
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from consent.claims import ClaimBook, GroupTooSmall, PoolTooSmall, SmallGroups
from consent.claims_store import CLAIMS, PAYOUTS, open_tables
from consent.registry import Registry
from ledger import tokenomics
from ledger.books import Ledger
from ledger.chart import pool, wallet
from portal.patient.payouts import open_payout, pay_claims
from tests.portal.patient_world import NORTH, STUDY, World

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
BTT = 10**18
POOL = pool(STUDY, NORTH)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A home whose pool holds 100 BTT and whose lane has three payout ids."""
    made = World.found(tmp_path / "home")
    ledger = Ledger(made.home.market / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    ledger.open_account(POOL)
    fund(ledger, "first", 100 * BTT)
    monkeypatch.setattr(Registry, "payout_ids", lambda *_, **__: [7, 8, 9])
    return made


def fund(ledger, key, amount):
    bucket = next(name for name, held in ledger.balances("treasury:").items() if held > amount)
    ledger.transfer(key, bucket, POOL, amount, memo="patients' share", now=NOW)


@pytest.fixture
def ledger(world):
    return Ledger(world.home.market / "ledger.db")


def claim(world, number, recipient, amount):
    """Keep a claim as if its proof had been checked: what is tested here is the money."""
    engine = open_tables(world.home.server / "claims.db")
    with engine.begin() as connection:
        scope = connection.execute(sa.select(PAYOUTS.c.scope)).scalars().first()
        row = {
            "id": secrets.token_hex(32),
            "scope": scope,
            "nullifier": number,
            "recipient": recipient,
            "amount": amount,
            "at": "2026-11-21",
        }
        connection.execute(sa.insert(CLAIMS).values(row))


def test_a_payout_takes_what_the_pool_does_not_owe(world, ledger):
    with pytest.raises(GroupTooSmall):
        open_payout(world.home, NORTH, small_groups=SmallGroups.REFUSE)
    made = open_payout(world.home, NORTH, small_groups=SmallGroups.WARN)
    assert (made.pool, made.shares, made.small) == (100 * BTT, 3, True)
    with pytest.raises(PoolTooSmall):  # all of it is promised
        open_payout(world.home, NORTH, small_groups=SmallGroups.WARN)


def test_a_claim_is_paid_once_and_an_address_elsewhere_waits(world, ledger):
    open_payout(world.home, NORTH, small_groups=SmallGroups.WARN)
    claim(world, 1, "wallet:owner", 33 * BTT)
    claim(world, 2, "0x52908400098527886E0F7030069857D2E4169EE7", 33 * BTT)
    claim(world, 3, "treasury:team", 33 * BTT)
    done = pay_claims(world.home, now=NOW)
    assert ([one.recipient for one in done.claims], done.unpayable) == (["wallet:owner"], 2)
    assert pay_claims(world.home, now=NOW).claims == ()
    assert ledger.balance(wallet("owner")) == 33 * BTT
    assert ledger.balance(POOL) == 67 * BTT
    ledger.verify()


def test_a_crash_between_paying_and_noting_pays_nothing_twice(world, ledger, monkeypatch):
    open_payout(world.home, NORTH, small_groups=SmallGroups.WARN)
    claim(world, 1, "wallet:owner", 33 * BTT)
    with monkeypatch.context() as patched:
        patched.setattr(ClaimBook, "mark_paid", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pay_claims(world.home, now=NOW)
    assert len(pay_claims(world.home, now=NOW).claims) == 1
    assert ledger.balance(wallet("owner")) == 33 * BTT


def test_new_money_makes_a_new_payout(world, ledger):
    open_payout(world.home, NORTH, small_groups=SmallGroups.WARN)
    claim(world, 1, "wallet:owner", 33 * BTT)
    pay_claims(world.home, now=NOW)
    fund(ledger, "second", 50 * BTT)
    book = ClaimBook(world.home.server / "claims.db", registry="registry")
    assert book.owed(STUDY, NORTH) == 67 * BTT
    assert ledger.balance(POOL) - 67 * BTT == 50 * BTT
