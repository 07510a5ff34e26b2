"""In the browser a carer decides for her ward until the ward's day, and from it on the ward alone.

Dates are moved in the browser and at the desk alike.
"""

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("groth16py", reason="the server's fast verifier needs the extra `prover`")

from portal.patient.sealing import Relation, Ward
from portal.patient.server import open_desk
from tests.portal import browser
from tests.portal.patient_browser import (
    enrol,
    faint,
    grant,
    live,
    settle,
    small_targets,
    tick,
    unnamed,
)
from tests.portal.patient_world import World

pytestmark = pytest.mark.slow
DAYS = 200
UNTIL = datetime.now(UTC).date() + timedelta(days=DAYS)
CHILD = Ward(Relation.CHILD, UNTIL)
LATER = (
    "{ const D = Date, by = %d * 86400000; globalThis.Date = class extends D {"
    " constructor(...given) { given.length ? super(...given) : super(D.now() + by) }"
    " static now() { return D.now() + by } } }"
)
UNTIL_HER_DAY = (("purposes", 1), ("categories", 1), ("until", 2))


class Clock:
    """The desk's, which a test moves on by days."""

    days = 0

    def __call__(self):
        return datetime.now(UTC) + timedelta(days=self.days)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(tmp_path):
    return World.found(tmp_path / "home")


@pytest.fixture
def desk(world, clock):
    return open_desk(world.home, clock=clock)


def begin_as_carer(tab, world, patient="4712", ward=CHILD):
    """Type a carer's code, and return the key for the ward."""
    tab.type("#enrol-code", world.invite(patient, ward=ward))
    tab.click("#enrol-form button")
    settle(tab, "!document.getElementById('handover').hidden")
    return tab.text("#handover-out")


def be_confirmed(tab, world):
    world.enrol_all()
    tab.click("#waiting-check")
    settle(tab, "!document.getElementById('consent').hidden")


def move_on(tab, days):
    """Let days pass in this tab's browser."""
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=LATER % days)
    tab.go(tab.js("location.href"))


def lasts(tab):
    return tab.js(
        "[...document.querySelectorAll('#consent-until small')].map((one) => one.innerText)"
    )


def test_a_carer_grants_no_longer_than_she_decides_and_the_hospital_keeps_it(tab, world, desk):
    key = begin_as_carer(tab, world)
    assert key.startswith("BITHIVE1.")
    assert "your child" in tab.text("#handover")
    assert tab.is_shown("#waiting")
    tab.click("#handover-done")
    assert not tab.is_shown("#handover")
    assert key[9:60] not in tab.js("JSON.stringify(localStorage)")
    be_confirmed(tab, world)
    assert "You decide for your child" in tab.text("#whom")
    assert tab.text("#consent-title") == "Your decision for your child"
    last_day = UNTIL - timedelta(days=1)
    assert lasts(tab)[-1] == f"until {last_day.day} {last_day:%B %Y}"
    assert len(lasts(tab)) == 2  # three months, and as long as she decides
    grant(tab, *UNTIL_HER_DAY)
    fetched = world.steward().fetch()
    assert (fetched.kept, fetched.refused) == (1, ())
    assert tab.text("#given-title") == "Your consent for your child is given"
    assert "4712" not in tab.text("body")  # no number and no name once it is granted
    tab.click("#given-withdraw")
    assert "the data of your child" in tab.text("#withdraw-sure")
    tab.click("#withdraw-yes")
    settle(tab, "document.getElementById('given').hidden")
    assert live(desk) == []


def test_from_her_day_on_the_ward_decides_and_the_carer_may_only_look(  # noqa: PLR0917 - fixtures
    tab, world, clock, desk, devtools, address
):
    key = begin_as_carer(tab, world)
    tab.click("#handover-done")
    be_confirmed(tab, world)
    grant(tab, *UNTIL_HER_DAY)
    assert world.steward().fetch().kept == 1
    with browser.Tab.open(devtools, width=390) as ward:
        ward.go(address)
        ward.type("#key-in", key)
        ward.click("#key-form button")
        settle(ward, "!document.getElementById('young').hidden")
        assert f"alone from {UNTIL.day} {UNTIL:%B %Y}" in ward.text("#young")
        assert not ward.is_shown("#consent")
        assert not ward.is_shown("#given")
        clock.days = DAYS
        move_on(tab, DAYS)
        assert tab.is_shown("#over")
        assert "your child decides alone" in tab.text("#over")
        for hidden in ("#given", "#consent", "#whom"):
            assert not tab.is_shown(hidden)
        move_on(ward, DAYS)
        settle(ward, "!document.getElementById('consent').hidden")
        assert "You decide alone now" in ward.text("#status")
        grant(ward)
        assert ward.text("#given-title") == "Your consent is given"
        assert world.steward().fetch().kept == 1
        assert len(live(desk)) == 2  # the carer's has expired, and is not hers to end


def test_one_browser_keeps_several_decisions_apart(tab, world, desk):
    enrol(tab, world)
    grant(tab)
    tab.click("#paper-done")
    tab.click("#people-more")
    assert tab.is_shown("#enrol")
    begin_as_carer(tab, world)
    tab.click("#handover-done")
    be_confirmed(tab, world)
    assert tab.text("#people-list").split("\n") == [
        "Myself",
        "My child",
        "Enter another invitation",
    ]
    assert "There is no consent for your child" in tab.text("#status")
    tick(tab, ("purposes", 1))
    tab.click("#people-list button:nth-child(1)")
    assert tab.text("#given-title") == "Your consent is given"
    tab.go(tab.js("location.href"))
    tab.click("#people-list button:nth-child(2)")
    assert tab.text("#consent-title") == "Your decision for your child"
    assert tab.js("document.querySelectorAll('#consent-form :checked').length") == 0
    grant(tab, *UNTIL_HER_DAY)
    assert len(live(desk)) == 2
    tab.click("#key-forget")
    tab.click("#key-yes")
    assert not tab.is_shown("#people")
    assert tab.text("#given-title") == "Your consent is given"


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("width", [390, 1200])
def test_every_screen_of_carers_and_wards_fits_and_is_named(  # noqa: PLR0917 - fixtures
    devtools, address, world, language, width, tmp_path, clock
):
    with browser.Tab.open(devtools, language=language, width=width, height=844) as tab:
        tab.go(address)

        def look(name):
            assert tab.js("document.documentElement.scrollWidth") <= width
            assert unnamed(tab) == []
            assert faint(tab) == []
            assert small_targets(tab) == []
            assert "{" not in tab.text("body")
            assert "undefined" not in tab.text("body")
            tab.picture(tmp_path / f"{name}-{language}-{width}.png")

        key = begin_as_carer(tab, world, ward=Ward(Relation.WARD, UNTIL))
        look("handover")
        tab.click("#handover-done")
        look("waiting")
        be_confirmed(tab, world)
        look("consent")
        grant(tab, *UNTIL_HER_DAY)
        tab.click("#paper-done")
        look("given")
        tab.click("#given-withdraw")
        look("withdraw")
        with browser.Tab.open(devtools, language=language, width=width, height=844) as ward:
            ward.go(address)
            ward.type("#key-in", key)
            ward.click("#key-form button")
            settle(ward, "!document.getElementById('young').hidden")
            ward.picture(tmp_path / f"young-{language}-{width}.png")
            clock.days = DAYS
            move_on(ward, DAYS)
            settle(ward, "!document.getElementById('consent').hidden")
            ward.picture(tmp_path / f"of-age-{language}-{width}.png")
        move_on(tab, DAYS)
        look("over")
