"""A server's folder, a market and a witness act for nobody who may not, and each keeps a record."""

import pytest

from identity.roles import Actor, Permission, PermissionMissing, Role
from portal.audit_client import witness_head
from portal.local_actor import PeopleUnreadable, at_server, at_witness
from portal.market import RESEARCHER, Market
from portal.own_log import own_log
from portal.study_rights import check_may
from tests.fl_client.job_world import NOW, OFFICER, World


def test_who_runs_commands_in_a_servers_folder_is_its_operator_and_researcher(tmp_path):
    actor = at_server(tmp_path, "root", RESEARCHER)
    for permission in (Permission.SUBMIT_STUDY, Permission.WATCH_RUN, Permission.STOP_RUN):
        check_may(tmp_path, actor, permission)


def test_a_server_may_divide_its_two_roles_among_users(tmp_path):
    (tmp_path / "people.json").write_text('{"ops": ["operator", "officer"], "lab": ["researcher"]}')
    ops, lab, other = (at_server(tmp_path, user, RESEARCHER) for user in ("ops", "lab", "x"))
    assert [sorted(one.roles) for one in (ops, lab, other)] == [["operator"], ["researcher"], []]
    check_may(tmp_path, lab, Permission.SUBMIT_STUDY)
    check_may(tmp_path, ops, Permission.STOP_RUN)
    for actor in (ops, other):
        with pytest.raises(PermissionMissing):
            check_may(tmp_path, actor, Permission.SUBMIT_STUDY)
    log = own_log(tmp_path / "operator/authority")
    assert [(one.kind, one.facts["actor"]) for one in log.events()] == [
        ("permission-denied", "ops"),
        ("permission-denied", "x"),
    ]


@pytest.mark.parametrize("who", [at_witness, lambda path, user: at_server(path, user, RESEARCHER)])
def test_a_list_of_people_that_says_nothing_opens_nothing(tmp_path, who):
    (tmp_path / "people.json").write_text('{"ops": "operator"}')
    with pytest.raises(PeopleUnreadable):
        who(tmp_path, "ops")


def test_a_round_is_settled_by_nobody_who_may_not(tmp_path):
    market = Market(tmp_path, World().terms(), lambda: NOW)
    for actor in (OFFICER, Actor("lab", frozenset({Role.RESEARCHER}), account=RESEARCHER)):
        with pytest.raises(PermissionMissing):
            market.settle(None, actor=actor)
    assert [one.kind for one in market.audit.events()] == ["permission-denied"] * 2


def test_a_head_is_cosigned_by_nobody_who_may_not(tmp_path):
    (tmp_path / "people.json").write_text('{"audit": ["auditor"]}')
    assert at_witness(tmp_path, "audit").roles == {Role.AUDITOR}
    told = []
    with pytest.raises(PermissionMissing):
        witness_head(
            None,
            None,
            None,
            actor=at_witness(tmp_path, "ward7"),
            audit=lambda kind, facts: told.append((kind, facts["permission"])),
        )
    assert told == [("permission-denied", "witness the audit log")]
