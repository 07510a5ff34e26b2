"""An officer decides on a page without script, behind her account, on what she was shown alone."""

import re
import stat
import threading
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from fl_client.control import Control
from fl_client.job_code import JobCode
from fl_client.service import listening, make_token, serve
from identity.passwords import Cost
from identity.roles import Actor, Role
from portal.officer.desk import OfficerDesk
from portal.officer.server import COOKIE, configured, create_app
from portal.officer.signin import ACCOUNTS, Sessions, site_accounts
from portal.site_control import control_token_at, keep_places
from privacy.budget import BudgetConflict, DatasetUnknown, PrivacyBudget
from privacy.events import DpSgdEvent
from privacy.stewardship import open_dataset
from tests.fl_client.feature_world import feature_job
from tests.fl_client.job_world import OFFICER, SITE, Clock, World, resident_at

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
def accounts(desk):
    made = site_accounts(desk.folder, desk.book.decisions.log.append, cost=CHEAP)
    made.add("officer-1", PASSWORD, roles={Role.OFFICER}, actor=USER, site=SITE)
    made.add("steward-1", PASSWORD, roles={Role.STEWARD}, actor=USER, site=SITE)
    yield made
    made.close()


@pytest.fixture
def client(desk, accounts, clock):
    app = create_app(desk, Sessions(accounts, SITE, clock))
    with TestClient(app, base_url=HERE, follow_redirects=True) as opened:
        yield opened


def sign_in(client, name="officer-1", password=PASSWORD):
    return client.post("/sign-in", data={"name": name, "password": password})


@pytest.fixture
def officer(client):
    """A browser in which an officer is signed in."""
    assert sign_in(client).status_code == 200
    assert client.cookies.get(COOKIE + SITE)
    return client


@pytest.fixture
def steward(client):
    """A browser in which a steward is signed in."""
    assert sign_in(client, "steward-1").status_code == 200
    return client


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
    assert "approved officer-1" in seen
    assert "refused officer-1" in seen
    assert desk.checkpoint() in seen


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


@pytest.mark.parametrize("path", ["/", "/decisions", "/duty", "/jobs/{job}"])
def test_nobody_reads_without_signing_in(client, job, path):
    page = client.get(path.format(job=job.hash))
    assert page.url.path == "/sign-in"
    assert job.hash not in page.text


@pytest.mark.parametrize("act", ["approve", "refuse"])
def test_nobody_decides_without_signing_in(client, desk, job, act):
    client.post(f"/jobs/{job.hash}/{act}", data={"reason": "why"})
    assert not decided(desk)


@pytest.mark.parametrize("form", ["", "guessed"])
def test_a_form_of_another_session_decides_nothing(officer, desk, job, form):
    answer = decide(officer, job, "approve", form=form)
    assert answer.status_code == 403
    assert not decided(desk)


@pytest.mark.parametrize(
    ("name", "password"),
    [("officer-1", "another few long words"), ("nobody", PASSWORD), ("", ""), ("\udc80", PASSWORD)],
)
def test_a_wrong_name_or_password_opens_nothing_and_says_the_same(client, name, password):
    answer = sign_in(client, name.encode(errors="surrogatepass"), password)
    assert answer.status_code == 403
    assert "name and password do not fit" in answer.text
    assert client.cookies.get(COOKIE + SITE) is None


def test_an_account_of_another_site_opens_nothing_here(client, accounts):
    accounts.add("away", PASSWORD, roles={Role.OFFICER}, actor=OPERATOR, site="south")
    assert sign_in(client, "away").status_code == 403
    assert client.cookies.get(COOKIE + SITE) is None


def test_who_guesses_is_made_to_wait(client):
    answers = [sign_in(client, password="guess a long word").status_code for _ in range(6)]
    assert answers == [403] * 5 + [429]
    assert sign_in(client).status_code == 429


def test_a_guess_does_not_come_from_wherever_it_says(desk, accounts, clock):
    config = configured(create_app(desk, Sessions(accounts, SITE, clock)), port=1)
    config.load()
    with TestClient(config.loaded_app, base_url=HERE, client=("127.0.0.1", 1)) as client:
        for number in range(20):
            said = {"X-Forwarded-For": f"192.0.2.{number}"}
            data = {"name": f"nobody-{number}", "password": "another few words"}
            assert client.post("/sign-in", data=data, headers=said).status_code == 403
        data = {"name": "nobody", "password": "another few words"}
        last = client.post("/sign-in", data=data, headers={"X-Forwarded-For": "198.51.100.1"})
        assert last.status_code == 429


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    {"Sec-Fetch-Site": "cross-site", "Origin": HERE},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "http://127.0.0.1:9999"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("said", FOREIGN)
def test_a_page_elsewhere_signs_nobody_in_and_uses_up_no_attempt(client, said):
    for _ in range(21):
        data = {"name": "steward-1", "password": PASSWORD}
        found = client.post("/sign-in", data=data, headers=said)
        assert found.status_code == 403
        assert "another page than ours" in Seen(found.text).text
    assert not client.cookies
    assert sign_in(client).status_code == 200


