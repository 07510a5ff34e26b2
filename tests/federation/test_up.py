"""One command brings a federation up; rounds run through the front door; one takes it down.

The study brings code of its own, where this machine can shut code in.
"""

import json
import os
import signal
import time

import pytest
from cryptography import x509
from rich.console import Console

from fl_client.feature_store import FILE, FeatureStore
from fl_client.sandbox import SandboxUnavailable
from portal.deployment.plan import Plan, free_port
from portal.deployment.up import Wanted, bring_up
from portal.display import Display
from portal.features import FeaturesDiffer, made_up, named_step, pack_folder, try_step
from portal.home import Home, Settings
from protocol.ids import SiteId
from tests.federation.deployed import SMALL, Deployed

pytestmark = [pytest.mark.slow, pytest.mark.superlink]

ROUNDS = 2
HALVE = """
import io
import numpy as np

def halve(given):
    records = np.load(io.BytesIO(given))  # (records, 1, height, width)
    made = io.BytesIO()
    np.save(made, np.ascontiguousarray(records[:, :, ::2, ::2]))
    return made.getvalue()
"""
EXPECTED = {"superlink", "front", "roster", "study", "patient-page"}


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A step of a study's own, packed, as a command names it; nothing where none can be run."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "blocks.py").write_text(HALVE)
    bundle = folder / "blocks.zip"
    bundle.write_bytes(pack_folder(folder))
    try:
        try_step(bundle.read_bytes(), "blocks:halve", made_up((1, 64, 64), patients=1))
    except SandboxUnavailable:
        return ""
    return f"{bundle}:blocks:halve"


@pytest.fixture(scope="module")
def federation(tmp_path_factory, nginx_program, code):
    deployed = Deployed(tmp_path_factory.mktemp("up") / "home")
    port = free_port()
    options = ["--sites", 3, "--rounds", ROUNDS, *SMALL, "--port", port]
    options += ["--features", code] if code else []
    try:
        shown = json.loads(deployed.run("up", *options, "--json"))
        yield deployed, options, shown
    finally:
        if deployed.home.is_dir():
            deployed.run("down")
            assert deployed.processes() == []


@pytest.fixture(scope="module")
def approved(federation):
    """The study, started before anybody approved it, and approved once that was seen."""
    deployed, options, _ = federation
    with_nobody = deployed.progress()
    deployed.run("study", "start")
    asked_before(deployed)
    undecided = deployed.progress()
    before = {name: one["pid"] for name, one in deployed.units().items()}
    words = deployed.words("up", *options, "--approve")
    after = {name: one["pid"] for name, one in deployed.units().items()}
    return with_nobody, undecided, words, before, after


def asked_before(deployed):
    """Wait until every hospital's agent has kept the job it was offered."""
    from fl_client.jobs import JobBook

    plan = Plan.load(deployed.home)
    deadline = time.monotonic() + 600
    for site in plan.sites:
        while not JobBook(plan.site(site) / "site.db", site).jobs():
            assert time.monotonic() < deadline, deployed.logs()
            time.sleep(0.5)


def test_every_process_is_ready_when_the_command_returns(federation):
    deployed, _, shown = federation
    names = {one["name"] for one in shown["units"]}
    sites = Plan.load(deployed.home).sites
    assert len(sites) == 3
    assert names >= EXPECTED | {f"agent-{site}" for site in sites} | {
        f"node-{site}" for site in sites
    }
    assert shown["up"] is True
    assert {one["state"] for one in shown["units"]} <= {"ready", "done"}


def test_keys_are_the_sites_own_and_the_admission_is_what_the_operator_signed(federation):
    deployed, _, _ = federation
    plan = Plan.load(deployed.home)
    from identity.admission import installed
    from portal.site_settings import site_keys
    from privacy.keys import SiteKeys

    for site in plan.sites:
        folder = plan.identity(site)
        assert all(file.stat().st_mode & 0o077 == 0 for file in folder.key_files())
        assert installed(folder).site == site
        held = SiteKeys.load(folder.site_key)
        assert site_keys(plan.site(site)).signing_public == held.signing_public


def test_a_second_up_finds_nothing_to_start(approved):
    _, _, words, before, after = approved
    assert "everything is up already" in words
    assert before == after


def test_the_doctor_finds_nothing_that_fails(federation):
    deployed, _, _ = federation
    found = json.loads(deployed.run("doctor", "--json"))
    assert [one for one in found["findings"] if one["state"] == "fails"] == []
    clock = next(one for one in found["findings"] if one["check"] == "clock")
    assert clock["state"] == "ok"


def test_a_job_nobody_approved_runs_nowhere(approved):
    with_nobody, undecided, *_ = approved
    assert with_nobody["started"] is False
    assert undecided["started"] is True
    assert (undecided["rounds_closed"], undecided["receipts"]) == (0, 0)


