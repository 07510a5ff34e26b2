"""Nobody may do what the table does not give her, and every refusal is on record."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.roles import (
    MATRIX,
    About,
    Actor,
    Permission,
    PermissionMissing,
    Reach,
    Role,
    check,
    holders,
    table,
)

PAGE = Path(__file__).resolve().parents[2] / "docs/access.md"
sites = st.sampled_from([None, "north", "south"])
accounts = st.sampled_from([None, "wallet:a", "wallet:b"])
actors = st.builds(
    Actor, st.just("somebody"), st.frozensets(st.sampled_from(Role)), site=sites, account=accounts
)
abouts = st.builds(About, site=sites, account=accounts)


def covers(actor, permission, about):
    """Say the same as the code, slowly and by the words of the table."""
    for role in actor.roles:
        reach = MATRIX[role].get(permission)
        if reach is Reach.EVERYWHERE:
            return True
        if reach is Reach.OWN_SITE and about.site is not None and about.site == actor.site:
            return True
        own = about.account is not None and about.account == actor.account
        if reach is Reach.OWN_ACCOUNT and own:
            return True
    return False


@given(actors, st.sampled_from(Permission), abouts)
def test_an_actor_may_do_exactly_what_the_table_gives_within_its_reach(actor, permission, about):
    told = []
    if covers(actor, permission, about):
        check(actor, permission, about=about, audit=lambda *event: told.append(event))
        assert told == []
        return
    with pytest.raises(PermissionMissing):
        check(actor, permission, about=about, audit=lambda *event: told.append(event))
    [(kind, facts)] = told
    assert (kind, facts["permission"]) == ("permission-denied", str(permission))


@given(st.sampled_from(Role), st.sampled_from(Permission))
def test_no_permission_lies_outside_the_table(role, permission):
    reach = holders(permission).get(role)
    actor = Actor("somebody", frozenset({role}), site="north", account="wallet:a")
    if reach is None:
        for about in (
            About(),
            About("north"),
            About(account="wallet:a"),
            About("north", "wallet:a"),
        ):
            with pytest.raises(PermissionMissing):
                check(actor, permission, about=about, audit=lambda *_: None)


@given(st.sampled_from(Permission), sites)
def test_who_has_no_role_may_do_nothing(permission, site):
    with pytest.raises(PermissionMissing):
        check(Actor("x", frozenset(), site=site), permission, about=About(site), audit=lambda *_: 0)


def test_a_steward_of_north_may_do_nothing_at_south():
    steward = Actor("s", frozenset({Role.STEWARD}), site="north")
    for permission, reach in MATRIX[Role.STEWARD].items():
        if reach is Reach.OWN_SITE:
            check(steward, permission, about=About(site="north"), audit=lambda *_: None)
            for elsewhere in (About(site="south"), About()):
                with pytest.raises(PermissionMissing):
                    check(steward, permission, about=elsewhere, audit=lambda *_: None)


def test_every_permission_has_a_holder_and_every_role_a_permission():
    assert all(holders(permission) for permission in Permission)
    assert set(MATRIX) == set(Role)
    assert all(MATRIX.values())


def test_the_duties_that_must_be_apart_are_apart():
    # Who runs the servers must not be able to raise a cap, approve a job or grant for a patient.
    operator = set(MATRIX[Role.OPERATOR])
    assert operator.isdisjoint(
        {Permission.RAISE_CAP, Permission.SET_CAP, Permission.APPROVE_JOB, Permission.ALLOW_CODE}
    )
    assert operator.isdisjoint({Permission.PUBLISH_GRANT, Permission.PAUSE_SITE})
    # Who spends epsilon sets no cap, and who asks for a job approves none.
    assert set(MATRIX[Role.OFFICER]).isdisjoint({Permission.SET_CAP, Permission.RAISE_CAP})
    assert Permission.APPROVE_JOB not in MATRIX[Role.RESEARCHER]
    # Who audits changes nothing.
    reading = {"read", "witness"}
    assert {str(one).split()[0] for one in MATRIX[Role.AUDITOR]} <= reading


@pytest.mark.parametrize("about", [About(site="north"), About(account="wallet:p-17")])
def test_a_refused_patient_is_told_from_no_other(about):
    told = []
    patient = Actor("p-17", frozenset({Role.PATIENT}), account="wallet:p-17")
    with pytest.raises(PermissionMissing) as refused:
        check(patient, Permission.RAISE_CAP, about=about, audit=lambda *event: told.append(event))
    assert "p-17" not in str(refused.value) + repr(told)


def test_a_refusal_whose_record_cannot_be_kept_is_still_a_refusal():
    def full(*_):
        raise OSError

    with pytest.raises(OSError):
        check(Actor("x", frozenset()), Permission.EXPEL_SITE, audit=full)


def test_the_page_shows_this_very_table():
    assert table() in PAGE.read_text()


def test_every_permission_of_the_table_is_asked_for_somewhere():
    root = PAGE.parents[1]
    sources = [
        path.read_text()
        for package in ("identity", "fl_client", "fl_server", "marketplace", "portal")
        for path in (root / package).rglob("*.py")
        if path.name != "roles.py"
    ]
    asked = set(re.findall(r"\bPermission\.([A-Z_]+)\b", "\n".join(sources)))
    assert asked == {one.name for one in Permission}
