"""One base unit and the whole supply pass database, API, a page's script and a chain unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from ledger import chart, tokenomics
from ledger.books import Ledger
from portal.ledger_api import ledger_app
from protocol.units import TOTAL_SUPPLY
from tests.ledger.contracts.machine import Machine, address, deploy_btt

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
TOKEN = "t" * 32
FUNDER, PARTY = chart.wallet("funder"), chart.wallet("party")
# What a page does with an amount: read the answer, add one and take it away, write it back.
SCRIPT = """
let text = "";
process.stdin.on("data", (part) => { text += part; });
process.stdin.on("end", () => {
  const amount = BigInt(JSON.parse(text).balance);
  process.stdout.write(JSON.stringify({ amount: String(amount + 1n - 1n) }));
});
"""


@pytest.mark.slow
@pytest.mark.parametrize("amount", [1, TOTAL_SUPPLY - 1, TOTAL_SUPPLY])
def test_an_amount_survives_the_whole_way(tmp_path, amount):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, so no page's script can be run")
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    ledger.open_accounts([FUNDER, PARTY])
    for bucket, held in ledger.balances("treasury:").items():
        ledger.transfer(f"all:{bucket}", bucket, FUNDER, held, memo="", now=NOW)
    app = ledger_app(ledger, token=TOKEN, clock=lambda: NOW)
    client = TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})
    asked = {"key": "k", "debit": FUNDER, "credit": PARTY, "amount": str(amount)}
    assert client.post("/transfers", json=asked).status_code == 200
    # From the database to the API to the page, and back.
    shown = client.get(f"/accounts/{PARTY}").text
    page = subprocess.run(
        [node, "-e", SCRIPT], input=shown, capture_output=True, text=True, check=True
    )
    back = asked | json.loads(page.stdout) | {"key": "back", "debit": PARTY, "credit": FUNDER}
    assert client.post("/transfers", json=back).status_code == 200
    assert (ledger.balance(PARTY), ledger.balance(FUNDER)) == (0, TOTAL_SUPPLY)
    # To the chain and back.
    token = deploy_btt(Machine())
    moved = ledger.find("back").legs[0].amount
    token.transfer(address("party"), moved, sender=address("treasury"))
    assert token.balanceOf(address("party")) == moved == amount
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.find("k").legs[0].amount == amount
    again.verify()
    again.close()
