"""The SuperLink's nodes are made the same as the admitted sites, and one run at a time goes."""

import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fl_server.app import ServerFolderIncomplete
from fl_server.store import ServerStore
from identity.roles import Actor, PermissionMissing, Role
from portal.certificates import make_node_key
from portal.deployment import study
from portal.deployment.loopback import FlowerRun, Node, SuperLinkSilent, node_bytes
from portal.deployment.plan import DeploymentDiffers, NothingDeployed, Plan, free_port
from portal.deployment.roster import reconcile
from portal.deployment.study import (
    StudyNotStarted,
    StudyRunning,
    _end_runs,
    _Runs,
    start_study,
    started_file,
    stop_study,
)
from portal.deployment.table import units_of
from portal.deployment.up import Wanted, _same
from portal.own_log import own_log
from portal.study_rights import here
from protocol.ids import SiteId


@dataclass
class Fleet:
    """A SuperLink that remembers."""

    known: list[Node] = field(default_factory=list)
    going: list[FlowerRun] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)

    def nodes(self):
        return list(self.known)

    def register(self, public_key, name):
        self.known.append(Node(len(self.known) + 1, public_key, name))

    def unregister(self, node):
        self.known = [one for one in self.known if one.id != node]

    def runs(self):
        return list(self.going)

    def stop(self, run):
        self.stopped.append(run)


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path, (SiteId("north"),), free_port(), 9092, 8470, 8480)


def test_missing_nodes_are_registered_and_expelled_ones_put_out(tmp_path):
    nodes, fleet = tmp_path / "nodes", Fleet()
    keys = {name: make_node_key(nodes, name) for name in ("north", "south")}
    assert reconcile(nodes, fleet) == (["north", "south"], [])
    assert reconcile(nodes, fleet) == ([], [])
    keys["north"].public.unlink()
    assert reconcile(nodes, fleet) == ([], [1])
    assert [one.public_key for one in fleet.known] == [
        node_bytes(keys["south"].public.read_bytes())
    ]


def test_a_node_that_nobody_admitted_is_put_out(tmp_path):
    fleet = Fleet([Node(7, b"stranger", "online")])
    assert reconcile(tmp_path, fleet) == ([], [7])


@pytest.fixture
def runs(plan, monkeypatch):
    fleet, started, clock, standing = Fleet(), [], [100.0], ["free"]

    @contextmanager
    def opened(*_):
        yield fleet

    monkeypatch.setattr(study, "control", opened)
    monkeypatch.setattr(study, "start_run", lambda *_: started.append(clock[0]))
    fleet.standing = standing
    return _Runs(plan, lambda: standing[0], clock=lambda: clock[0]), fleet, started, clock


def test_a_run_is_started_where_none_goes_and_left_alone_where_one_does(runs):
    looking, fleet, started, clock = runs
    looking.look()
    assert started == [100.0]
    fleet.going = [FlowerRun(1, "running", "")]
    clock[0] += 10
    looking.look()
    assert started == [100.0]


def test_of_several_runs_one_is_left(runs):
    looking, fleet, started, _ = runs
    fleet.going = [FlowerRun(number, "running", "") for number in (1, 2, 3)]
    looking.look()
    assert (fleet.stopped, started) == ([2, 3], [])


def test_a_run_that_ends_early_is_followed_later_each_time(runs):
    looking, fleet, started, clock = runs
    fleet.going = [FlowerRun(1, "finished", "failed")]
    for _ in range(2000):
        looking.look()
        clock[0] += 0.1
    pauses = [after - before for before, after in itertools.pairwise(started)]
    assert len(pauses) > 3
    assert all(b >= a - 0.11 for a, b in itertools.pairwise(pauses))


def test_a_run_whose_engine_has_died_is_ended_and_followed_by_another(runs):
    looking, fleet, started, clock = runs
    fleet.standing[0] = "ended"  # by an engine of before
    looking.look()
    fleet.going = [FlowerRun(1, "running", "")]
    clock[0] += 10
    looking.look()
    assert (fleet.stopped, len(started)) == ([], 1)  # the new one has not taken the lease yet
    for standing in ("held", "ended"):
        fleet.standing[0] = standing
        clock[0] += 10
        looking.look()
    assert (fleet.stopped, len(started)) == ([1], 2)


def test_a_superlink_that_is_silent_is_asked_again(runs, monkeypatch):
    looking, _, started, clock = runs
    opened = study.control

    @contextmanager
    def silent(*_):
        raise SuperLinkSilent(9092, "ConnectError")
        yield

    monkeypatch.setattr(study, "control", silent)
    looking.look()
    monkeypatch.setattr(study, "control", opened)
    clock[0] += 5
    looking.look()
    assert len(started) == 1


def test_a_study_is_started_once_it_is_founded_and_once(plan):
    who = here(plan.home)
    with pytest.raises(ServerFolderIncomplete):
        start_study(plan, who)
    assert not started_file(plan).exists()
    ServerStore(plan.server / "server.db")
    start_study(plan, who)
    with pytest.raises(StudyRunning):
        start_study(plan, who)


