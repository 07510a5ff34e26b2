"""Over HTTP an amount arrives as it was sent, a transfer is made once, strangers learn nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from fastapi.testclient import TestClient

from identity.accounts import SessionEnded
from identity.roles import Actor, Role
from ledger import chart, tokenomics
from ledger.books import Ledger
from ledger.flags import Flag
from portal.ledger_api import ledger_app
from protocol.units import TOTAL_SUPPLY

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
TOKEN = "t" * 32
FUNDER, STRANGER = chart.wallet("funder"), chart.wallet("stranger")


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.genesis(tokenomics.load().allocation, now=NOW)
    ledger.open_accounts([FUNDER, STRANGER])
    for number, bucket in enumerate(sorted(ledger.balances("treasury:"))):
        ledger.transfer(f"{number}", bucket, FUNDER, ledger.balance(bucket), memo="", now=NOW)
    yield ledger
    ledger.close()


@pytest.fixture
def client(ledger):
    app = ledger_app(ledger, token=TOKEN, clock=lambda: NOW)
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})


def asked(**changes):
    return {"key": "k", "debit": FUNDER, "credit": STRANGER, "amount": "1"} | changes


@pytest.mark.parametrize("amount", [1, TOTAL_SUPPLY - 1, TOTAL_SUPPLY])
def test_an_amount_is_the_same_on_both_sides(client, ledger, amount):
    made = client.post("/transfers", json=asked(amount=str(amount))).json()
    assert made["legs"] == [{"debit": FUNDER, "credit": STRANGER, "amount": str(amount)}]
    assert ledger.balance(STRANGER) == amount
    assert client.get(f"/accounts/{STRANGER}").json()["balance"] == str(amount)
    assert client.get("/transfers/k").json() == made
    assert client.get("/supply").json() == {"supply": str(TOTAL_SUPPLY), "burned": "0"}


def test_a_page_reads_and_writes_amounts_without_rounding(client):
    if shutil.which("node") is None:
        pytest.skip("what a page makes of an amount is tested with node")
    sent = client.post("/transfers", json=asked(amount=str(TOTAL_SUPPLY - 1))).text
    script = (
        "const sent = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const amount = BigInt(sent.legs[0].amount);"
        "console.log(JSON.stringify({amount: (amount + 1n).toString()}));"
    )
    done = subprocess.run(
        ["node", "-e", script], input=sent, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"amount": str(TOTAL_SUPPLY)}


def test_sent_again_it_is_made_once(client, ledger):
    first = client.post("/transfers", json=asked())
    assert client.post("/transfers", json=asked()).json() == first.json()
    assert ledger.balance(STRANGER) == 1
    other = client.post("/transfers", json=asked(amount="2"))
    assert (other.status_code, other.json()["type"]) == (409, "/problems/idempotency-conflict")
    assert other.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "amount", [1, 1.5, "1.5", "-1", "+1", "01", "", "1e3", " 1", "1\n", "0x1", "1" + "0" * 38, "١"]
)
def test_what_is_no_amount_is_refused(client, ledger, amount):
    assert client.post("/transfers", json=asked(amount=amount)).status_code == 422
    assert ledger.balance(STRANGER) == 0


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"amount": "0"}, 409, "empty-transfer"),
        ({"amount": str(TOTAL_SUPPLY + 1)}, 409, "insufficient-funds"),
        ({"credit": "wallet:nobody"}, 404, "unknown-account"),
        ({"credit": "purse:a"}, 422, "account-misnamed"),
        ({"credit": "escrow:a"}, 409, "account-reserved"),
        ({"debit": "genesis"}, 409, "account-reserved"),
    ],
)
def test_a_refusal_is_a_problem_with_its_code(client, changes, status, code):
    answer = client.post("/transfers", json=asked(**changes))
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")


def test_flags_are_shown(client, ledger):
    ledger.set_flag(STRANGER, Flag.NO_CREDIT, reason="a test", now=NOW)
    assert client.get(f"/accounts/{STRANGER}").json()["flags"] == ["no-credit"]
    assert client.post("/transfers", json=asked()).json()["type"] == "/problems/account-flagged"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "u" * 32}])
def test_without_the_operators_token_there_is_no_answer(ledger, headers):
    client = TestClient(ledger_app(ledger, token=TOKEN, clock=lambda: NOW), headers=headers)
    answers = [
        client.post("/transfers", json=asked()),
        client.get("/transfers/k"),
        client.get(f"/accounts/{FUNDER}"),
        client.get("/supply"),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert ledger.find("k") is None
    assert client.get("/transfers/unknown").status_code == 401


def test_a_transfer_nobody_made_is_not_found(client):
    assert client.get("/transfers/unknown").status_code == 404


class TestSessions:
    """Whoever is signed in sees and does what the table of permissions gives her."""

    PEOPLE: ClassVar = {
        "r" * 40: Actor("r.west", frozenset({Role.RESEARCHER}), account=STRANGER),
        "a" * 40: Actor("a.east", frozenset({Role.AUDITOR})),
        "s" * 40: Actor("s.north", frozenset({Role.STEWARD}), site="north"),
    }

    @pytest.fixture
    def denied(self):
        return []

    @pytest.fixture
    def asking(self, ledger, denied):
        def sessions(token):
            if token not in self.PEOPLE:
                raise SessionEnded
            return self.PEOPLE[token]

        app = ledger_app(
            ledger,
            token=TOKEN,
            clock=lambda: NOW,
            sessions=sessions,
            audit=lambda *event: denied.append(event),
        )
        client = TestClient(app)

        def ask(who, path, **body):
            headers = {"Authorization": f"Bearer {who * 40 if len(who) == 1 else who}"}
            send = client.post if body else client.get
            return send(path, headers=headers, **body)

        return ask

    def test_a_researcher_reads_her_own_account_and_statement_and_no_other(self, asking, denied):
        asking(TOKEN, "/transfers", json=asked(amount="5"))
        assert asking("r", f"/accounts/{STRANGER}").json()["balance"] == "5"
        drawn = asking("r", f"/statements/{STRANGER}").json()
        assert (drawn["closing"], [line["amount"] for line in drawn["lines"]]) == ("5", ["5"])
        for path in (f"/accounts/{FUNDER}", f"/statements/{FUNDER}", "/supply", "/transfers/k"):
            answer = asking("r", path)
            assert (answer.status_code, answer.json()["type"]) == (
                403,
                "/problems/permission-missing",
            )
        assert [facts["actor"] for _, facts in denied] == ["r.west"] * 4

    def test_an_auditor_reads_everything_and_moves_nothing(self, asking, ledger):
        for path in (f"/accounts/{FUNDER}", f"/statements/{FUNDER}", "/supply"):
            assert asking("a", path).status_code == 200
        assert asking("a", "/transfers", json=asked()).status_code == 403
        assert ledger.find("k") is None

    def test_a_steward_has_nothing_to_do_with_the_books(self, asking):
        for path in (f"/accounts/{FUNDER}", "/supply"):
            assert asking("s", path).status_code == 403

    def test_a_session_that_is_over_gets_no_answer(self, asking):
        answer = asking("x", "/supply")
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/session-ended")

    def test_the_operators_token_is_still_the_operators(self, asking):
        assert asking(TOKEN, "/transfers", json=asked()).status_code == 200
