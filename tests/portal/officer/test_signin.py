"""Who signs in to a hospital's page, and what no other page or guess can do there."""

import stat

import pytest
from fastapi.testclient import TestClient

from identity.roles import Role
from portal.officer.server import COOKIE, configured, create_app
from portal.officer.signin import ACCOUNTS, Sessions
from tests.fl_client.job_world import SITE
from tests.portal.officer.world import (
    HERE,
    OPERATOR,
    PASSWORD,
    USER,
    Seen,
    decide,
    decided,
    form_of,
    sign_in,
)


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
    assert "Sign in with the new one" in answer.text
    assert 'action="/sign-in"' in answer.text
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
