"""The doctor says of each thing how it stands and, where it is not well, what to do."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fl_client.link import AgentUnreachable
from fl_client.sandbox import CodeFailed, SandboxUnavailable, run_code
from identity.authority import Authority, Revocation
from portal.deployment import doctor, machine, trust
from portal.deployment.doctor import as_json, examine, passes
from portal.deployment.findings import fails, ok, warning
from portal.deployment.plan import Plan, is_free
from portal.features import pack_folder
from protocol.ids import SiteId

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def authority():
    return Authority.found("federation", now=NOW)


@pytest.fixture
def certificate(authority, tmp_path):
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    path = tmp_path / "tls.crt"
    issued = authority.issue_site(SiteId("north"), key, now=NOW)
    path.write_bytes(issued.public_bytes(Encoding.PEM))
    return path


def look(path, authority, days):
    authorities = [authority.certificate]
    return trust.certificate("one", path, authorities, now=NOW + timedelta(days=days))


def test_a_certificate_is_well_until_it_is_about_to_end(certificate, authority):
    assert look(certificate, authority, 1).state == "ok"
    assert look(certificate, authority, 70).state == "warning"
    assert look(certificate, authority, 91).state == "fails"
    assert look(certificate, authority, -1).advice == "set this clock"


def test_a_certificate_of_another_authority_fails(certificate):
    other = Authority.found("other", now=NOW)
    assert look(certificate, other, 1).found == "not signed by the consortium"


def test_a_certificate_that_is_not_there_fails(authority, tmp_path):
    assert look(tmp_path / "none", authority, 1).state == "fails"


def test_a_key_that_others_may_read_fails(tmp_path):
    key = tmp_path / "tls.key"
    assert trust.keys("keys", [key]).state == "fails"
    key.write_text("secret")
    key.chmod(0o600)
    assert trust.keys("keys", [key]).state == "ok"
    key.chmod(0o640)
    found = trust.keys("keys", [key])
    assert found.state == "fails"
    assert found.advice == f"chmod 0600 {key}"
    assert "secret" not in found.found


def test_a_list_of_revoked_certificates_must_not_be_past_its_day(authority, tmp_path):
    path = tmp_path / "crl.pem"
    assert trust.revocations(path, now=NOW).state == "fails"
    made = authority.revocation_list([Revocation(7, NOW)], number=1, now=NOW)
    path.write_bytes(made.public_bytes(Encoding.PEM) * 2)
    found = trust.revocations(path, now=NOW)
    assert (found.state, found.found[:9]) == ("ok", "2 revoked")
    assert trust.revocations(path, now=NOW + timedelta(days=350)).state == "warning"
    assert trust.revocations(path, now=NOW + timedelta(days=366)).state == "fails"


def test_a_front_door_that_does_not_answer_leaves_the_clock_unknown(certificate):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = trust.clock(taken.getsockname(), certificate, (certificate, certificate))
    assert found.state == "warning"


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "ok"), (-60, "warning"), (60, "warning"), (-7200, "fails")]
)
def test_a_clock_is_compared_with_the_front_doors(monkeypatch, certificate, seconds, state):
    ahead = timedelta(seconds=seconds)
    monkeypatch.setattr(trust, "_date_of", lambda *_: datetime.now(UTC) - ahead)
    assert trust.clock(("x", 1), certificate, (certificate, certificate)).state == state


def test_programs_of_this_machine_have_versions():
    found = {one.check: one for one in machine.versions()}
    assert found["python"].state == "ok"
    assert found["flwr"].state == "ok"


def test_flower_is_pinned_to_what_the_project_pins():
    text = (Path(__file__).parent.parent.parent.parent / "pyproject.toml").read_text()
    assert f'"flwr=={machine.FLOWER}"' in text


def test_a_program_that_is_missing_or_old_fails():
    assert machine._program("no-such-program", "-v", (1, 0), "apt install it").state == "fails"
    assert machine._program("openssl", "version", (99, 0), "apt install it").state == "fails"


def test_code_can_be_shut_in_exactly_where_the_sandbox_runs_some(tmp_path):
    (tmp_path / "other.py").write_text("def twice(given):\n    return given * 2\n")
    bundle = pack_folder(tmp_path)
    named = hashlib.sha256(bundle).hexdigest()
    found = machine.sandbox()
    try:
        assert run_code(bundle, "other:twice", b"ab", sha256=named) == b"abab"
    except SandboxUnavailable as error:
        assert (found.state, found.found) == ("warning", error.lacking)
    else:
        assert (found.check, found.state) == ("sandbox", "ok")


def test_a_machine_that_cannot_shut_code_in_says_what_it_lacks(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = machine.sandbox()
    assert (found.check, found.state) == ("sandbox", "warning")
    assert "there is no unshare or setpriv" in found.found


def test_a_machine_on_which_code_meets_a_limit_is_named(monkeypatch):
    def slow(*_given, **_asked):  # no machine can be made slow at will
        raise CodeFailed("met a limit")

    monkeypatch.setattr(machine, "run_code", slow)
    found = machine.sandbox()
    assert (found.state, "met a limit" in found.found) == ("warning", True)


def test_a_port_is_free_ours_or_a_strangers():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert os.getpid() in machine.who_listens(port)
        taken = machine.ports({"door": ("127.0.0.1", port)}, {}, up=False)[0]
        assert taken.state == "fails"
        assert f"process {os.getpid()}" in taken.found
        assert (
            machine.ports({"door": ("127.0.0.1", port)}, {os.getpid(): "front"}, up=True)[0].state
            == "ok"
        )
    assert machine.ports({"door": ("127.0.0.1", port)}, {}, up=False)[0].state == "ok"
    assert machine.ports({"door": ("127.0.0.1", port)}, {}, up=True)[0].state == "fails"


def test_a_disk_that_cannot_be_written_fails(tmp_path):
    assert {one.state for one in machine.disk(tmp_path)} <= {"ok", "warning"}
    assert list(tmp_path.iterdir()) == []
    assert machine._fsync(tmp_path / "nowhere").state == "fails"


def test_one_failure_is_enough_not_to_pass():
    assert passes([ok("a", "b"), warning("a", "b", "c")])
    assert not passes([ok("a", "b"), fails("a", "b", "c")])
    assert json.loads(as_json([fails("a", "b", "c")]))["passes"] is False


def test_without_a_deployment_the_machine_alone_is_looked_at(tmp_path):
    found = {one.check: one for one in examine(tmp_path / "none")}
    assert found["deployment"].advice == "make one with `bithive up`"
    assert not (tmp_path / "none").exists()


def test_a_deployment_that_is_down_and_incomplete_is_told_so(tmp_path):
    Plan(tmp_path, (SiteId("north"),), 1, 2, 3, 4).save()
    found = {one.check: one for one in examine(tmp_path)}
    assert found["processes"].state == "warning"
    assert found["configuration"].state == "fails"
    assert found["certificate of north"].state == "fails"


def test_a_superlinks_secret_that_others_may_read_fails(tmp_path):
    from portal.deployment.control_lock import make_secret, secret_path

    def look_at_secret():
        (found,) = [one for one in examine(tmp_path, now=NOW) if one.check == "SuperLink's secret"]
        return found

    plan = Plan(tmp_path, (), 1, 2, 3, 4)
    plan.save()
    assert look_at_secret().state == "warning"  # there is none before the first start
    make_secret(plan.flower)
    assert look_at_secret().state == "ok"
    secret_path(plan.flower).chmod(0o644)
    assert look_at_secret().advice == f"chmod 0600 {secret_path(plan.flower)}"


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(None, "ok"), (4.9, "ok"), (-60.0, "warning"), (3590.0, "warning"), (-3601.0, "fails")],
)
def test_a_sites_clock_is_compared_with_the_servers(ahead, state):
    found = trust.site_clock("north", ahead)
    assert (found.check, found.state) == ("clock of north", state)
    assert bool(found.advice) == (state != "ok")
    if found.advice:
        assert "at north" in found.advice


def test_each_site_that_takes_part_is_asked_for_its_clock(tmp_path, monkeypatch):
    plan = Plan(tmp_path, (SiteId("north"), SiteId("south"), SiteId("west")), 1, 2, 3, 4)
    (plan.authority / "nodes").mkdir()
    for site in ("north", "south"):
        (plan.authority / "nodes" / f"{site}.pub").touch()

    def ask(folder, kind):
        if folder.name == "south":
            raise AgentUnreachable("south", "it has not run here")
        return {"clock_ahead_seconds": 7200.0}

    monkeypatch.setattr(doctor, "ask_agent_of", ask)
    plan.save()
    up = {"supervisor": 1, "home": str(tmp_path), "units": []}
    monkeypatch.setattr(doctor, "status_of", lambda _home: up)
    found = {one.check: one for one in examine(tmp_path)}
    assert found["clock of north"].state == "fails"
    assert found["clock of north"].found.startswith("+7200 s")
    assert found["clock of south"].state == "warning"
    assert "clock of west" not in found


@pytest.mark.slow
def test_the_command_exits_1_where_something_does_not_work(tmp_path):
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment" / "deployment.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "portal", "doctor", "--home", str(tmp_path), "--json"],
        cwd=Path(__file__).parent.parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["passes"] is False
