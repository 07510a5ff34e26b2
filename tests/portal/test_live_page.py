"""The live page is beautiful on a telephone and a desk, and the same with and without its script.

Skipped where Chromium is missing. The server is a thread of this process; the run is written while
the page is open.
"""

import threading
import time

import pytest
import uvicorn

from portal.home import Home
from portal.live.server import Watched, create_app
from portal.live.source import HomeSource
from portal.live.stream import Pace
from portal.live.wording import texts
from tests.portal import browser
from tests.portal.live_run import LiveRun
from tests.portal.patient_browser import complaints, faint, strangers, unnamed

pytestmark = pytest.mark.slow


class Served:
    """A run, its server in a thread, and the address of its page."""

    def __init__(self, home):
        self.run = LiveRun(home)
        self.start()

    def start(self, port=0):
        watched = Watched(HomeSource(self.run.home), Pace(poll=0.05), clock=lambda: self.run.at)
        self.server = uvicorn.Server(
            uvicorn.Config(
                create_app(watched), port=port, log_level="critical", access_log=False, ws="none"
            )
        )
        watched.stop = lambda: self.server.should_exit
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture
def served(tmp_path):
    served = Served(Home(tmp_path / "home"))
    yield served
    served.stop()


def caught_up(tab, run):
    tab.until(f"document.documentElement.dataset.position === '{run.events.last()}'")


def test_the_page_follows_a_run_and_is_the_same_as_without_its_script(devtools, served):
    run = served.run
    with browser.Tab.open(devtools) as tab, browser.Tab.open(devtools) as plain:
        tab.go(f"{served.address}runs/now")
        assert "Waiting for the first round" in tab.text("#headline")
        run.begin()
        run.round(1, codes={"lakeside": "certificate-stale"})
        run.phase(2, "roster")
        caught_up(tab, run)
        assert tab.text("#headline") == "Round 2 of 10"
        assert "certificate-stale" not in tab.text("#sites")
        assert tab.js("document.querySelectorAll('[data-curve] svg').length") == 2
        assert "0.820" in tab.js("document.querySelector('svg[role=img]').ariaLabel")
        run.phase(2, "uploads", codes={"meadow": "no-answer"})
        run.write("closed", 2, code="without-update", seconds=61.5)
        for number in range(3, 11):
            run.round(number)
        run.finish()
        caught_up(tab, run)
        assert tab.text("#headline") == "All 10 rounds are done"
        plain.call("Emulation.setScriptExecutionDisabled", value=True)
        plain.call("Page.navigate", url=f"{served.address}runs/now")
        # Whole, styles too: where words break is theirs to say.
        plain.until(
            "document.readyState === 'complete' && "
            "document.getElementById('rounds')?.children.length === 10"
        )
        assert plain.text("main") == tab.text("main")
        shapes = "[...document.querySelectorAll('main svg *')].map((one) => [one.tagName,"
        shapes += " ...[...one.attributes].map((a) => a.name + a.value).sort()].join(' ')"
        shapes += ".replace(/\\.0(?=\\D|$)/g, ''))"  # Python writes 164.0 where the script has 164
        assert plain.js(shapes) == tab.js(shapes)
        assert complaints(tab) == []
        assert strangers(tab, served.address) == []


def test_a_page_takes_up_where_its_connection_broke(devtools, served):
    run = served.run
    run.begin()
    with browser.Tab.open(devtools) as tab:
        tab.go(f"{served.address}runs/now")
        run.round(1)
        caught_up(tab, run)
        served.stop()
        tab.until("!document.getElementById('lost').hidden")
        run.round(2)
        served.start(served.port)
        caught_up(tab, run)
        tab.until("document.getElementById('lost').hidden")
        row = "[...document.querySelectorAll('#rounds tr')].map((one) => one.innerText)"
        assert [line.split("\t")[:3] for line in tab.js(row)] == [["2", "6", "0"], ["1", "6", "0"]]


@pytest.mark.parametrize("width", [320, 360, 1200])
@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_the_page_fits_can_be_read_and_is_named(devtools, served, width, language, tmp_path):
    run = served.run
    run.begin()
    for number in range(1, 4):
        run.round(number, codes={"lakeside": "certificate-stale"} if number == 3 else None)
    run.phase(4, "uploads", but=run.sites[3:], codes={"lakeside": "certificate-stale"})
    with browser.Tab.open(devtools, width=width, language=language) as tab:
        for scheme in ("light", "dark"):
            tab.call(
                "Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}],
            )
            tab.go(f"{served.address}runs/now")
            assert tab.js("document.documentElement.scrollWidth") <= width
            assert faint(tab) == []
            assert unnamed(tab) == []
            tab.picture(tmp_path / f"{scheme}.png")
        assert tab.js("document.documentElement.lang") == language[:2]
        assert complaints(tab) == []


def test_the_language_is_chosen_by_a_link(devtools, served):
    served.run.begin()
    with browser.Tab.open(devtools) as tab:
        tab.go(f"{served.address}runs/now")
        tab.click('a[hreflang="zh"]')
        tab.until("document.documentElement?.lang === 'zh'")
        assert texts()["headline.waiting"]["zh"] in tab.text("#headline")


def test_a_new_run_in_the_home_takes_the_page_over(devtools, served, tmp_path):
    served.run.begin()
    with browser.Tab.open(devtools) as tab:
        tab.go(f"{served.address}runs/now")
        served.stop()
        served.run.database.engine.dispose()
        for file in served.run.home.server.iterdir():
            file.rename(tmp_path / file.name)
        terms = served.run.terms.model_copy(update={"rounds": 4})
        served.run = LiveRun(served.run.home, terms=terms)
        served.run.begin()
        served.run.round(1)
        served.start(served.port)
        tab.until("document.getElementById('progress')?.textContent.includes('1 of 4')")
