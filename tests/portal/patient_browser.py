"""A patient's page in a browser of her own: what the tests of the page share.

Skipped where Chromium is missing. The server is a thread of this process, the stewards its calls.
``tests/portal/conftest.py`` gives the fixtures to all tests here; each file has its own ``world``
and ``desk``.
"""

import threading
import time

import pytest
import uvicorn

from portal.patient.server import create_app, read_sheet
from tests.portal import browser
from tests.portal.patient_world import NORTH


@pytest.fixture(scope="module")
def devtools(tmp_path_factory):
    if browser.find() is None:
        pytest.skip("no Chromium here; install it, or name it in BITHIVE_TEST_CHROMIUM")
    with browser.chromium(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
def address(world, desk):
    app = create_app(desk, read_sheet(world.home.server / "study-sheet.json"))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", access_log=False, ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def tab(devtools, address):
    with browser.Tab.open(devtools) as opened:
        opened.go(address)
        yield opened
        assert complaints(opened) == []
        assert strangers(opened, address) == []


def complaints(tab):
    """Return what the browser objected to: blocked loads, script errors, warnings."""
    logged = [one["entry"] for one in tab.of("Log.entryAdded")]
    # A refusal is an answer like 404, which Chromium logs as an error of the network.
    found = [entry for entry in logged if entry["source"] != "network"]
    return found + tab.of("Runtime.exceptionThrown") + tab.of("Runtime.consoleAPICalled")


def strangers(tab, address):
    """Return what was asked of anybody but the page's own server."""
    asked = [one["request"]["url"] for one in tab.of("Network.requestWillBeSent")]
    # Workers are made from blobs of the page's own, its icon and data need no network.
    return [url for url in asked if not url.startswith((address, "blob:" + address, "data:"))]


def settle(tab, condition):
    """Wait until something is so, or the page says that something went wrong."""
    tab.until(f"({condition}) || !document.getElementById('alert').hidden")
    assert not tab.is_shown("#alert"), tab.text("#alert")


def enrol(tab, world, patient="4711"):
    tab.type("#enrol-code", world.invite(patient).lower())
    tab.click("#enrol-form button")
    settle(tab, "!document.getElementById('waiting').hidden")
    assert patient in tab.text("#waiting-for")
    world.enrol_all()
    tab.click("#waiting-check")
    settle(tab, "!document.getElementById('consent').hidden")


def tick(tab, *choices):
    for kind, number in choices:
        tab.click(f"#consent-{kind} label:nth-child({number})")


ALL_ASKED = (("purposes", 1), ("categories", 1), ("until", 2))


def grant(tab, *choices):
    """Tick, give consent, and return the code on the paper and the seconds it took."""
    tick(tab, *(choices or ALL_ASKED))
    tab.js("document.getElementById('paper').hidden = true")
    began = time.monotonic()
    tab.click("#consent-button")
    settle(tab, "!document.getElementById('paper').hidden")
    return tab.text("#paper-code"), time.monotonic() - began


def live(desk):
    lane = desk.lane(NORTH)
    return [leaf for leaf in desk.registry.leaves(lane) if leaf]


def unnamed(tab):
    """Return shown controls that have no name for a screen reader."""
    return tab.js(
        "[...document.querySelectorAll('button, input, textarea, a')]"
        ".filter((one) => one.getClientRects().length)"
        ".filter((one) => !(one.innerText || one.labels?.length || one.ariaLabel))"
        ".map((one) => one.outerHTML)"
    )


def small_targets(tab):
    """Return shown buttons that a thumb misses (WCAG 2.2, 2.5.5: 44 px)."""
    return tab.js(
        "[...document.querySelectorAll('button, .choice')]"
        ".filter((one) => one.getClientRects().length && one.getBoundingClientRect().height < 44)"
        ".map((one) => one.outerHTML)"
    )


def focus(tab, wanted):
    for _ in range(40):
        tab.press("Tab")
        if tab.js("document.activeElement.id") == wanted:
            return
    pytest.fail(f"{wanted} is not reached with the keyboard")


def faint(tab):
    """Return shown texts with less contrast than WCAG 2.2 asks for (1.4.3: 4.5, large ones 3)."""
    return tab.js(
        """(() => {
        const parts = (colour) => colour.match(/[\\d.]+/g).map(Number)
        const light = (channel) => (channel /= 255) <= 0.04045
            ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4
        const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b)
        const ground = (it) => {
            for (; it; it = it.parentElement) {
                const found = parts(getComputedStyle(it).backgroundColor)
                if (found.length < 4 || found[3] === 1) return found
            }
            return [255, 255, 255]
        }
        const texts = [...document.body.querySelectorAll("*")].filter((it) => !it.disabled
            && it.getClientRects().length && it.getBoundingClientRect().left >= 0
            && [...it.childNodes].some((one) => one.nodeType === 3 && one.data.trim()))
        return texts.filter((it) => {
            const style = getComputedStyle(it)
            const [a, b] = [luminance(parts(style.color)), luminance(ground(it))]
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
            const size = Number.parseFloat(style.fontSize)
            const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)
            return ratio < (large ? 3 : 4.5)
        }).map((it) => it.outerHTML.slice(0, 200))
        })()"""
    )
