"""People sign in with what they know, slowly when they guess, and stay in while they may."""

import statistics
import threading
import time

import pytest

from identity import accounts as module
from identity.accounts import (
    IDLE_SECONDS,
    SESSION_SECONDS,
    Accounts,
    AccountUnfit,
    SessionEnded,
    SignInRefused,
)
from identity.passwords import Cost, PasswordUnfit
from identity.roles import Actor, PermissionMissing, Role
from identity.throttle import SignInThrottled, wait_after

CHEAP = Cost(iterations=1, lanes=1, memory_kib=8)
OPERATOR = Actor("operator", frozenset({Role.OPERATOR}))
PASSWORD = "four long plain words"
ADDRESS = "192.0.2.7"


@pytest.fixture
def log():
    return []


@pytest.fixture
def accounts(tmp_path, log):
    made = Accounts(tmp_path / "accounts.db", audit=lambda *event: log.append(event), cost=CHEAP)
    made.add("r.west", PASSWORD, roles={Role.RESEARCHER}, actor=OPERATOR, account="wallet:west")
    yield made
    made.close()


def sign_in(accounts, name="r.west", password=PASSWORD, *, address=ADDRESS, now=0.0):
    return accounts.sign_in(name, password, address=address, now=now)


def refused(accounts, *arguments, **options):
    with pytest.raises(SignInRefused) as found:
        sign_in(accounts, *arguments, **options)
    return str(found.value)


def test_who_signed_in_is_known_with_roles_and_account(accounts):
    actor = accounts.actor(sign_in(accounts).token, now=1.0)
    assert actor == Actor("r.west", frozenset({Role.RESEARCHER}), account="wallet:west")


def test_a_steward_is_known_with_her_site(accounts):
    accounts.add("s.north", PASSWORD, roles={Role.STEWARD}, actor=OPERATOR, site="north")
    assert accounts.actor(sign_in(accounts, "s.north").token, now=0.0).site == "north"


def test_every_refusal_has_the_same_words(accounts):
    accounts.add("gone", PASSWORD, roles={Role.AUDITOR}, actor=OPERATOR)
    accounts.disable("gone", actor=OPERATOR)
    words = {
        refused(accounts, password="another long password"),
        refused(accounts, "nobody"),
        refused(accounts, "gone"),
        refused(accounts, "../etc"),
        refused(accounts, "x' OR 1=1 --"),
        refused(accounts, "r.west\0"),
    }
    assert len(words) == 1


def test_every_refusal_takes_the_same_work(accounts, monkeypatch):
    worked = []
    verify = module.verify_password

    def counted(password, kept):
        worked.append(kept.split("$")[3])
        verify(password, kept)

    monkeypatch.setattr(module, "verify_password", counted)
    refused(accounts, password="another long password")
    refused(accounts, "nobody")
    refused(accounts, "no such name at all")
    assert worked == ["m=8,t=1,p=1"] * 3


def test_a_session_ends_at_its_hour_and_when_it_lies_idle(accounts):
    token = sign_in(accounts).token
    accounts.actor(token, now=IDLE_SECONDS - 1)
    accounts.actor(token, now=2 * IDLE_SECONDS - 2)  # it was used in between
    with pytest.raises(SessionEnded):
        accounts.actor(token, now=3 * IDLE_SECONDS)
    token = sign_in(accounts, now=0.0).token
    for minute in range(0, int(SESSION_SECONDS), 1800):
        accounts.actor(token, now=float(minute))
    with pytest.raises(SessionEnded):
        accounts.actor(token, now=SESSION_SECONDS)


def test_a_session_ends_when_it_is_left(accounts):
    one, two = sign_in(accounts).token, sign_in(accounts).token
    accounts.sign_out(one)
    accounts.sign_out("never was")
    with pytest.raises(SessionEnded):
        accounts.actor(one, now=0.0)
    accounts.actor(two, now=0.0)


@pytest.mark.parametrize("how", ["change", "reset", "disable"])
def test_all_sessions_end_when_the_password_changes_or_the_account_is_disabled(accounts, how):
    token = sign_in(accounts).token
    if how == "change":
        accounts.change_password(
            "r.west", PASSWORD, "five quite long plain words", address=ADDRESS, now=0.0
        )
    elif how == "reset":
        accounts.reset_password("r.west", "five quite long plain words", actor=OPERATOR)
    else:
        accounts.disable("r.west", actor=OPERATOR)
    with pytest.raises(SessionEnded):
        accounts.actor(token, now=0.0)
    refused(accounts)


def test_a_password_that_changes_while_it_is_looked_at_signs_nobody_in(accounts, monkeypatch):
    forgive = module.forgive

    def changing(*arguments):
        forgive(*arguments)
        accounts.reset_password("r.west", "five quite long plain words", actor=OPERATOR)

    monkeypatch.setattr(module, "forgive", changing)
    refused(accounts)


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "\udcff", "' OR 1=1 --"])
def test_a_token_that_nobody_was_given_is_nobodys(accounts, token):
    with pytest.raises(SessionEnded):
        accounts.actor(token, now=0.0)


