"""What the books moved to an address is what the chain paid to it, once."""

from __future__ import annotations

import pytest

from ledger import chart
from ledger.chain import bindings
from ledger.chain.adapter import CustodyShort
from ledger.chain.bindings import AddressUnusable, address_of, bind
from ledger.chain.bookings import BURN, CLAIMS
from ledger.chain.calls import decoded, encoded
from ledger.chain.claims import ClaimsUnbalanced
from ledger.chain.outbox import Attempt
from ledger.chain.sender import SettlementUnfinished
from ledger.chain.signer import Transaction
from ledger.flags import Flag
from ledger.journal import AccountReserved, Leg, UnknownAccount
from protocol.ids import SiteId, StudyId
from tests.ledger.chain.world import NOW, address

NORTH = chart.wallet("north")
POOL = chart.pool(StudyId("busi"), SiteId("north"))


@pytest.mark.slow
def test_an_epoch_pays_every_bound_wallet_and_the_books_agree(evm):
    evm.owe({"north": 1, "south": 10**24, "west": 7})
    settled = evm.settle(batch=2)
    assert (settled.epoch, settled.recipients, settled.paid) == (1, 3, 10**24 + 8)
    assert evm.all_held(["north", "south", "west"]) == {"north": 1, "south": 10**24, "west": 7}
    assert evm.ledger.balance(chart.wallet("south")) == 0
    assert evm.reconciled().differences == ()
    assert evm.settle().recipients == 0
    evm.owe({"north": 2}, key="later")
    assert evm.settle().epoch == 2
    assert evm.held("north") == 3
    evm.ledger.verify()


