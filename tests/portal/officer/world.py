"""The officer's page over one hospital's desk, and what a browser does there."""

import re
import threading
from contextlib import contextmanager
from html.parser import HTMLParser

from fl_client.control import Control
from fl_client.job_code import JobCode
from fl_client.service import listening, make_token, serve
from identity.passwords import Cost
from identity.roles import Actor, Role
from portal.site_control import control_token_at, keep_places
from tests.fl_client.feature_world import feature_job
from tests.fl_client.job_world import SITE, World, resident_at

HERE = "http://127.0.0.1"
CHEAP = Cost(iterations=1, lanes=1, memory_kib=8)
PASSWORD = "four long plain words"
USER = Actor("user", frozenset({Role.OFFICER, Role.STEWARD}), site=SITE)
OPERATOR = Actor("operator", frozenset({Role.OPERATOR}))


class Seen(HTMLParser):
    """What a page's text says, and whether it holds a script."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags = [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.words.append(data)


def sign_in(client, name="officer-1", password=PASSWORD):
    return client.post("/sign-in", data={"name": name, "password": password})


@contextmanager
def agent_running(desk, world, clock):
    """Let the site's agent answer its operator's door."""
    resident, _ = resident_at(desk.folder, world, clock)
    stop, place = threading.Event(), desk.folder / "agent.control"
    keep_places(desk.folder, frames=desk.folder / "agent.sock", control=place)
    token = make_token(control_token_at(desk.folder))
    with listening(place) as door:
        arguments = (Control(resident).answer, door, stop)
        thread = threading.Thread(target=serve, args=arguments, kwargs={"token": token})
        thread.start()
        try:
            yield resident
        finally:
            stop.set()
            thread.join()


def code_job(desk):
    """A job that brings code, which has come with it."""
    terms, manifest, bundle = feature_job(World())
    JobCode(desk.folder / "site.db").keep(bundle, named=[])
    return desk.book.keep(manifest, terms), bundle


def form_of(page):
    return re.search(r'name="form" value="([^"]+)"', page.text)[1]


def decided(desk):
    return [one.kind for one in desk.book.decisions.all() if one.kind != "permission-denied"]


def decide(browser, job, act, reason="", form=None):
    form = form_of(browser.get(f"/jobs/{job.hash}")) if form is None else form
    data = {"form": form, "reason": reason}
    return browser.post(f"/jobs/{job.hash}/{act}", data=data)
