"""An officer decides on a page without script, behind her token, on what she was shown alone."""

import re
import stat
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from portal.officer.desk import OfficerDesk
from portal.officer.server import COOKIE, create_app
from portal.officer.signin import OfficerTokens, Sessions
from privacy.budget import BudgetConflict, DatasetUnknown, PrivacyBudget
from privacy.events import DpSgdEvent
from privacy.stewardship import open_dataset
from tests.fl_client.job_world import NOW, OFFICER, SITE, Clock, World

HERE = "http://127.0.0.1"


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


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk(tmp_path, clock):
    open_dataset(tmp_path / "budget.db", "scans", epsilon_limit=3.0, delta=1e-5)
    return OfficerDesk(tmp_path, SITE, clock=clock)


@pytest.fixture
def job(desk):
    world = World()
    terms, manifest = world.job(title="<b>lesion</b> against none")
    return desk.book.keep(manifest, terms)


@pytest.fixture
def tokens(tmp_path):
    return OfficerTokens(tmp_path / "officers.json", SITE)


@pytest.fixture
def client(desk, tokens, clock):
    app = create_app(desk, Sessions(tokens, clock))
    with TestClient(app, base_url=HERE, follow_redirects=True) as opened:
        yield opened


@pytest.fixture
def officer(client, tokens):
    """A browser in which an officer is signed in."""
    token = tokens.make("officer-1", now=NOW)
    assert client.post("/sign-in", data={"token": token}).status_code == 200
    assert client.cookies.get(COOKIE)
    return client


def form_of(page):
    return re.search(r'name="form" value="([^"]+)"', page.text)[1]


def decide(browser, job, act, reason="", form=None):
    form = form_of(browser.get(f"/jobs/{job.hash}")) if form is None else form
    data = {"form": form, "reason": reason}
    return browser.post(f"/jobs/{job.hash}/{act}", data=data)


def test_a_job_is_shown_in_words_to_decide_on(officer, job):
    seen = Seen(officer.get(f"/jobs/{job.hash}").text)
    for words in (
        "health, medical or biomedical research DUO:0000006",
        "scans ultrasound",
        "epsilon 2.00 (delta 1e-05, unit: patient, sampling: Poisson at rate 0.5, accountant: PRV)",
        "1,000 BTT",
        "none: the hospital's own programs run",
        "5 rounds",
        "north, south, west",
        "<b>lesion</b> against none",
        job.hash,
    ):
        assert words in seen.text
    assert "script" not in seen.tags


def test_she_approves_and_later_revokes(officer, desk, job):
    assert "approved" in Seen(decide(officer, job, "approve", "fine").text).text
    found = desk.book.approved("lesions")
    assert (found.decision.who, found.decision.reason) == ("officer-1", "fine")
    decide(officer, job, "refuse", "a patient asked")
    assert desk.book.named(job.hash).decision.kind == "refused"
    seen = Seen(officer.get("/decisions").text).text
    assert "1. officer-1" in seen
    assert "2. officer-1" in seen


def test_a_refusal_without_a_reason_is_told_so(officer, desk, job):
    answer = decide(officer, job, "refuse", " ")
    assert answer.status_code == 409
    assert "decision-incomplete" in answer.text
    assert desk.book.named(job.hash).decision is None


def test_a_job_above_the_cap_is_shown_as_such_and_cannot_be_approved(officer, desk, job):
    budget = PrivacyBudget(desk.folder / "budget.db", dataset="scans")
    budget.reserve("others", 1, DpSgdEvent(1.0, 6.0, 4))
    page = officer.get(f"/jobs/{job.hash}")
    assert "cannot be approved" in page.text
    assert "/approve" not in page.text
    assert "cannot be approved" in officer.get("/").text
    answer = decide(officer, job, "approve")
    assert (answer.status_code, "job-over-budget" in answer.text) == (409, True)


