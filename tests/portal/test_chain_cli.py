"""``bithive chain`` starts a chain, deploys, settles, compares, and stops it."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from identity.roles import PermissionMissing
from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.chain.bindings import bindings
from ledger.chain.deployment import DeploymentMissing
from ledger.chain.node import NodeUnreachable, connect
from portal import chain as chains
from portal.chain import AnvilMissing, ChainHome, depth_on, find_anvil
from portal.cli import app
from portal.home import Home
from portal.local_actor import this_user
from portal.own_log import own_log

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
PAYEE = "0x52908400098527886E0F7030069857D2E4169EE7"
EXAMPLE = Path(__file__).parents[2] / "deploy/besu/network.example.json"


@pytest.fixture
def home(tmp_path):
    folder = Home(tmp_path).market
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    north = ledger.open_account(chart.wallet("north"))
    ledger.transfer("k", chart.treasury("mining"), north, 10**18 + 1, memo="a start", now=NOW)
    ledger.close()
    return tmp_path


def run(home, *words, code=0):
    named = [*words, "--home", str(home), "--json"]
    done = CliRunner().invoke(app, ["chain", *named], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_a_genesis_file_is_made_by_command(tmp_path):
    words = ["chain", "genesis", str(EXAMPLE), str(tmp_path / "genesis.json"), "--json"]
    first = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert CliRunner().invoke(app, words, catch_exceptions=False).stdout == first
    assert json.loads((tmp_path / "genesis.json").read_text())["config"]["chainId"] == 210026


@pytest.mark.parametrize(
    ("chain_id", "asked", "depth"), [(1, None, 6), (31_337, None, 2), (1, 1, 1), (31_337, 9, 9)]
)
def test_a_foreign_chain_must_be_deep_before_anything_is_final(chain_id, asked, depth):
    node = connect(lambda _method, _parameters: hex(chain_id))
    assert depth_on(node, asked) == depth


def test_without_anvil_one_line_says_how_to_get_it(home, monkeypatch):
    monkeypatch.setattr(chains.shutil, "which", lambda _name: None)
    monkeypatch.setattr(chains, "PACKAGE", "none")
    with pytest.raises(AnvilMissing, match="npm ci --ignore-scripts"):
        run(home, "up")


def test_without_node_or_deployment_nothing_is_settled(home):
    with pytest.raises(NodeUnreachable):
        run(home, "reconcile", "--node", "http://127.0.0.1:1")
    assert run(home, "down") == {"stopped": False}
    with pytest.raises(DeploymentMissing):
        chains.read_deployment(ChainHome(home).deployment)


@pytest.mark.parametrize(
    "words",
    [("bind", "north", PAYEE), ("bind", "north", "none"), ("settle",), ("claims",), ("deploy",)],
)
def test_only_the_operator_says_where_money_goes(home, words):
    (home / "people.json").write_text(
        json.dumps({this_user(): ["researcher"], "ops": ["operator"]})
    )
    named = ["chain", *words, "--home", str(home), "--json"]
    assert isinstance(CliRunner().invoke(app, named).exception, PermissionMissing)
    log = own_log(home / "operator/authority")
    [event] = log.events()
    assert (event.kind, event.facts["actor"]) == ("permission-denied", this_user())
    log.close()
    ledger = Ledger(Home(home).market / "ledger.db")
    assert bindings(ledger) == {}
    ledger.close()


def test_who_bound_a_wallet_to_which_address_is_recorded(home):
    run(home, "bind", "north", PAYEE)
    run(home, "bind", "north", "none")
    log = own_log(home / "operator/authority")
    assert [(one.kind, one.facts) for one in log.events()] == [
        ("wallet-bound", {"actor": this_user(), "wallet": "wallet:north", "address": where})
        for where in (PAYEE.lower(), "none")
    ]
    log.close()


def test_the_lock_file_of_anvil_names_no_host():
    lock = json.loads((EXAMPLE.parents[2] / "ledger/chain/package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
    assert lock["packages"][f"node_modules/{chains.PACKAGE}"]["version"] == "1.7.1"


@pytest.mark.slow
def test_a_chain_is_started_settled_compared_and_kept(home):
    try:
        find_anvil()
    except AnvilMissing as missing:
        pytest.skip(str(missing))
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = str(link.getsockname()[1])
    quick = ("--confirmations", "1")
    started = run(home, "up", "--port", port, "--block-seconds", "1")
    try:
        assert run(home, "up", "--port", port) == started
        contracts = run(home, "deploy", *quick)["contracts"]
        assert run(home, "deploy", *quick)["contracts"] == contracts
        run(home, "bind", "north", PAYEE)
        settled = run(home, "settle", *quick)
        assert (settled["recipients"], settled["paid_base_units"]) == (1, str(10**18 + 1))
        assert run(home, "reconcile")["agree"]
        assert run(home, "status")["bound"] == {"wallet:north": PAYEE.lower()}
        ledger = Ledger(Home(home).market / "ledger.db")
        ledger.burn("b", chart.treasury("mining"), 1, memo="", now=NOW)
        ledger.close()
        assert not run(home, "reconcile", code=1)["agree"]
        assert run(home, "down") == {"stopped": True}
        run(home, "up", "--port", port, "--block-seconds", "1")
        run(home, "settle", *quick)
        assert run(home, "reconcile")["agree"]
    finally:
        run(home, "down")
