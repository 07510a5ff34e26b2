"""One base unit too much or too little, anywhere, shows; other code than ours is not opened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.books import Ledger
from ledger.chain.calls import encoded
from ledger.chain.deployment import (
    DeploymentDiffers,
    DeploymentMissing,
    deploy,
    open_deployment,
    read_deployment,
    write_deployment,
)
from ledger.chain.node import ChainDiffers, connect
from ledger.chain.outbox import Intent, Outbox
from ledger.chain.sender import Sender
from ledger.economy import load_economy
from protocol.units import TOTAL_SUPPLY
from tests.ledger.chain import nodes
from tests.ledger.chain.crashes import Deaths, Killed
from tests.ledger.chain.world import LIMITS, NOW, SIGNER, address

pytestmark = pytest.mark.slow


def differing(world):
    return {row.account: row.difference for row in world.reconciled().differences}


def sent(world, contract, function, *arguments):
    """The custody account does something that the books know nothing of."""
    to = world.deployment.address(contract)
    intent = Intent(f"x:{function}", 0, to, encoded(contract, function, *arguments))
    world.outbox().plan([intent], now=NOW)
    world.sender().drive(clock=lambda: NOW, sleep=lambda _: world.chain.mine())


def test_nothing_happened_and_nothing_differs(evm):
    rows = evm.reconciled().rows
    assert {row.account: row.chain for row in rows} == {
        "chain:claims": 0,
        "burned": 0,
        "custody": TOTAL_SUPPLY,
        "distributor": 0,
        "supply": TOTAL_SUPPLY,
    }
    assert differing(evm) == {}


def test_what_is_booked_and_not_sent_is_in_flight(evm):
    evm.owe({"north": 7})
    evm.adapter().plan(now=NOW)
    assert differing(evm) == {}
    name = "chain:0x" + address("north").hex()
    rows = {row.account: row for row in evm.reconciled().rows}
    assert (rows[name].ledger, rows[name].in_flight, rows[name].chain) == (7, 7, 0)
    assert rows["custody"].in_flight == -7


def test_a_unit_that_left_the_custody_account_shows(evm):
    sent(evm, "BTT", "transfer", address("thief"), 1)
    assert differing(evm) == {"custody": 1}


def test_a_unit_burned_beside_the_books_shows(evm):
    sent(evm, "BTT", "burn", 1)
    assert differing(evm) == {"burned": -1, "custody": 1}


def test_a_batch_beside_the_books_shows(evm):
    sent(evm, "Distributor", "payBatch", b"b" * 32, [(address("thief"), 1)])
    name = "chain:0x" + address("thief").hex()
    assert differing(evm) == {name: -1, "custody": 1}


def test_a_root_beside_the_books_shows(evm):
    sent(evm, "Distributor", "settle", 1, b"r" * 32, 1)
    assert differing(evm) == {"chain:claims": -1, "custody": 1}


def test_a_unit_sent_to_the_distributor_shows(evm):
    sent(evm, "BTT", "transfer", evm.deployment.address("Distributor"), 1)
    assert differing(evm) == {"custody": 1, "distributor": -1}


def test_a_unit_missing_from_the_books_shows(evm):
    evm.owe({"north": 7})
    evm.settle()
    with evm.ledger.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
        connection.exec_driver_sql(
            "UPDATE accounts SET credits = ? WHERE account = ?",
            ((6).to_bytes(16, "big"), "chain:0x" + address("north").hex()),
        )
    assert differing(evm)["chain:0x" + address("north").hex()] == -1


def test_a_record_is_read_as_it_was_written_and_refused_if_damaged(evm, tmp_path):
    path = tmp_path / "deployment.json"
    write_deployment(path, evm.deployment)
    assert read_deployment(path) == open_deployment(path, evm.node) == evm.deployment
    assert len(evm.deployment.vesting()) == 9
    for content in ("", "{}", "[]", path.read_text().replace("deployment-1", "deployment-2")):
        path.write_text(content)
        with pytest.raises(DeploymentMissing):
            open_deployment(path, evm.node)
    with pytest.raises(DeploymentMissing):
        read_deployment(tmp_path / "none")


def test_another_chain_or_other_code_is_not_opened(evm, tmp_path):
    path, good = tmp_path / "deployment.json", evm.deployment
    token = good.contracts["BTT"]
    wrong = {
        "elsewhere": replace(token, address=address("nobody")),
        "altered": replace(token, code_hash="00" * 32),
        "older": replace(token, source_sha256="00" * 32),
    }
    for one in wrong.values():
        write_deployment(path, replace(good, contracts={**good.contracts, "BTT": one}))
        with pytest.raises(DeploymentDiffers, match="BTT"):
            open_deployment(path, evm.node)
    for other in (replace(good, chain_id=1), replace(good, genesis="0x00")):
        write_deployment(path, other)
        with pytest.raises(ChainDiffers):
            open_deployment(path, evm.node)


@pytest.mark.parametrize(
    "each", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["twice", "each-step"]
)
def test_a_deployment_killed_on_its_way_is_one_deployment(tmp_path, each):
    if nodes.anvil_path() is None:
        pytest.skip("anvil is not installed: `npm ci --ignore-scripts` in ledger/chain")
    chain = nodes.Anvil()
    try:
        chain.enrich(SIGNER.address)
        ledger = Ledger(tmp_path / "ledger.db")
        deaths, killed = (Deaths(each=True) if each else Deaths(at=60)), 0
        path = tmp_path / "deployment.json"
        admin = address("timelock")

        def attempt(economy):
            outbox = deaths.outbox(ledger.engine)
            sender = Sender(connect(deaths.node(chain)), SIGNER, outbox, LIMITS)
            where = {"clock": lambda: NOW, "sleep": lambda _: chain.mine()}
            return deploy(sender, economy, path, admin=admin, **where)

        made = None
        while made is None:
            try:
                made = attempt(load_economy())
            except Killed:
                killed += 1
                path.unlink(missing_ok=True)
        assert killed > (50 if each else 0)
        assert made == attempt(load_economy())
        created = [one for one in Outbox(ledger.engine).attempts() if one.state == "final"]
        assert len(created) == len(made.contracts) + 5
        path.unlink()
        with pytest.raises(DeploymentDiffers):
            attempt(replace(load_economy(), token=replace(load_economy().token, name="Other")))
        ledger.close()
    finally:
        chain.stop()
