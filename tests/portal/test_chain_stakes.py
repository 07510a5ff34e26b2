"""A party's commands take amounts to the last base unit, and her key stays hers."""

import json

import pytest
from typer.testing import CliRunner

from ledger.chain.keystore import KeystoreExists
from ledger.chain.node import NodeUnreachable
from portal.chain_stakes import AmountUnusable, base_units
from portal.cli import app
from protocol.units import TOTAL_SUPPLY


def run(home, *words, **how):
    named = ["chain", "stake", *words, "--home", str(home), "--json"]
    return CliRunner().invoke(app, named, catch_exceptions=False, **how)


@pytest.mark.parametrize(
    ("text", "found"),
    [("1", 10**18), ("0.5", 5 * 10**17), ("210000000", TOTAL_SUPPLY), ("1e-18", 1)],
)
def test_amounts_are_exact(text, found):
    assert base_units(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "x",
        "nan",
        "inf",
        "-inf",
        "1e99999999",
        "0.0000000000000000001",
        "210000000.1",
        "1,5",
        "1." + "0" * 50 + "1",
    ],
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(AmountUnusable):
        base_units(text)


def test_a_party_makes_her_key_once(tmp_path):
    done = run(tmp_path, "key", "--password", "stdin", input="correct horse battery\n")
    assert json.loads(done.stdout)["address"].startswith("0x")
    assert (tmp_path / "chain" / "party.json").stat().st_mode & 0o077 == 0
    with pytest.raises(KeystoreExists):
        run(tmp_path, "key", "--password", "stdin", input="correct horse battery\n")


def test_without_a_node_nothing_is_staked(tmp_path):
    words = ("bond", "5", "--password", "stdin", "--node", "http://127.0.0.1:1")
    with pytest.raises(NodeUnreachable):
        run(tmp_path, *words, input="correct horse battery\n")