def test_a_stopped_study_keeps_its_file_away_until_it_is_started_again(plan):
    who = here(plan.home)
    ServerStore(plan.server / "server.db")
    with pytest.raises(StudyNotStarted):
        stop_study(plan, who)
    start_study(plan, who)
    stop_study(plan, who)
    assert not started_file(plan).exists()
    start_study(plan, who)
    assert started_file(plan).exists()
    kinds = [one.kind for one in own_log(plan.authority).events()]
    assert kinds == ["study-started", "study-stopped", "study-started"]


def test_nobody_starts_or_stops_a_study_without_the_right_to(plan):
    ServerStore(plan.server / "server.db")
    operator = Actor("ops", frozenset({Role.OPERATOR}))
    other = Actor("lab", frozenset({Role.RESEARCHER}), account="wallet:other")
    for actor in (operator, other):
        with pytest.raises(PermissionMissing):
            start_study(plan, actor)
    start_study(plan, here(plan.home))
    officer = Actor("officer", frozenset({Role.OFFICER}), site="north")
    for actor in (other, officer):
        with pytest.raises(PermissionMissing):
            stop_study(plan, actor)
    assert started_file(plan).exists()
    denied = [one for one in own_log(plan.authority).events() if one.kind == "permission-denied"]
    assert [one.facts["actor"] for one in denied] == ["ops", "lab", "lab", "officer"]
    stop_study(plan, operator)


def test_a_stopped_study_has_no_run_and_goes_on_at_once_when_it_is_started_again(runs):
    looking, fleet, started, clock = runs
    looking.look()
    fleet.going = [FlowerRun(1, "running", "")]
    clock[0] += 10
    looking.look(wanted=False)
    assert (fleet.stopped, len(started)) == ([1], 1)
    fleet.going = [FlowerRun(1, "finished", "stopped")]
    for _ in range(3):
        clock[0] += 10
        looking.look(wanted=False)
    assert len(started) == 1
    clock[0] += 10
    looking.look()
    assert len(started) == 2


def test_a_run_that_goes_on_after_a_stop_is_ended_by_whoever_sees_the_study_through(
    plan, runs, monkeypatch
):
    _, fleet, _, _ = runs
    fleet.going = [FlowerRun(1, "running", ""), FlowerRun(2, "finished", "failed")]
    assert _end_runs(plan)
    assert fleet.stopped == [1]

    @contextmanager
    def silent(*_):
        raise SuperLinkSilent(9092, "ConnectError")
        yield

    monkeypatch.setattr(study, "control", silent)
    assert not _end_runs(plan)


def test_a_plan_is_read_back_as_it_was_written(plan):
    plan.save()
    assert Plan.load(plan.home) == plan
    with pytest.raises(NothingDeployed):
        Plan.load(plan.home / "elsewhere")


def test_each_site_has_a_page_for_its_officer(plan):
    paged = replace(plan, officer_ports=(8091,))
    paged.save()
    assert Plan.load(plan.home) == paged
    (unit,) = [one for one in units_of(paged) if one.name == "officer-north"]
    assert unit.command[-2:] == ("--port", "8091")
    assert unit.address == "http://127.0.0.1:8091"


def test_processes_that_work_in_another_folder_find_a_home_that_was_named_from_here(
    plan, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    named = Plan(Path("home"), plan.sites, plan.port, 9092, 8470, 8480)
    named.save()
    commands = [argument for unit in units_of(named) for argument in unit.command]
    assert str(tmp_path / "home") in commands
    assert "home" not in commands
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Plan.load(tmp_path / "home") == named


def test_a_home_that_was_moved_is_read_where_it_lies(plan, tmp_path):
    plan.save()
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert Plan.load(moved).home == moved


def test_a_deployment_that_is_up_keeps_its_port(plan):
    _same(plan, Wanted(None, plan.port))
    with pytest.raises(DeploymentDiffers) as refused:
        _same(plan, Wanted(None, plan.port + 1))
    assert refused.value.differing == ["port"]


def test_a_person_may_add_to_the_environment_of_one_process(plan, monkeypatch):
    monkeypatch.setattr("portal.deployment.table.nginx_program", lambda: "/usr/sbin/nginx")
    (plan.folder).mkdir()
    (plan.folder / "environment.json").write_text('{"agent-north": {"OMP_NUM_THREADS": "4"}}')
    units = {one.name: one for one in units_of(plan)}
    assert units["agent-north"].environment["OMP_NUM_THREADS"] == "4"
    assert units["node-north"].environment["OMP_NUM_THREADS"] == "1"


def test_no_key_is_on_a_command_line(plan, monkeypatch):
    monkeypatch.setattr("portal.deployment.table.nginx_program", lambda: "/usr/sbin/nginx")
    make = plan.identity(SiteId("north")).make()
    secret = plan.identity(SiteId("north")).tls_key.read_text().splitlines()[1]
    words = " ".join(" ".join(one.command) for one in units_of(plan))
    assert secret not in words
    assert make.node_public() not in words
