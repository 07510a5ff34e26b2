"""Who runs a hospital's command sees and orders what her roles there allow, and nothing else."""

import json

import pytest
from typer.testing import CliRunner

from fl_client.link import AgentUnreachable
from identity.roles import PermissionMissing
from portal.cli import app
from portal.local_actor import this_user
from portal.own_log import own_log

WATCHED = ("status", "metrics")


@pytest.fixture
def home(tmp_path):
    (tmp_path / "sites/north/identity").mkdir(parents=True)
    return tmp_path


def run(home, *words):
    return CliRunner().invoke(app, ["site", *words, "north", "--home", str(home)])


@pytest.mark.parametrize("word", [*WATCHED, "jobs", "decisions"])
def test_who_has_no_role_at_the_site_watches_nothing_and_is_recorded(home, word):
    people = {this_user(): [], "other": ["officer"]}
    (home / "sites/north/identity/people.json").write_text(json.dumps(people))
    assert isinstance(run(home, word).exception, PermissionMissing)
    log = own_log(home / "sites/north")
    assert [(one.kind, one.facts["actor"]) for one in log.events()] == [
        ("permission-denied", this_user())
    ]
    log.close()


@pytest.mark.parametrize("word", WATCHED)
def test_where_no_agent_runs_the_command_says_so(home, word):
    assert isinstance(run(home, word).exception, AgentUnreachable)
