"""Her page says that her consent waits for its batch, and finds by itself when it is in force.

Skipped where Chromium is missing.
"""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("groth16py", reason="the server's fast verifier needs the extra `prover`")

from portal.patient.server import open_desk
from tests.portal import browser
from tests.portal.patient_browser import (
    ALL_ASKED,
    enrol,
    faint,
    grant,
    live,
    settle,
    small_targets,
    unnamed,
)
from tests.portal.patient_world import World

pytestmark = pytest.mark.slow
HOUR = timedelta(hours=1)
RING = "Object.entries(localStorage).find(([one]) => one.startsWith('bithive-key-'))"
IN_FORCE = "document.getElementById('status').innerText.includes('consent is given')"


class Clock:
    """The desk's, which a test moves on."""

    ahead = timedelta()

    def __call__(self):
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "home")


@pytest.fixture
def desk(world, clock, request):
    return open_desk(world.home, clock=clock, batch=getattr(request, "param", HOUR))


def come_back(tab):
    tab.go(tab.js("location.href"))


def change_ring(tab, change):
    tab.js(
        f"(() => {{ const [name, text] = {RING}; const rings = JSON.parse(text);"
        f"{change}; localStorage.setItem(name, JSON.stringify(rings)) }})()"
    )
    come_back(tab)


def publish(desk, clock):
    """Let the hour pass at the server."""
    clock.ahead += HOUR
    assert desk.publish_due() == 1


def look_now(tab):
    """Let the hour pass in her browser, which looks when the page is opened."""
    change_ring(tab, "rings[0].waiting.due = Date.now() - 1")


@pytest.mark.parametrize("desk", [timedelta(seconds=6)], indirect=True)
def test_her_consent_waits_and_comes_into_force_while_she_looks_on(tab, world, desk):
    enrol(tab, world)
    time.sleep((desk.queue.due(now=desk.clock()) - desk.clock()).total_seconds() % 6)
    code, _ = grant(tab)
    assert len(code.split()) == 11
    tab.until(IN_FORCE)
    assert "signature checked" in tab.text("#given-facts")
    assert len(live(desk)) == 1
    assert world.steward().fetch().kept == 1


def test_she_reads_from_when_it_is_in_force_also_after_a_reload(tab, world, desk, clock):
    enrol(tab, world)
    grant(tab)
    assert live(desk) == []
    for _ in range(2):
        assert "Your consent is accepted" in tab.text("#status")
        # Of another day it names the day too.
        assert re.search(r"in force from about (\d+ \w+ )?\d\d:\d\d", tab.text("#status"))
        assert "In force from about" in tab.text("#given-facts")
        assert "Receipt" not in tab.text("#given-facts")
        assert not tab.is_shown("#consent")
        come_back(tab)
    assert not tab.is_shown("#paper")
    publish(desk, clock)
    tab.events.clear()
    look_now(tab)
    settle(tab, IN_FORCE)
    assert "signature checked" in tab.text("#given-facts")
    (leaf,) = live(desk)
    lane = desk.lane("north")
    (receipt,) = desk.receipts_of(lane, desk.registry.epoch().number)
    asked = [one["request"] for one in tab.of("Network.requestWillBeSent")]
    assert any("/receipts?epoch=" in one["url"] for one in asked)
    said = str([[one["url"], one.get("postData")] for one in asked])
    assert str(leaf) not in said
    assert receipt.grant not in said


def test_she_withdraws_what_waits(tab, world, desk, clock):
    enrol(tab, world)
    grant(tab)
    tab.click("#given-withdraw")
    tab.click("#withdraw-yes")
    settle(tab, "document.getElementById('given').hidden")
    assert "withdrawn" in tab.text("#status")
    assert desk.queue.waiting() == 0
    come_back(tab)
    assert "withdrawn" in tab.text("#status")
    assert tab.is_shown("#consent")
    tab.click("#uses-button")
    settle(tab, "document.getElementById('uses-found').textContent")
    clock.ahead += HOUR
    assert desk.publish_due() == 0


def test_the_code_on_her_paper_withdraws_what_waits(tab, world, desk):
    enrol(tab, world)
    code, _ = grant(tab)
    tab.type("#code-code", code)
    tab.click("#code-form button")
    settle(tab, "!document.getElementById('code-done').hidden")
    assert "withdrawn" in tab.text("#status")
    assert desk.queue.waiting() == 0


def test_she_changes_what_waits_and_what_stands(tab, world, desk, clock):
    enrol(tab, world)
    grant(tab, *ALL_ASKED, ("categories", 2))
    tab.click("#given-change")
    assert tab.js("document.querySelectorAll('#consent-categories :checked').length") == 2
    grant(tab, ("until", 1))
    assert desk.queue.waiting() == 1
    publish(desk, clock)
    look_now(tab)
    settle(tab, IN_FORCE)
    (before,) = live(desk)
    tab.click("#given-change")
    grant(tab, ("until", 2))
    assert "earlier consent stands" in tab.text("#status")
    assert live(desk) == [before]
    publish(desk, clock)
    look_now(tab)
    settle(tab, IN_FORCE)
    (after,) = live(desk)
    assert after != before
    ended = tab.js(f"JSON.parse({RING}[1])[0].grants.map((one) => one.ended?.why ?? null)")
    assert ended == ["changed", None]


def test_withdrawing_a_change_withdraws_what_stands(tab, world, desk, clock):
    enrol(tab, world)
    grant(tab)
    publish(desk, clock)
    look_now(tab)
    settle(tab, IN_FORCE)
    tab.click("#given-change")
    grant(tab, ("until", 1))
    tab.click("#given-withdraw")
    tab.click("#withdraw-yes")
    settle(tab, "document.getElementById('given').hidden")
    assert live(desk) == []
    assert desk.queue.waiting() == 0
    assert "withdrawn" in tab.text("#status")


def test_a_lost_answer_is_told_and_settled_by_the_batch(tab, world, desk, clock):
    enrol(tab, world)
    grant(tab)
    lost = (
        "const { leaf, code, terms } = rings[0].waiting; delete rings[0].waiting;"
        "rings[0].pending = { leaf, code, terms, sent: Date.now() }"
    )
    change_ring(tab, lost)
    assert "was sent" in tab.text("#status")
    publish(desk, clock)
    look_now(tab)
    settle(tab, IN_FORCE)


def test_what_never_arrived_is_asked_again(tab, world, desk):
    enrol(tab, world)
    grant(tab)
    never = (
        "const { leaf, code, terms } = rings[0].waiting; delete rings[0].waiting;"
        "rings[0].pending = { leaf: leaf.slice(1), code, terms, sent: Date.now() - 8e6 }"
    )
    change_ring(tab, never)
    assert tab.is_shown("#consent")
    assert "have not given" in tab.text("#status")


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_waiting_is_as_readable_as_the_rest(devtools, address, world, language):
    with browser.Tab.open(devtools, language=language, width=320, height=780) as tab:
        tab.go(address)
        enrol(tab, world)
        grant(tab)
        assert tab.js("document.documentElement.scrollWidth") <= 320
        assert unnamed(tab) == faint(tab) == small_targets(tab) == []
        assert "undefined" not in tab.text("body")
        assert not re.search(r"\{\w+\}", tab.text("body"))
        assert ("已受理" if language == "zh-CN" else "accepted") in tab.text("#status")
