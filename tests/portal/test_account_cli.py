"""A hospital makes its own accounts by a command, without a password that others could read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from identity import accounts as module
from identity.passwords import Cost
from portal import account_cli
from portal.cli import app
from portal.officer.signin import ACCOUNTS
from portal.own_log import own_log

PASSWORD = "four long plain words"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Cost", lambda: Cost(iterations=1, lanes=1, memory_kib=8))
    monkeypatch.setattr("portal.local_actor.this_user", lambda: "ward7")
    (tmp_path / "sites/north/identity").mkdir(parents=True)
    return tmp_path


def account(home, *words, typed=None):
    words = ("site", "account", *words, "--home", str(home), "--json")
    return CliRunner().invoke(app, words, input=typed)


def code_of(done):
    """Return the code that the command was refused with."""
    assert done.exit_code == 1
    return done.exception.code


def add(home, user, *roles, typed=f"{PASSWORD}\n"):
    named = [word for role in roles for word in ("--role", role)]
    return account(home, "add", "north", user, *named, "--password-stdin", typed=typed)


def listed(home):
    return json.loads(account(home, "list", "north").stdout)["accounts"]


def test_accounts_are_made_listed_reset_and_removed(home):
    assert add(home, "h.meier", "officer").exit_code == 0
    assert add(home, "s.lund", "steward", "officer").exit_code == 0
    again = account(
        home, "reset", "north", "s.lund", "--password-stdin", typed="other long words!\n"
    )
    assert again.exit_code == 0
    assert account(home, "remove", "north", "h.meier").exit_code == 0
    assert listed(home) == [
        {"account": "h.meier", "roles": ["officer"], "removed": True},
        {"account": "s.lund", "roles": ["officer", "steward"], "removed": False},
    ]
    kinds = [one.kind for one in own_log(home / "sites/north").events()]
    assert kinds == ["account-made", "account-made", "password-reset", "account-disabled"]


def test_no_password_is_kept_logged_or_printed(home):
    done = add(home, "h.meier", "officer")
    stored = b"".join(path.read_bytes() for path in Path(home).rglob("*") if path.is_file())
    assert PASSWORD.encode() not in stored
    assert PASSWORD not in done.output


def test_a_password_that_would_be_guessed_is_refused(home):
    assert code_of(add(home, "h.meier", "officer", typed="short\n")) == "password-unfit"
    assert listed(home) == []


def test_a_password_is_typed_twice_the_same(home, monkeypatch):
    typed = iter([PASSWORD, "four long plain wordz"])
    monkeypatch.setattr(account_cli.getpass, "getpass", lambda _: next(typed))
    monkeypatch.setattr(account_cli, "_at_terminal", lambda: True)
    done = account(home, "add", "north", "h.meier", "--role", "officer")
    assert done.exit_code == 2
    typed = iter([PASSWORD, PASSWORD])
    assert account(home, "add", "north", "h.meier", "--role", "officer").exit_code == 0


def test_without_a_terminal_a_pipe_must_be_named(home):
    done = account(home, "add", "north", "h.meier", "--role", "officer", typed=f"{PASSWORD}\n")
    assert done.exit_code == 2
    assert not (home / "sites/north" / ACCOUNTS).is_file() or listed(home) == []


@pytest.mark.parametrize("role", ["operator", "auditor", "king"])
def test_a_site_gives_no_role_but_its_own(home, role):
    assert add(home, "x", role).exit_code == 2


def test_where_roles_are_divided_an_officer_makes_no_steward(home):
    people = home / "sites/north/identity/people.json"
    people.write_text('{"ward7": ["officer"], "it": ["steward"]}')
    assert add(home, "h.meier", "officer").exit_code == 0
    assert code_of(add(home, "s.lund", "steward")) == "permission-missing"
    people.write_text('{"it": ["steward"]}')
    assert code_of(account(home, "list", "north")) == "permission-missing"


def test_a_site_that_is_not_there_has_no_accounts(home):
    assert code_of(account(home, "list", "south")) == "site-folder-missing"