@pytest.mark.parametrize("said", FOREIGN)
def test_a_page_elsewhere_decides_nothing_even_with_this_sessions_form(officer, desk, job, said):
    form = form_of(officer.get(f"/jobs/{job.hash}"))
    found = officer.post(f"/jobs/{job.hash}/approve", data={"form": form}, headers=said)
    assert found.status_code == 403
    assert not decided(desk)


@pytest.mark.parametrize(
    "said", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": HERE}, {}]
)
def test_the_page_itself_and_a_program_that_is_no_browser_may_send_forms(client, said):
    data = {"name": "officer-1", "password": PASSWORD}
    assert client.post("/sign-in", data=data, headers=said).status_code == 200


def test_the_sites_accounts_are_in_a_private_file_without_passwords(client, desk):
    path = desk.folder / ACCOUNTS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD.encode() not in path.read_bytes()


def test_a_session_ends_when_she_signs_out(officer):
    officer.post("/sign-out", data={"form": form_of(officer.get("/"))})
    assert officer.get("/").url.path == "/sign-in"


def test_a_session_is_over_when_it_lay_idle_for_an_hour(officer, clock):
    clock.pass_(minutes=59)
    assert officer.get("/").url.path == "/"
    clock.pass_(minutes=61)
    assert officer.get("/").url.path == "/sign-in"


@pytest.mark.parametrize("change", ["removed", "reset"])
def test_a_session_ends_when_the_account_is_changed(officer, desk, job, accounts, change):
    form = form_of(officer.get(f"/jobs/{job.hash}"))
    if change == "removed":
        accounts.disable("officer-1", actor=USER)
    else:
        accounts.reset_password("officer-1", "other long plain words", actor=USER)
    officer.post(f"/jobs/{job.hash}/approve", data={"form": form})
    assert not decided(desk)
    assert officer.get("/").url.path == "/sign-in"


NEW = "quite other long words"


def change_password(client, old=PASSWORD, new=NEW, again=NEW):
    form = form_of(client.get("/password"))
    return client.post("/password", data={"form": form, "old": old, "new": new, "again": again})


def test_she_changes_her_password_and_all_her_sessions_end(officer, desk):
    sessions = [officer.cookies.get(COOKIE + SITE)]
    sign_in(officer)
    sessions.append(officer.cookies.get(COOKIE + SITE))
    answer = change_password(officer)
    assert answer.url.path == "/sign-in"
    assert "Sign in with the new one" in answer.text
    assert officer.cookies.get(COOKIE + SITE) is None
    for token in sessions:
        officer.cookies.set(COOKIE + SITE, token)
        assert officer.get("/").url.path == "/sign-in"
    officer.cookies.clear()
    assert sign_in(officer).status_code == 403
    assert sign_in(officer, password=NEW).url.path == "/"
    changed = [one for one in desk.book.decisions.log.events() if one.kind == "password-changed"]
    assert [one.facts for one in changed] == [{"account": "officer-1"}]


@pytest.mark.parametrize(
    ("typed", "status", "words"),
    [
        ({"old": "a guess of long words"}, 403, "the current password does not fit"),
        ({"again": "typed in another way"}, 409, "type it twice alike"),
        ({"new": "short", "again": "short"}, 409, "fewer than 15 characters"),
        ({"new": "", "again": ""}, 409, "fewer than 15 characters"),
    ],
)
def test_a_password_that_is_not_changed_says_why_and_ends_no_session(officer, typed, status, words):
    answer = change_password(officer, **typed)
    assert (answer.status_code, words in Seen(answer.text).text) == (status, True)
    assert officer.get("/").url.path == "/"
    officer.post("/sign-out", data={"form": form_of(officer.get("/"))})
    assert sign_in(officer).url.path == "/"


def test_who_finds_a_browser_signed_in_guesses_the_password_no_faster(officer):
    answers = [change_password(officer, old="guess a long word").status_code for _ in range(6)]
    assert answers == [403] * 5 + [429]
    assert change_password(officer).status_code == 429


