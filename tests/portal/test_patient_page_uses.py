"""After a whole run a patient sees which rounds used her data, what for, and what was paid.

The run is the small demonstration, whose receipts and payments are real; her key is put together
from what her hospital and her paper say, as if she had granted on the page.
"""

import base64
import json
import shutil
from datetime import UTC, datetime

import pytest

from consent.openings import OpeningStore
from fl_server.store import ServerStore
from ledger.books import Ledger
from ledger.chart import pool
from portal.home import Home
from portal.patient.rounds import Rounds
from portal.patient.server import open_desk, read_terms
from protocol.ids import SiteId
from tests.portal import browser
from tests.portal.patient_browser import faint, settle, small_targets, unnamed

pytestmark = pytest.mark.slow
NORTH = SiteId("north")


class Finished:
    """A copy of the finished run, as ``address`` wants a world."""

    def __init__(self, path):
        self.home = Home(path)
        self.terms = read_terms(self.home)


@pytest.fixture
def world(finished, tmp_path):
    shutil.copytree(finished.home, tmp_path / "home")
    return Finished(tmp_path / "home")


@pytest.fixture
def desk(world):
    return open_desk(world.home, clock=lambda: datetime.now(UTC))


@pytest.fixture
def site(world):
    """A hospital of the run, not the careless one."""
    return min(one.site for one in world.terms.sites)


def key_of(world, site, receipt, opening, code):
    """Return the text of a key that holds one grant."""
    ring = {
        "version": 1,
        "study": world.terms.study,
        "site": site,
        "role": "self",
        "person": {"patient": "nobody", "subject": str(opening.subject)},
        "secret": "07" * 32,
        "commitment": "7",
        "enrolled": True,
        "claims": {},
        "grants": [
            {
                "leaf": str(receipt.leaf),
                "code": code,
                "terms": {
                    "grants": opening.terms.grants,
                    "notBefore": opening.terms.not_before,
                    "expiry": opening.terms.expiry,
                },
                "receipt": {
                    "grant": receipt.grant,
                    "index": receipt.index,
                    "leaf": str(receipt.leaf),
                    "epoch": receipt.epoch,
                    "at": receipt.at,
                },
                "checked": True,
            }
        ],
    }
    return "BITHIVE1." + base64.b64encode(json.dumps(ring).encode()).decode()


@pytest.fixture
def somebody(world, desk, site):
    """Give the grant of a patient whose consent is live, or was withdrawn, and her key."""
    openings = OpeningStore(world.home.site(site) / "openings.db")
    papers = json.loads((world.home.patients / f"{site}.json").read_text())

    def find(*, live, allows=True):
        consent = world.terms.consent
        for patient, opening in openings.all().values():
            (receipt,) = openings.receipts_of(patient)
            may = opening.terms.allows(consent.required, consent.from_day, consent.through_day)
            if desk.registry.status(receipt.grant).is_live == live and may == allows:
                code = papers[patient]["code"]
                return receipt, key_of(world, site, receipt, opening, code)
        pytest.skip("this run has no such patient")

    return find


def look_up(tab, key):
    tab.type("#key-in", key)
    tab.click("#key-form button")
    settle(tab, "!document.getElementById('uses').hidden")
    tab.click("#uses-button")
    settle(tab, "document.getElementById('uses-found').textContent")
    return tab.js(
        "[...document.querySelectorAll('#uses-found .uses > li')].map((one) => "
        "[Number(one.querySelector('h3').innerText.match(/\\d+/)[0]), one.dataset.kind,"
        " [...one.querySelectorAll('dd')].map((two) => two.innerText)])"
    )


def btt(units):
    assert units > 10**18
    return f"{units / 10**18:,.2f}".rstrip("0").rstrip(".") + "\u00a0BTT"