def test_the_database_holds_no_password_and_no_token(accounts, tmp_path):
    token = sign_in(accounts).token
    refused(accounts, name="typed-my-password-here", password="another long password")
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in (token, PASSWORD, "another long password", "typed-my-password-here", ADDRESS):
        assert secret.encode() not in content
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_guesses_become_ever_slower_and_the_right_password_waits_too(accounts):
    for _ in range(5):
        refused(accounts, password="another long password")
    with pytest.raises(SignInThrottled) as found:
        sign_in(accounts)
    assert found.value.seconds == 2
    refused(accounts, password="another long password", now=1.0)
    with pytest.raises(SignInThrottled):
        sign_in(accounts, now=2.5)
    sign_in(accounts, now=3.0)
    sign_in(accounts, now=3.0)  # success forgets the failures


def test_a_year_of_guessing_is_not_enough():
    tries, passed = 0, 0.0
    while passed < 365 * 86_400:
        passed += wait_after(tries, free=5)
        tries += 1
    assert tries < 36_000  # of one name, over which no password of 15 characters is found


def test_names_that_nobody_has_are_throttled_alike(accounts):
    for _ in range(5):
        refused(accounts, "nobody")
    with pytest.raises(SignInThrottled):
        sign_in(accounts, "nobody")


def test_an_address_that_tries_many_names_is_throttled(accounts):
    for number in range(20):
        refused(accounts, f"name-{number}")
    with pytest.raises(SignInThrottled):
        sign_in(accounts)
    sign_in(accounts, address="198.51.100.1")


def test_all_of_a_network_of_ipv6_is_one_address(accounts):
    for number in range(20):
        refused(accounts, f"name-{number}", address=f"2001:db8::{number:x}")
    with pytest.raises(SignInThrottled):
        sign_in(accounts, address="2001:db8::ffff")
    sign_in(accounts, address="2001:db8:0:1::1")


def test_a_day_without_a_failure_forgets_them(accounts):
    for second in range(5):
        refused(accounts, password="another long password", now=float(second))
    sign_in(accounts, now=2 * 86_400.0)


def test_many_at_once_get_no_further_than_many_in_a_row(accounts):
    tried = []

    def guess():
        try:
            sign_in(accounts, password="another long password")
        except SignInRefused:
            tried.append("looked at")
        except SignInThrottled:
            tried.append("throttled")

    guessers = [threading.Thread(target=guess) for _ in range(16)]
    for one in guessers:
        one.start()
    for one in guessers:
        one.join()
    assert tried.count("looked at") == 5


@pytest.mark.parametrize(
    ("name", "roles", "site"),
    [
        ("r.west", {Role.RESEARCHER}, None),  # taken
        ("Upper", {Role.RESEARCHER}, None),
        ("", {Role.RESEARCHER}, None),
        ("a b", {Role.RESEARCHER}, None),
        ("x" * 65, {Role.RESEARCHER}, None),
        ("new", set(), None),
        ("new", {Role.SITE}, "north"),
        ("new", {Role.SERVER}, None),
        ("new", {Role.STEWARD}, None),
    ],
)
def test_an_account_that_cannot_be_is_not_made(accounts, name, roles, site):
    with pytest.raises(AccountUnfit):
        accounts.add(name, PASSWORD, roles=roles, actor=OPERATOR, site=site)


def test_a_password_that_would_be_guessed_is_not_taken(accounts):
    with pytest.raises(PasswordUnfit):
        accounts.add("new", "short", roles={Role.AUDITOR}, actor=OPERATOR)
    with pytest.raises(PasswordUnfit):
        accounts.change_password("r.west", PASSWORD, "short", address=ADDRESS, now=0.0)
    sign_in(accounts)


def test_nobody_but_the_operator_makes_resets_or_disables_accounts(accounts, log):
    steward = Actor("s.north", frozenset({Role.STEWARD}), site="north")
    for attempt in (
        lambda: accounts.add("new", PASSWORD, roles={Role.AUDITOR}, actor=steward),
        lambda: accounts.reset_password("r.west", PASSWORD, actor=steward),
        lambda: accounts.disable("r.west", actor=steward),
    ):
        with pytest.raises(PermissionMissing):
            attempt()
    assert [kind for kind, _ in log][-3:] == ["permission-denied"] * 3
    sign_in(accounts)


def test_what_the_operator_did_is_on_record_without_a_password_or_a_patient(accounts, log):
    accounts.add("p-17", PASSWORD, roles={Role.PATIENT}, actor=OPERATOR)
    accounts.disable("r.west", actor=OPERATOR)
    assert [kind for kind, _ in log] == ["account-made", "account-made", "account-disabled"]
    assert "p-17" not in repr(log)
    assert PASSWORD not in repr(log)