def test_the_study_runs_to_its_end_through_the_front_door(federation, approved):
    deployed, _, _ = federation
    deployed.until(lambda found: found["rounds_settled"] == ROUNDS)
    assert deployed.progress()["receipts"] >= 3
    plan = Plan.load(deployed.home)
    lines = (plan.folder / "logs" / "access.log").read_text().splitlines()
    seen = [json.loads(line) for line in lines]
    for site in plan.sites:
        pushed = [
            one
            for one in seen
            if one["site"] == f"CN={site}" and one["path"] == "/v1/fleet/push-messages"
        ]
        assert pushed, site
        assert {one["verified"] for one in pushed} == {"SUCCESS"}
    assert {one["path"].rsplit("/", 1)[0] for one in seen if one["status"] == 200} == {"/v1/fleet"}
    deployed.until_ready("study")


def test_every_site_ran_the_studys_code_and_keeps_nothing_that_it_made(federation, approved, code):
    if not code:
        pytest.skip("this machine permits no unprivileged namespaces; no code was run")
    deployed, _, _ = federation
    deployed.until(lambda found: found["rounds_settled"] == ROUNDS)
    assert deployed.store().terms().training.input_shape == (1, 32, 32)
    deadline = time.monotonic() + 120
    for site in Plan.load(deployed.home).sites:
        log = (deployed.home / "deployment" / "logs" / f"agent-{site}.log").read_text()
        assert '"event":"features-made"' in log
        store = FeatureStore(deployed.home / "sites" / site / FILE)
        while store.counts() != (0, 0):
            assert time.monotonic() < deadline, deployed.logs()
            time.sleep(0.5)


def test_a_bundle_that_was_packed_anew_is_not_taken_for_the_one_approved(
    federation, approved, code
):
    if not code:
        pytest.skip("this machine permits no unprivileged namespaces; no code was run")
    home = Home(federation[0].home)
    wanted = Wanted(Settings(**home.settings()), Plan.load(home.path).port)
    bundle = named_step(code)[0]
    kept = bundle.read_bytes()
    bundle.write_bytes(kept[:-1])
    with pytest.raises(FeaturesDiffer):
        bring_up(home, wanted, Display(Console(), quiet=True), say=print)
    bundle.write_bytes(kept)
    assert not bring_up(home, wanted, Display(Console(), quiet=True), say=print)


def test_a_killed_process_comes_back(federation, approved):
    deployed, _, _ = federation
    site = Plan.load(deployed.home).sites[0]
    for name in (f"node-{site}", "front"):
        pid = deployed.kill(name, signal.SIGKILL)
        deployed.until_ready(name, not_pid=pid)
    assert json.loads(deployed.run("status", "--json"))["up"] is True


def test_an_expelled_site_is_shut_out_by_the_operators_decision_alone(federation, approved):
    from datetime import UTC, datetime

    from identity.consortium import Consortium
    from portal.deployment.loopback import control, node_bytes
    from portal.deployment.onboarding import OPERATOR
    from portal.deployment.trust import read_authorities

    deployed, _, _ = federation
    plan = Plan.load(deployed.home)
    site = SiteId(plan.sites[-1])
    key = node_bytes(plan.identity(site).node_public.read_bytes())
    assert status_of_call(plan, site) == 401  # it passes the door; this call is not signed
    consortium = Consortium(plan.authority, lambda *_, **__: None)
    consortium.expel(site, reason="for a test", actor=OPERATOR, now=datetime.now(UTC))
    deadline = time.monotonic() + 120
    while status_of_call(plan, site) != 400:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while True:
        with control(plan.flower, plan.superlink_port) as superlink:
            if key not in {one.public_key for one in superlink.nodes()}:
                break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status_of_call(plan, plan.sites[0]) == 401
    assert read_authorities(plan.authority / "ca.crt")


def status_of_call(plan, site):
    """Return what the front door answers to a call with a site's certificate."""
    import http.client
    import ssl

    folder = plan.identity(site)
    context = ssl.create_default_context(cafile=str(folder.authority))
    context.load_cert_chain(str(folder.tls_certificate), str(folder.tls_key))
    connection = http.client.HTTPSConnection("localhost", plan.port, timeout=30, context=context)
    try:
        headers = {"content-type": "application/protobuf"}
        connection.request("POST", "/v1/fleet/pull-messages", b"", headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_down_leaves_no_process_and_a_stale_number_is_named(federation, approved):
    deployed, _, _ = federation
    supervisor = json.loads(deployed.run("status", "--json"))["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while deployed.processes():
        assert time.monotonic() < deadline, deployed.processes()
        time.sleep(0.2)
    assert f"process {supervisor}" in deployed.words("down")
    assert "nothing was running" in deployed.words("down")
    assert json.loads(deployed.run("status", "--json", code=1))["up"] is False


def test_a_home_without_a_deployment_is_told_so(tmp_path):
    words = Deployed(tmp_path).words("down", code=1)
    assert "nothing-deployed" in words


def test_the_servers_certificate_names_the_server(federation):
    deployed, _, _ = federation
    plan = Plan.load(deployed.home)
    read = x509.load_pem_x509_certificate((plan.authority / "server.crt").read_bytes())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