def test_she_sees_rounds_purpose_protection_and_payment(tab, world, desk, site, somebody):
    receipt, key = somebody(live=True)
    seen = look_up(tab, key)
    assert [number for number, _, _ in seen] == [1, 2, 3]
    lane = desk.lane(site)
    ledger = Ledger(world.home.market / "ledger.db")
    store = ServerStore(world.home.server / "server.db")
    together = 0
    assert [kind == "dropped" for _, kind, _ in seen] == [False, False, True]
    assert store.round(3).closed.receipts == ()  # too few were left for a sum
    for number, kind, (purpose, data, protection, payment) in seen[:2]:
        stored = store.round(number)
        signed = next(one for one in stored.closed.receipts if one.site == site)
        epoch = stored.plan.epoch.number
        chunk = (receipt.index - lane.indices.start) // lane.chunk_size
        leaves = desk.registry.leaves_at(lane, epoch)
        live = sum(leaf != 0 for leaf in leaves[chunk * lane.chunk_size :][: lane.chunk_size])
        (count,) = (
            one.count
            for one in desk.coverage(site)
            if one.round == number and one.chunk == lane.first_chunk + chunk
        )
        assert kind == ("none" if count == 0 else "was" if count == live else "could")
        assert purpose == "health, medical or biomedical research"
        assert data
        assert f"ε\u00a0=\u00a0{float(signed.epsilon_spent):.2f}".rstrip("0") in protection
        transfer = ledger.find(f"settle:{world.terms.study}:{number}")
        paid = next(
            leg.amount for leg in transfer.legs if leg.credit == pool(world.terms.study, site)
        )
        share = paid // sum(leaf != 0 for leaf in leaves)
        assert btt(paid) in payment
        assert btt(share) in payment
        together += share if kind in {"was", "could"} else 0
    assert btt(together) in tab.text("#uses-found .done")
    assert "ε" in tab.text("#uses-found .done")


def test_after_she_withdrew_no_round_is_hers(tab, desk, somebody):
    receipt, key = somebody(live=False)
    ended = desk.registry.status(receipt.grant).ended_epoch
    seen = look_up(tab, key)
    epochs = {one.round: one.epoch for one in desk.coverage(desk.lanes()[0].site)}
    assert {number for number, _, _ in seen} == {n for n, epoch in epochs.items() if epoch < ended}
    assert "withdrawn" in tab.text("#status")


def test_terms_that_do_not_allow_it_were_not_used(tab, somebody):
    _, key = somebody(live=True, allows=False)
    assert {kind for _, kind, _ in look_up(tab, key)} <= {"not"}


def test_a_grant_made_at_the_hospital_is_withdrawn_by_its_code(tab, desk, somebody):
    receipt, key = somebody(live=True)
    look_up(tab, key)
    tab.click("#given-withdraw")
    tab.click("#withdraw-yes")
    settle(tab, "document.getElementById('given').hidden")
    assert not desk.registry.status(receipt.grant).is_live


def test_nothing_is_asked_of_the_server_that_says_who_looks(tab, somebody):
    receipt, key = somebody(live=True)
    look_up(tab, key)
    asked = [one["request"] for one in tab.of("Network.requestWillBeSent")]
    secrets = (str(receipt.leaf), receipt.grant, "nobody")
    for one in asked:
        assert one["method"] == "GET"
        assert not any(secret in one["url"] for secret in secrets)


def test_what_is_told_of_a_round_is_what_was_signed_and_paid(world, site):
    store = ServerStore(world.home.server / "server.db")
    ledger = Ledger(world.home.market / "ledger.db")
    told = Rounds(world.terms.study, store, ledger).receipts(site)
    assert [one.round for one in told] == [1, 2]
    assert sum(one.paid for one in told) == ledger.balance(pool(world.terms.study, site))
    spent = [float(one.epsilon_spent) for one in told]
    assert spent == sorted(spent)
    assert 0 < spent[-1] <= world.terms.privacy.epsilon
    assert Rounds(world.terms.study, None).receipts(site) == []
    assert {one.paid for one in Rounds(world.terms.study, store).receipts(site)} == {0}


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen(  # noqa: PLR0917 - fixtures
    devtools, address, somebody, language, width, tmp_path
):
    _, key = somebody(live=True)
    with browser.Tab.open(devtools, language=language, width=width, height=844) as tab:
        tab.go(address)
        look_up(tab, key)
        assert tab.js("document.documentElement.scrollWidth") <= width
        assert unnamed(tab) == []
        assert faint(tab) == []
        assert small_targets(tab) == []
        assert "{" not in tab.text("body")
        tab.picture(tmp_path / f"uses-{language}-{width}.png")