def test_a_cheap_hash_is_made_dear_when_its_owner_comes_by(accounts, tmp_path):
    dearer = Accounts(
        tmp_path / "accounts.db",
        audit=lambda *_: None,
        cost=Cost(iterations=2, lanes=1, memory_kib=16),
    )
    sign_in(dearer)
    assert dearer._row("r.west").password.startswith("$argon2id$v=19$m=16,t=2,p=1$")
    sign_in(dearer)
    dearer.close()


@pytest.mark.slow
def test_a_name_that_nobody_has_takes_as_long_as_one_that_somebody_has(tmp_path):
    accounts = Accounts(tmp_path / "a.db", audit=lambda *_: None)
    accounts.add("r.west", PASSWORD, roles={Role.RESEARCHER}, actor=OPERATOR)
    took = {"r.west": [], "nobody": []}
    for number in range(7):
        for name, times in took.items():
            start = time.process_time()
            refused(accounts, name, "wrong password here", now=1e3 * number)
            times.append(time.process_time() - start)
    known, unknown = (statistics.median(times) for times in took.values())
    assert 0.5 < known / unknown < 2
    accounts.close()


# Accounts that a site makes itself

BOTH = Actor("user", frozenset({Role.OFFICER, Role.STEWARD}), site="north")
OFFICER = Actor("officer", frozenset({Role.OFFICER}), site="north")


@pytest.fixture
def of_site(accounts):
    """Accounts of the operator's and of two sites."""
    for site in ("north", "south"):
        accounts.add(f"o.{site}", PASSWORD, roles={Role.OFFICER}, actor=OPERATOR, site=site)
        accounts.add(f"s.{site}", PASSWORD, roles={Role.STEWARD}, actor=OPERATOR, site=site)
    return accounts


def test_a_site_makes_changes_and_lists_its_own_accounts(of_site):
    of_site.add("new", PASSWORD, roles={Role.OFFICER, Role.STEWARD}, actor=BOTH, site="north")
    of_site.reset_password("s.north", "other long plain words", actor=BOTH)
    of_site.disable("o.north", actor=BOTH)
    shown = {one.name: one.disabled for one in of_site.people(BOTH, site="north")}
    assert shown == {"new": False, "o.north": True, "s.north": False}
    assert len(of_site.people(OPERATOR)) == 6


@pytest.mark.parametrize(
    "act",
    [
        lambda one: one.add("new", PASSWORD, roles={Role.OFFICER}, actor=OFFICER, site="south"),
        lambda one: one.add("new", PASSWORD, roles={Role.STEWARD}, actor=OFFICER, site="north"),
        lambda one: one.add("new", PASSWORD, roles={Role.OPERATOR}, actor=BOTH, site="north"),
        lambda one: one.add("new", PASSWORD, roles={Role.AUDITOR}, actor=BOTH),
        lambda one: one.reset_password("s.north", "other long words", actor=OFFICER),
        lambda one: one.reset_password("o.south", "other long words", actor=BOTH),
        lambda one: one.reset_password("r.west", "other long words", actor=BOTH),
        lambda one: one.disable("o.south", actor=BOTH),
        lambda one: one.people(BOTH, site="south"),
        lambda one: one.people(BOTH),
        lambda one: one.reset_password("nobody", "other long words", actor=Actor("x", frozenset())),
    ],
)
def test_a_site_gives_no_right_it_lacks_and_touches_nobody_elses_account(of_site, log, act):
    before = of_site.people(OPERATOR)
    with pytest.raises(PermissionMissing):
        act(of_site)
    assert log[-1][0] == "permission-denied"
    assert of_site.people(OPERATOR) == before
    assert sign_in(of_site, "o.south")


def test_every_refused_guess_is_recorded_and_never_what_was_typed(accounts, log):
    accounts.add("p.1", PASSWORD, roles={Role.PATIENT}, actor=OPERATOR)
    accounts.add("r.gone", PASSWORD, roles={Role.RESEARCHER}, actor=OPERATOR)
    accounts.disable("r.gone", actor=OPERATOR)
    log.clear()
    for name in ("r.west", "p.1", "r.gone", "a secret in the wrong field"):
        refused(accounts, name, "another few plain words" if name != "r.gone" else PASSWORD)
    assert log == [
        ("sign-in-refused", {"account": whose, "address": ADDRESS})
        for whose in ("r.west", "a patient", "r.gone", "nobody")
    ]


def test_who_only_comes_too_early_fills_no_log(accounts, log):
    for _ in range(6):
        with pytest.raises((SignInRefused, SignInThrottled)):
            sign_in(accounts, password="another few plain words")
    assert [kind for kind, _ in log[1:]] == ["sign-in-refused"] * 5


def test_a_changed_password_is_recorded(accounts, log):
    new = "five other long plain words"
    accounts.change_password("r.west", PASSWORD, new, address=ADDRESS, now=0.0)
    assert log[-1] == ("password-changed", {"account": "r.west"})
