"""Only hospitals that approved the very job are called; the others are named as waiting."""

import hashlib
from dataclasses import replace

import pytest

from fl_server import sites as sites_module
from fl_server.offering import (
    CODE_FILE,
    JOB_FILE,
    OfferedCodeChanged,
    Offering,
    check_offering,
    read_offering,
)
from fl_server.sites import Sites, TooFewSites
from protocol.canonical import body, canonical, digest
from protocol.frames import decode, encode
from protocol.jobs import JobAnswer, JobManifest, instant
from tests.fl_client.job_world import NOW
from tests.fl_server.cohort import Cohort


class Answering:
    """A hospital that also says how the job stands."""

    def __init__(self, hospital, states):
        self.hospital = hospital
        self.states = states
        self.kinds = []
        self.change = lambda answer: answer

    def answer(self, frame):
        request = decode(frame)
        self.kinds.append(request.kind)
        if request.kind != "offer":
            return self.hospital.answer(frame)
        offer = request.body["offer"]
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        answer = JobAnswer(
            site=self.hospital.site, job=offer["job"], nonce=offer["nonce"], state=state
        )
        signed = self.change(answer.signed_by(self.hospital.keys.sign))
        return encode("job", body(signed))


@pytest.fixture
def cohort():
    return Cohort.meet(4)


@pytest.fixture
def offering(cohort):
    terms = cohort.terms
    job = JobManifest(
        study=terms.study,
        terms=digest(terms),
        model="none",
        algorithm="fedavg",
        datasets=("none",),
        purposes=("DUO:0000006",),
        rounds=terms.rounds,
        epsilon=1,
        delta=1e-6,
        unit="patient",
        price=0,
        researcher="researcher",
        researcher_key=bytes(32),
        expires="2027-01-01T00:00:00Z",
    )
    return Offering(job, terms, lambda _bytes: bytes(64), clock=lambda: NOW)


def asked(cohort, offering, states):
    """Return the roll call's sites, the hospitals, and the steps it will tell."""
    hospitals = {
        site: Answering(hospital, states.get(site, ["approved"]))
        for site, hospital in cohort.hospitals.items()
    }
    cohort.transport.hospitals = hospitals
    steps = []
    return Sites(cohort.terms, cohort.transport, steps.append, offering=offering), hospitals, steps


def test_sites_that_approved_are_called_and_asked_for_that_job(cohort, offering):
    found, hospitals, _ = asked(cohort, offering, {})
    assert set(found.roll_call(5.0)) == set(cohort.sites)
    assert all(one.kinds == ["offer", "join"] for one in hospitals.values())
    assert found.waiting == {}


@pytest.mark.parametrize("state", ["pending", "refused"])
def test_a_site_that_did_not_approve_is_not_called_and_is_named(cohort, offering, state):
    found, hospitals, steps = asked(cohort, offering, {cohort.sites[0]: [state]})
    assert set(found.roll_call(0.5)) == set(cohort.sites[1:])
    assert hospitals[cohort.sites[0]].kinds == ["offer"]
    assert found.waiting[cohort.sites[0]].state == state
    (waiting,) = [step for step in steps if step.stage == "wait"]
    assert waiting.site == cohort.sites[0]
    assert state in waiting.note


def test_a_refusal_is_not_waited_out(cohort, offering):
    found, _, _ = asked(cohort, offering, {cohort.sites[0]: ["refused"]})
    assert set(found.roll_call(3600.0)) == set(cohort.sites[1:])


def test_a_site_is_called_once_its_officer_approved(cohort, offering, monkeypatch):
    monkeypatch.setattr(sites_module, "AGAIN_SECONDS", 0.0)
    states = {cohort.sites[0]: ["pending", "pending", "approved"]}
    found, hospitals, _ = asked(cohort, offering, states)
    assert set(found.roll_call(60.0)) == set(cohort.sites)
    assert hospitals[cohort.sites[0]].kinds == ["offer"] * 3 + ["join"]
    assert found.waiting == {}


def test_too_few_approvals_end_the_roll_call_and_name_who_is_awaited(cohort, offering):
    found, _, _ = asked(cohort, offering, {site: ["pending"] for site in cohort.sites[:2]})
    with pytest.raises(TooFewSites, match="not approved at site-00: pending, site-01: pending"):
        found.roll_call(0.3)


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.model_copy(update={"signature": bytes(64)}),
        lambda answer: answer.model_copy(update={"nonce": "0" * 64}),
        lambda answer: answer.model_copy(update={"job": "0" * 64}),
        lambda answer: answer.model_copy(update={"site": "stranger"}),
        lambda answer: answer.model_copy(update={"site": "site-01"}),
    ],
)
def test_what_a_site_did_not_sign_of_this_offer_is_no_approval(cohort, offering, change):
    found, hospitals, _ = asked(cohort, offering, {})
    hospitals[cohort.sites[0]].change = change
    assert set(found.roll_call(0.5)) == set(cohort.sites[1:])


def test_the_server_offers_what_lies_in_its_folder(tmp_path, offering):
    assert read_offering(tmp_path, offering.terms, offering.sign) is None
    (tmp_path / "job.json").write_bytes(canonical(offering.job))
    found = read_offering(tmp_path, offering.terms, offering.sign)
    assert found.job == offering.job
    sent = decode(found.frame("0" * 64)).body
    assert sent["offer"]["job"] == offering.job.hash
    assert sent["manifest"] == body(offering.job)
    assert instant(NOW) <= sent["offer"]["at"]


@pytest.mark.parametrize("there", [b"packed anew", None])
def test_code_that_was_changed_beside_its_job_is_offered_to_nobody(offering, tmp_path, there):
    check_offering(tmp_path)
    code = hashlib.sha256(b"as founded").hexdigest()
    job = offering.job.model_copy(update={"code": code})
    (tmp_path / JOB_FILE).write_bytes(canonical(job))
    (tmp_path / CODE_FILE).write_bytes(b"as founded")
    check_offering(tmp_path)
    found = read_offering(tmp_path, offering.terms, offering.sign)
    assert found == replace(offering, job=job, bundle=b"as founded", clock=found.clock)
    (tmp_path / CODE_FILE).unlink()
    if there is not None:
        (tmp_path / CODE_FILE).write_bytes(there)
    for look in (
        lambda: check_offering(tmp_path),
        lambda: read_offering(tmp_path, offering.terms, offering.sign),
    ):
        with pytest.raises(OfferedCodeChanged, match=code):
            look()