def test_what_other_approved_studies_may_still_spend_is_not_left(desk, job):
    assert desk.shown(job)["left"] == 3.0
    world = World()
    terms, manifest = world.job("nodules")
    other = desk.book.keep(manifest, terms)
    desk.approve(other.hash, OFFICER)
    assert desk.shown(job)["left"] == pytest.approx(1.0)
    assert desk.shown(job)["over_budget"]
    assert not desk.shown(other)["over_budget"]


def test_no_study_is_approved_before_the_steward_set_a_cap(tmp_path, clock, job):
    desk = OfficerDesk(tmp_path / "new", SITE, clock=clock)
    desk.book.keep(job.manifest, job.terms)
    shown = desk.shown(desk.book.named(job.hash))
    assert (shown["left"], shown["over_budget"]) == (None, True)
    assert "--cap" in shown["left_text"]
    with pytest.raises(DatasetUnknown):
        desk.approve(job.hash, OFFICER)


def test_a_job_at_another_delta_than_the_ledger_counts_at_is_not_approved(desk):
    world = World()
    terms, manifest = world.job(delta=1e-6)
    desk.book.keep(manifest, terms)
    with pytest.raises(BudgetConflict):
        desk.approve(manifest.hash, OFFICER)


@pytest.mark.parametrize("path", ["/", "/decisions", "/jobs/{job}"])
def test_nobody_reads_without_signing_in(client, job, path):
    page = client.get(path.format(job=job.hash))
    assert page.url.path == "/sign-in"
    assert job.hash not in page.text


@pytest.mark.parametrize("act", ["approve", "refuse"])
def test_nobody_decides_without_signing_in(client, desk, job, act):
    client.post(f"/jobs/{job.hash}/{act}", data={"reason": "why"})
    assert desk.book.decisions.all() == []


@pytest.mark.parametrize("form", ["", "guessed"])
def test_a_form_of_another_session_decides_nothing(officer, desk, job, form):
    answer = decide(officer, job, "approve", form=form)
    assert answer.status_code == 403
    assert desk.book.decisions.all() == []


def test_a_token_that_does_not_hold_opens_nothing(client, tokens, clock):
    old = tokens.make("officer-1", now=NOW)
    new = tokens.make("officer-1", now=NOW)
    for token in ("", "guessed", old):
        answer = client.post("/sign-in", data={"token": token})
        assert answer.status_code == 403
    clock.pass_(days=31)
    assert client.post("/sign-in", data={"token": new}).status_code == 403
    assert client.cookies.get(COOKIE) is None


def test_a_token_is_kept_as_its_hash_in_a_private_file(tokens):
    token = tokens.make("officer-1", now=NOW)
    assert token not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600


def test_a_session_ends_after_eight_hours_and_when_she_signs_out(officer, clock):
    clock.pass_(hours=7)
    assert officer.get("/").url.path == "/"
    officer.post("/sign-out", data={"form": form_of(officer.get("/"))})
    assert officer.get("/").url.path == "/sign-in"


def test_a_session_is_over_after_its_time(officer, clock):
    clock.pass_(hours=9)
    assert officer.get("/").url.path == "/sign-in"


def test_a_session_ends_with_the_token_that_began_it(officer, desk, job, tokens):
    form = form_of(officer.get(f"/jobs/{job.hash}"))
    tokens.make("officer-1", now=NOW)  # the first one was lost
    officer.post(f"/jobs/{job.hash}/approve", data={"form": form})
    assert desk.book.decisions.all() == []
    assert officer.get("/").url.path == "/sign-in"


def test_the_page_loads_nothing_from_elsewhere_and_stands_in_no_frame(officer):
    policy = officer.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert officer.get("/").headers["cache-control"] == "no-store"
    assert officer.get("/static/officer.css").status_code == 200


def test_a_caller_by_another_name_is_turned_away(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_a_job_that_is_not_there_is_told_so(officer):
    assert officer.get(f"/jobs/{'f' * 64}").status_code == 409


def test_a_form_larger_than_any_of_ours_is_refused(officer, job):
    assert decide(officer, job, "approve", "x" * 10_000).status_code == 403