def test_a_password_is_changed_by_no_other_page_and_by_nobody_who_is_not_signed_in(officer):
    data = {"form": form_of(officer.get("/password")), "old": PASSWORD, "new": NEW, "again": NEW}
    for said in FOREIGN:
        assert officer.post("/password", data=data, headers=said).status_code == 403
    assert officer.post("/password", data=data | {"form": "0" * 64}).status_code == 403
    officer.cookies.clear()
    assert officer.get("/password").url.path == "/sign-in"
    assert officer.post("/password", data=data).url.path == "/sign-in"
    assert sign_in(officer).url.path == "/"


def test_a_steward_reads_the_jobs_and_decides_on_none(steward, desk, job):
    page = steward.get(f"/jobs/{job.hash}")
    assert job.hash in page.text
    assert "/approve" not in page.text
    assert "/refuse" not in page.text
    answer = decide(steward, job, "approve")
    assert (answer.status_code, "permission-missing" in answer.text) == (403, True)
    assert not decided(desk)
    seen = Seen(steward.get("/decisions").text).text
    assert "steward-1" in seen
    assert "may not approve a job" in seen


# Taking part


def order(browser, kind, **fields):
    form = form_of(browser.get("/duty"))
    return browser.post(f"/duty/{kind}", data={"form": form} | fields)


def test_she_pauses_resumes_and_drains_and_it_is_recorded(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        assert "takes part in every study" in officer.get("/duty").text
        assert "answers every request with a refusal" in order(officer, "pause", reason="x").text
        assert resident.duty.standing().state == "paused"
        assert "begins nothing" in officer.get("/").text
        order(officer, "resume")
        assert resident.duty.standing().state == "running"
        order(officer, "drain")
        assert resident.duty.standing().state == "paused"
    assert decided(desk) == ["paused", "resumed", "draining"]
    assert {one.who for one in desk.book.decisions.all()} == {"officer-1"}


def test_the_hospital_leaves_only_after_its_name_was_typed(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        for typed in ("", "south", "yes"):
            answer = order(officer, "leave", site=typed)
            assert (answer.status_code, "leave-unconfirmed" in answer.text) == (409, True)
        assert resident.duty.standing().state == "running"
        assert "has left" in order(officer, "leave", site="north").text
    assert decided(desk) == ["leaving"]


def test_a_steward_stops_nothing(steward, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        form = form_of(steward.get("/duty"))
        assert "/duty/pause" not in steward.get("/duty").text
        for kind in ("pause", "resume", "drain", "leave"):
            fields = {"form": form, "site": "north"}
            answer = steward.post(f"/duty/{kind}", data=fields)
            assert (answer.status_code, "permission-missing" in answer.text) == (403, True)
        assert resident.duty.standing().state == "running"
    assert not decided(desk)
    assert len(desk.book.decisions.all()) == 4


def test_an_order_without_this_sessions_form_is_not_given(officer, desk, clock):
    with agent_running(desk, World(), clock) as resident:
        assert officer.post("/duty/pause", data={"form": "guessed"}).status_code == 403
        assert resident.duty.standing().state == "running"


def test_an_agent_that_does_not_run_is_shown_as_such(officer):
    assert "its agent does not run" in officer.get("/duty").text
    assert "does not run" in officer.get("/").text
    form = form_of(officer.get("/"))
    answer = officer.post("/duty/pause", data={"form": form})
    assert (answer.status_code, "agent-unreachable" in answer.text) == (409, True)


def test_an_order_that_there_is_not_is_not_found(officer):
    form = form_of(officer.get("/"))
    assert officer.post("/duty/destroy", data={"form": form}).status_code == 422


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


def test_an_officer_reads_the_code_a_job_brings_and_nobody_else_does(client, accounts, desk):
    job, bundle = code_job(desk)
    assert client.get(f"/jobs/{job.hash}/code").headers["content-type"].startswith("text/html")
    sign_in(client)
    page = client.get(f"/jobs/{job.hash}").text
    assert f"/jobs/{job.hash}/code" in page
    assert job.manifest.code in page
    assert f"runs {job.terms.training.features.function} on one patient" in Seen(page).text
    answer = client.get(f"/jobs/{job.hash}/code")
    assert answer.content == bundle
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_job_without_code_has_none_to_read(officer, job):
    assert f"/jobs/{job.hash}/code" not in officer.get(f"/jobs/{job.hash}").text
    assert "code-missing" in officer.get(f"/jobs/{job.hash}/code").text