@pytest.mark.slow
def test_only_who_is_bound_and_may_pay_is_paid_out(evm):
    evm.owe({"north": 1, "south": 2, "west": 3})
    bind(evm.ledger, chart.wallet("south"), None, now=NOW)
    evm.ledger.set_flag(chart.wallet("west"), Flag.NO_DEBIT, reason="a court", now=NOW)
    assert evm.settle().recipients == 1
    assert evm.ledger.balance(chart.wallet("south")) == 2
    assert bindings.bindings(evm.ledger) == {
        NORTH: address("north"),
        chart.wallet("west"): address("west"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Distributor", "BTT", "custody"])
def test_nobody_is_paid_out_to_what_settles(evm, name):
    evm.owe({"north": 1, "south": 2})
    ours = evm.deployment.custody if name == "custody" else evm.deployment.address(name)
    bind(evm.ledger, NORTH, ours, now=NOW)
    with pytest.raises(AddressUnusable, match="wallet:north"):
        evm.settle()
    assert evm.ledger.balance(chart.wallet("south")) == 2
    bind(evm.ledger, NORTH, address("north"), now=NOW)
    evm.settle()
    assert evm.all_held(["north", "south"]) == {"north": 1, "south": 2}


@pytest.mark.slow
def test_what_left_for_the_chain_cannot_be_spent_in_the_books(evm):
    evm.owe({"north": 1})
    evm.settle()
    gone = chart.chain("0x" + address("north").hex())
    assert evm.ledger.balance(gone) == 1
    with pytest.raises(AccountReserved):
        evm.ledger.transfer("back", gone, NORTH, 1, memo="", now=NOW)


@pytest.mark.slow
def test_what_the_books_burned_is_burned_on_the_chain(evm):
    token = evm.deployment.address("BTT")
    for amount, total in ((9, 9), (5, 14)):
        evm.ledger.burn(f"b{amount}", chart.treasury("mining"), amount, memo="", now=NOW)
        assert [row.account for row in evm.reconciled().differences] == ["burned", "custody"]
        evm.settle()
        burned = evm.node.call(token, encoded("BTT", "burned"))
        assert decoded("BTT", "burned", burned) == total
        assert evm.reconciled().differences == ()


@pytest.mark.slow
def test_what_another_transaction_burned_is_not_burned_again(evm):
    evm.ledger.burn("b", chart.treasury("mining"), 9, memo="", now=NOW)
    (planned,) = evm.adapter().plan(now=NOW).intents
    assert planned.startswith(BURN)
    place = (evm.node.chain_id, evm.node.nonce(evm.signer.address), evm.deployment.address("BTT"))
    burned = Transaction(*place, encoded("BTT", "burn", 9), 100_000, 100 * 10**9, 10**9)
    evm.node.send(evm.signer.sign(burned).raw)
    evm.chain.mine()
    evm.settle()
    assert sum_burned(evm) == 9
    assert evm.reconciled().differences == ()


@pytest.mark.slow
def test_a_burn_that_failed_is_not_planned_beside_its_second_try(evm):
    evm.ledger.burn("b", chart.treasury("mining"), 9, memo="", now=NOW)
    (failed,) = evm.adapter().plan(now=NOW).intents
    nonce = evm.node.nonce(evm.signer.address)
    attempt, outbox = Attempt(b"h" * 32, failed, nonce, b"", 1, 1, 1), evm.outbox()
    outbox.sign(attempt, now=NOW)
    outbox.mined(attempt, 1, b"b" * 32)
    outbox.failed(attempt, "reverted")
    evm.ledger.transfer(
        "between", chart.treasury("mining"), chart.treasury("team"), 1, memo="", now=NOW
    )
    assert evm.adapter().plan(now=NOW).intents == ()
    assert evm.adapter().retry_failed() == [failed]
    evm.settle()
    assert sum_burned(evm) == 9


@pytest.mark.slow
def test_two_processes_plan_one_burn(evm):
    evm.ledger.burn("b", chart.treasury("mining"), 9, memo="", now=NOW)
    one, other = evm.adapter(), evm.adapter()
    seen = other._burn_due()
    other._burn_due = lambda: seen  # asked before the first has planned it
    assert len(one.plan(now=NOW).intents) == 1
    evm.ledger.transfer(
        "between", chart.treasury("mining"), chart.treasury("team"), 1, memo="", now=NOW
    )
    assert other.plan(now=NOW).intents == ()
    evm.settle()
    assert sum_burned(evm) == 9


def sum_burned(world):
    token = world.deployment.address("BTT")
    return decoded("BTT", "burned", world.node.call(token, encoded("BTT", "burned")))


@pytest.mark.slow
def test_a_short_custody_account_takes_what_has_vested(evm):
    custody = evm.balance(evm.signer.address)
    vested = chart.treasury("team")
    evm.ledger.open_account(NORTH)
    for bucket in ("mining", "liquidity", "strategic_reserve"):
        source = chart.treasury(bucket)
        evm.ledger.transfer(bucket, source, NORTH, evm.ledger.balance(source), memo="", now=NOW)
    assert evm.ledger.balance(NORTH) == custody
    evm.ledger.transfer("more", vested, NORTH, 1, memo="", now=NOW)
    bind(evm.ledger, NORTH, address("north"), now=NOW)
    evm.settle()
    assert evm.held("north") == custody + 1
    assert evm.reconciled().differences == ()


@pytest.mark.slow
def test_more_than_the_chain_can_pay_is_not_booked(evm):
    evm.owe({"south": 2})
    evm.ledger.open_account(NORTH)
    for bucket, amount in evm.ledger.balances("treasury:").items():
        evm.ledger.transfer(bucket, bucket, NORTH, amount, memo="", now=NOW)
    bind(evm.ledger, NORTH, address("north"), now=NOW)
    with pytest.raises(CustodyShort):
        evm.settle()
    assert evm.ledger.balances("chain:") == {}
    bind(evm.ledger, NORTH, None, now=NOW)
    evm.settle()
    assert evm.held("south") == 2
    assert evm.reconciled().differences == ()


@pytest.mark.slow
def test_claims_are_paid_from_one_root(evm):
    evm.ledger.open_account(POOL)
    evm.ledger.transfer("in", chart.treasury("mining"), POOL, 100, memo="", now=NOW)
    adapter = evm.adapter()
    leaves = {11: 30, 12: 20}
    for wrong in ([Leg(POOL, CLAIMS, 49)], []):
        with pytest.raises(ClaimsUnbalanced):
            adapter.plan_claims(leaves, wrong, now=NOW)
    tree = adapter.plan_claims(leaves, [Leg(POOL, CLAIMS, 50)], now=NOW)
    with pytest.raises(SettlementUnfinished):
        adapter.plan_claims(leaves, [Leg(POOL, CLAIMS, 50)], now=NOW)
    rows = {row.account: row for row in evm.reconciled().rows}
    assert (rows[CLAIMS].ledger, rows[CLAIMS].in_flight, rows[CLAIMS].difference) == (50, 50, 0)
    evm.settle()
    root = evm.node.call(evm.deployment.address("Distributor"), encoded("Distributor", "root"))
    assert root == tree.root
    evm.adapter().plan_claims({11: 35, 12: 20}, [Leg(POOL, CLAIMS, 5)], now=NOW)
    evm.settle()
    assert evm.ledger.balance(CLAIMS) == 55 == evm.balance(evm.deployment.address("Distributor"))
    assert evm.reconciled().differences == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "5290840009852788 6E0F7030069857D2E4169EE7",
        "52908400098527886e0f7030069857d2e4169ee7",
        "0x52908400098527886E0F7030069857D2E4169Ee7",
        "0x" + "0" * 40,
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(AddressUnusable):
        address_of(text)


def test_an_address_is_read_with_and_without_capitals():
    mixed = "0x52908400098527886E0F7030069857D2E4169EE7"
    assert address_of(mixed) == address_of(mixed.lower())


def test_only_wallets_that_exist_are_bound(ledger, now):
    with pytest.raises(AddressUnusable):
        bind(ledger, chart.treasury("mining"), address("north"), now=now)
    with pytest.raises(UnknownAccount):
        bind(ledger, NORTH, address("north"), now=now)
