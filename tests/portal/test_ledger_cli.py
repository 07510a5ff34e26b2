"""``bithive ledger`` shows what the books say, exactly, and refuses where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from identity.roles import PermissionMissing
from ledger import chart, tokenomics
from ledger.books import Ledger
from portal.books import NoRunHere
from portal.cli import app
from portal.home import Home
from portal.local_actor import this_user
from portal.own_log import own_log
from protocol.units import TOTAL_SUPPLY
from storage.postgresql import PostgresqlUnusable

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


@pytest.fixture
def home(tmp_path):
    folder = Home(tmp_path).market
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    north = ledger.open_account(chart.wallet("north"))
    ledger.transfer("k", chart.treasury("ecosystem"), north, 10**18 + 1, memo="a start", now=NOW)
    ledger.burn("b", north, 1, memo="", now=NOW)
    ledger.close()
    return tmp_path


def found(home, *words):
    done = CliRunner().invoke(app, ["ledger", *words, "--home", str(home)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_supply_is_shown_with_the_forecast_and_the_difference(home):
    shown = json.loads(found(home, "supply", "--json"))
    assert shown["supply_base_units"] == str(TOTAL_SUPPLY)
    assert shown["burned_base_units"] == shown["by_kind"]["burned"] == "1"
    assert [row["difference_basis_points"] for row in shown["release"]][0::5] == [395, -400]
    assert "25.95 %" in (text := found(home, "supply"))
    assert "-4.00 %" in text


def test_a_statement_is_exact(home):
    shown = json.loads(found(home, "statement", "north", "--json"))
    assert shown["closing_base_units"] == "1000000000000000000"
    assert [line["amount_base_units"] for line in shown["lines"]] == ["1000000000000000001", "-1"]
    later = json.loads(found(home, "statement", "north", "--since", "2026-11-22", "--json"))
    assert (later["opening_base_units"], later["lines"]) == ("1000000000000000000", [])
    assert "opening" in found(home, "statement", "north")


def test_verify_and_balance_print_what_the_books_hold(home):
    shown = json.loads(found(home, "verify", "--json"))
    assert (shown["transfers"], shown["supply_base_units"]) == (3, TOTAL_SUPPLY)
    assert json.loads(found(home, "balance", "wallet:", "--json")) == {"wallet:north": str(10**18)}


def test_the_export_passes_bean_check(home, tmp_path):
    file = tmp_path / "books.beancount"
    shown = json.loads(found(home, "export", "--to", str(file), "--json"))
    assert shown["transfers"] == 3
    assert found(home, "export") == file.read_text()
    program = Path(sys.executable).with_name("bean-check")
    if not program.is_file():
        pytest.skip("the export is checked by bean-check: install beancount")
    assert subprocess.run([program, file], check=False).returncode == 0


def test_where_there_are_no_books_it_says_so(tmp_path):
    with pytest.raises(NoRunHere):
        found(tmp_path, "supply")
    with pytest.raises(PostgresqlUnusable):
        found(tmp_path, "supply", "--database", "sqlite://")


@pytest.mark.parametrize(
    "words", [("burn", "2026", "--decision", "x"), ("serve", "--token-file", "token")]
)
def test_only_the_operator_burns_or_hands_out_her_token(home, words, monkeypatch):
    monkeypatch.chdir(home)
    (home / "people.json").write_text(json.dumps({this_user(): ["researcher"]}))
    done = CliRunner().invoke(app, ["ledger", *words, "--home", str(home)])
    assert isinstance(done.exception, PermissionMissing)
    assert not (home / "token").exists()
    log = own_log(home / "operator/authority")
    assert [one.kind for one in log.events()] == ["permission-denied"]
    log.close()


def test_who_burned_is_recorded(home):
    found(home, "burn", "2026", "--decision", "proposal 12", "--json")
    log = own_log(home / "operator/authority")
    [event] = log.events()
    assert (event.kind, event.facts["actor"]) == ("milestone-burned", this_user())
    log.close()
