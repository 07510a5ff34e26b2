"""A claim to an address is published once, and whoever has its proof finds its path."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from consent.claims import ClaimBook, SmallGroups
from consent.registry import Registry
from ledger.chain.adapter import Adapter
from ledger.chain.bookings import CLAIMS
from ledger.contracts.tree import claim_leaf, climb
from portal.chain_claims import ClaimDiffers, is_address, publish_claims, write_leaves
from portal.patient.payouts import open_payout, pay_claims
from tests.ledger.chain.conftest import evm, tester  # noqa: F401 - fixtures
from tests.portal.patient_world import NORTH, World
from tests.portal.test_patient_payouts import BTT, POOL, claim, fund

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"
MIXED = "0xDC3b9d7FD28Cfc7A70a999f2Eb4B60672E6B88C8"


def test_only_an_address_as_the_contract_writes_it_can_be_paid():
    assert is_address(ADDRESS)
    assert is_address(MIXED)
    for other in (MIXED.lower(), MIXED.upper(), "wallet:owner", "0x" + "0" * 40):
        assert not is_address(other)


@pytest.fixture
def world(tmp_path, monkeypatch, evm):  # noqa: F811 - the fixture
    """A home whose payout three claim: two to addresses, one to a wallet; one names no place."""
    made = World.found(tmp_path / "home")
    evm.ledger.open_account(POOL)
    fund(evm.ledger, "first", 100 * BTT)
    made.home.market.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("portal.patient.payouts.open_books", lambda _path: evm.ledger)
    monkeypatch.setattr(Registry, "payout_ids", lambda *_, **__: [7, 8, 9, 10])
    open_payout(made.home, NORTH, small_groups=SmallGroups.WARN)
    for number, recipient in enumerate((ADDRESS, MIXED, "wallet:owner", MIXED.lower()), 1):
        claim(made, number, recipient, 25 * BTT)
    return made


def publish(world, evm):  # noqa: F811 - the world on py-evm
    return publish_claims(
        world.home, evm.adapter(), clock=lambda: NOW, sleep=lambda _seconds: evm.chain.mine()
    )


@pytest.mark.slow
def test_claims_to_addresses_are_published_and_the_others_stay(world, evm, tmp_path):  # noqa: F811
    done = publish(world, evm)
    assert (done.root, done.leaves, done.claims, done.added) == (1, 2, 2, 50 * BTT)
    assert done.unpayable == 1
    assert evm.ledger.balance(CLAIMS) == 50 * BTT
    again = publish(world, evm)
    assert (again.root, again.leaves, again.claims, again.added) == (1, 2, 0, 0)
    assert len(pay_claims(world.home, now=NOW).claims) == 1
    assert evm.ledger.balance(POOL) == 25 * BTT
    assert evm.reconciled().differences == ()
    file = tmp_path / "leaves.json"
    write_leaves(file, evm.adapter(), evm.deployment, done.root)
    assert file.stat().st_mode & 0o077 == 0
    found = json.loads(file.read_text())
    for one in found["leaves"]:
        leaf = claim_leaf(int(one["nullifier"]), int(one["cumulative_base_units"]))
        assert (
            "0x" + climb(leaf, [bytes.fromhex(p[2:]) for p in one["path"]]).hex() == found["root"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["planned", "booked"])
def test_a_crash_between_the_books_and_the_claims_publishes_nothing_twice(
    world,
    evm,  # noqa: F811 - the fixture
    monkeypatch,
    place,
):
    with monkeypatch.context() as patched:
        if place == "planned":
            patched.setattr(Adapter, "_check_failed", lambda _self: 1 / 0)
        else:
            patched.setattr(ClaimBook, "mark_paid", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(world, evm)
    assert evm.ledger.balance(CLAIMS) == 50 * BTT
    assert publish(world, evm).claims == 0
    assert evm.ledger.balance(CLAIMS) == 50 * BTT
    assert len(ClaimBook(world.home.server / "claims.db", registry="").unpaid()) == 2


@pytest.mark.slow
def test_claims_older_than_the_books_are_refused(world, evm, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patched:
        patched.setattr(ClaimBook, "mark_paid", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(world, evm)
    monkeypatch.setattr(Adapter, "leaves", lambda _self: {1: 7})
    with pytest.raises(ClaimDiffers):
        publish(world, evm)
