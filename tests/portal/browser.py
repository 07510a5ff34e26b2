"""Headless Chromium over the DevTools protocol: open a page, click and type as a person does, look.

The protocol is JSON over one WebSocket; ``websockets`` comes with Flower. Nothing here waits by the
clock alone: ``until`` asks the page again and again until something is so.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field

from websockets.sync.client import connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT_SECONDS = 300


def find():
    """Return the path of Chromium, or None."""
    named = os.environ.get("BITHIVE_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def chromium(folder):
    """Start a browser with a profile of its own and give its DevTools address."""
    arguments = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio"),
        *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"),
        *("--disable-component-update", "--disable-default-apps", "--disable-extensions"),
        *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars"),
        *("--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}"),
    ]
    process = subprocess.Popen(
        [find(), *arguments, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        deadline = time.monotonic() + WAIT_SECONDS
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended early"
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text().split()[0]}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Tab:
    """One page. Events are kept: requests, responses, console messages, violations."""

    socket: object
    events: list = field(default_factory=list)
    _number: int = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, devtools, *, language="en-GB", width=1200, height=900):
        """Open a tab in a context of its own, so with an empty storage."""
        with urllib.request.urlopen(f"{devtools}/json/version") as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        with connect(address, max_size=1 << 28) as socket:
            tab = cls(socket)
            context = tab.call("Target.createBrowserContext")["browserContextId"]
            target = tab.call("Target.createTarget", url="about:blank", browserContextId=context)[
                "targetId"
            ]
            tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            for domain in ("Page", "Runtime", "Network", "Log"):
                tab.call(f"{domain}.enable")
            tab.call("Emulation.setLocaleOverride", locale=language.replace("-", "_"))
            tab.call("Network.setUserAgentOverride", userAgent="Chromium", acceptLanguage=language)
            tab.resize(width, height)
            try:
                yield tab
            finally:
                tab.session = None
                tab.call("Target.disposeBrowserContext", browserContextId=context)

    session = None

    def call(self, method, **parameters):
        """Call a method and return its result; events that come before are kept."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        self.socket.send(json.dumps(asked))
        while True:
            answer = json.loads(self.socket.recv(timeout=WAIT_SECONDS))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def resize(self, width, height):
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def go(self, address):
        self.call("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready === 'true'")

    def js(self, expression, **options):
        """Return what an expression, awaited, is."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", **asked | options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition, seconds=WAIT_SECONDS):
        deadline = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never so: {condition}; {self.text('body')}"
            time.sleep(0.03)

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def is_shown(self, selector):
        """Say whether a person sees it."""
        return self.js(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            " return Boolean(it && it.getClientRects().length) })()"
        )

    def click(self, selector):
        """Click where the element is, as a mouse does; it must be seen."""
        assert self.is_shown(selector), f"{selector} is not on the page: {self.text('body')}"
        x, y = self.js(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            " it.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const box = it.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text):
        self.click(selector)
        self.call("Input.insertText", text=text)

    def press(self, key, code=None):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=code or key,
                windowsVirtualKeyCode={"Tab": 9, "Enter": 13, " ": 32}[key],
                **(
                    {"text": {"Enter": "\r", " ": " "}[key]}
                    if key in "Enter " and kind == "keyDown"
                    else {}
                ),
            )

    def picture(self, path, *, whole=True):
        """Write a screenshot of the whole page."""
        self.js("document.fonts.ready.then(() => 1)")
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def of(self, method):
        """Return the parameters of every event of a kind so far."""
        self.js("1")
        return [event["params"] for event in self.events if event.get("method") == method]
