"""Only a site's own steward changes its privacy ledger, and the site's log says who did."""

import json

import pytest
from typer.testing import CliRunner

from identity.roles import Actor, PermissionMissing, Role
from portal.cli import app
from portal.local_actor import PeopleUnreadable, at_site, this_user
from portal.own_log import own_log
from portal.stewarding import LedgerDesk, read_ledger
from privacy.budget import PrivacyBudget

STEWARD = Actor("s.north", frozenset({Role.STEWARD}), site="north")


@pytest.fixture
def home(tmp_path):
    PrivacyBudget(
        tmp_path / "sites/north/budget.db", dataset="scans", epsilon_limit=8.0, delta=1e-5
    )
    return tmp_path


def desk(home, actor, told):
    ledger = home / "sites/north/budget.db"
    return LedgerDesk("north", ledger, "scans", actor, lambda *event: told.append(event))


def limit(home):
    opened = PrivacyBudget(
        home / "sites/north/budget.db", dataset="scans", epsilon_limit=8.0, delta=1e-5
    )
    return opened.limit()


def test_a_steward_lowers_and_raises_the_cap_and_it_is_on_record(home):
    told = []
    desk(home, STEWARD, told).set_cap(4.0)
    desk(home, STEWARD, told).set_cap(6.0, confirm_raise=True)
    assert limit(home) == 6.0
    assert [(kind, facts["epsilon"], facts["actor"]) for kind, facts in told] == [
        ("cap-set", "4.0", "s.north"),
        ("cap-set", "6.0", "s.north"),
    ]


@pytest.mark.parametrize(
    "actor",
    [
        Actor("s.south", frozenset({Role.STEWARD}), site="south"),
        Actor("o.north", frozenset({Role.OFFICER}), site="north"),
        Actor("operator", frozenset({Role.OPERATOR})),
        Actor("r.west", frozenset({Role.RESEARCHER}), site="north"),
        Actor("nobody", frozenset(), site="north"),
    ],
    ids=lambda actor: actor.name,
)
def test_nobody_else_changes_anything_and_each_attempt_is_on_record(home, actor):
    told = []
    held = desk(home, actor, told)
    for attempt in (
        lambda: held.set_cap(100.0, confirm_raise=True),
        lambda: held.set_cap(1.0),
        lambda: held.fix_cohort("few", ["4711"]),
        held.accept_clock,
    ):
        with pytest.raises(PermissionMissing):
            attempt()
    assert limit(home) == 8.0
    assert [kind for kind, _ in told] == ["permission-denied"] * 4
    assert "4711" not in repr(told)


def test_a_cohort_is_on_record_without_its_patients(home):
    told = []
    desk(home, STEWARD, told).fix_cohort("few", ["4711"])
    assert told == [
        ("cohort-fixed", {"site": "north", "dataset": "scans", "actor": "s.north", "cohort": "few"})
    ]


def command(home, *arguments):
    return CliRunner().invoke(app, ["site", *arguments, "--home", str(home)])


def test_the_command_acts_for_who_runs_it_and_writes_into_the_sites_own_log(home):
    assert command(home, "budget", "north", "--cap", "5").exit_code == 0
    log = own_log(home / "sites/north")
    [event] = log.events()
    assert (event.kind, event.facts["actor"]) == ("cap-set", this_user())
    log.verify()
    log.close()


def test_where_a_site_lists_its_people_nobody_else_sets_a_cap(home):
    people = home / "sites/north/identity/people.json"
    people.parent.mkdir()
    people.write_text(json.dumps({this_user(): ["officer"], "other": ["steward"]}))
    found = command(home, "budget", "north", "--cap", "5")
    assert isinstance(found.exception, PermissionMissing)
    assert limit(home) == 8.0
    people.write_text(json.dumps({this_user(): ["steward"]}))
    assert command(home, "budget", "north", "--cap", "5").exit_code == 0


def test_a_sites_list_gives_nobody_a_role_beyond_the_site(tmp_path):
    people = tmp_path / "identity/people.json"
    people.parent.mkdir()
    people.write_text(json.dumps({"it": ["operator", "officer"]}))
    assert at_site(tmp_path, "north", "it").roles == {Role.OFFICER}
    assert at_site(tmp_path, "north", "stranger").roles == frozenset()


@pytest.mark.parametrize("text", ["", "[]", '{"it": "officer"}', '{"it": ["king"]}'])
def test_a_list_that_says_nothing_is_refused(tmp_path, text):
    people = tmp_path / "identity/people.json"
    people.parent.mkdir()
    people.write_text(text)
    with pytest.raises(PeopleUnreadable):
        at_site(tmp_path, "north", "it")


def test_steward_and_officer_read_the_ledger_and_nobody_else_does(home):
    told, ledger = [], home / "sites/north/budget.db"
    for actor in (STEWARD, Actor("o.north", frozenset({Role.OFFICER}), site="north")):
        (found,) = read_ledger("north", ledger, actor, lambda *event: told.append(event))
        assert found.dataset == "scans"
    assert told == []
    for actor in (
        Actor("o.south", frozenset({Role.OFFICER}), site="south"),
        Actor("operator", frozenset({Role.OPERATOR})),
    ):
        with pytest.raises(PermissionMissing):
            read_ledger("north", ledger, actor, lambda *event: told.append(event))
    assert [kind for kind, _ in told] == ["permission-denied"] * 2


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_nobody_is_another_user_by_saying_so_in_the_environment(home, monkeypatch, variable):
    people = home / "sites/north/identity/people.json"
    people.parent.mkdir()
    people.write_text(json.dumps({this_user(): ["officer"], "other": ["steward"]}))
    monkeypatch.setenv(variable, "other")
    found = command(home, "budget", "north", "--cap", "5")
    assert isinstance(found.exception, PermissionMissing)
    log = own_log(home / "sites/north")
    [event] = log.events()
    assert (event.kind, event.facts["actor"]) == ("permission-denied", this_user())
    log.close()


def test_an_account_without_a_name_is_called_by_its_number(monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert this_user() == "uid-4000000"
