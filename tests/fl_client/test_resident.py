"""One door for all studies, shut to what no officer approved and to everything while paused."""

import math
import threading

import pytest

from privacy.signatures import check_signature
from protocol.canonical import digest, read
from protocol.errors import ConfigurationError
from protocol.frames import decode, encode
from protocol.jobs import SignOff
from tests.fl_client.feature_world import feature_job
from tests.fl_client.job_world import (
    NONCE,
    OFFICER,
    SITE,
    Clock,
    World,
    approve,
    code_of,
    frame_for,
    resident_at,
    told,
)

KINDS = (
    *("call", "train", "endorse", "unmask", "share", "open", "commit-key"),
    *("deal-key", "prepare"),
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def job(world):
    return world.job()


@pytest.fixture
def opened(tmp_path, world, clock):
    return resident_at(tmp_path, world, clock)


@pytest.fixture
def resident(opened):
    return opened[0]


@pytest.fixture
def made(opened):
    return opened[1]


def join(terms, manifest):
    return encode("join", {"terms": digest(terms), "nonce": NONCE, "job": manifest.hash})


def test_an_offer_is_kept_and_answered_with_how_it_stands(resident, world, job):
    terms, manifest = job
    offer = world.offer(manifest, terms)
    assert told(resident.answer(offer)).state == "pending"
    approve(resident, manifest)
    answer = told(resident.answer(offer))
    assert (answer.state, answer.job, answer.nonce) == ("approved", manifest.hash, NONCE)
    key = world.keys[SITE].signing_public
    check_signature(key, answer.signature, answer.signed_bytes(), what="answer", who=SITE)
    resident.book.refuse(manifest.hash, OFFICER, reason="no longer")
    answer = told(resident.answer(offer))
    assert (answer.state, answer.reason) == ("refused", "no longer")


def test_why_a_job_was_approved_stays_at_the_hospital(resident, world, job):
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    resident.book.approve(manifest.hash, OFFICER, reason="a secret", left=lambda _job: math.inf)
    assert told(resident.answer(world.offer(manifest, terms))).reason == ""


def test_an_expired_job_is_answered_as_refused(resident, world, job, clock):
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    clock.pass_(days=31)
    answer = told(resident.answer(world.offer(manifest, terms)))
    assert answer.state == "refused"
    assert manifest.expires in answer.reason
    assert code_of(resident.answer(frame_for("train", "lesions"))) == "job-not-approved"


def test_a_job_with_python_is_refused_where_nobody_allowed_it(resident, world):
    terms, manifest, bundle = feature_job(world)
    offer = world.offer(manifest, terms, bundle=bundle)
    answer = told(resident.answer(offer))
    assert (answer.state, answer.reason) == ("refused", "code-not-allowed")
    assert resident.code.read(manifest.code) == bundle
    resident.book.allow_code(OFFICER)
    assert told(resident.answer(offer)).state == "pending"
    approve(resident, manifest)
    resident.book.allow_code(OFFICER, allowed=False)
    assert code_of(resident.answer(frame_for("train", "lesions"))) == "code-not-allowed"


@pytest.mark.parametrize("kind", KINDS)
def test_no_agent_sees_a_frame_of_a_job_that_is_not_approved(resident, made, world, job, kind):
    terms, manifest = job
    frame = frame_for(kind, "lesions")
    assert code_of(resident.answer(frame)) == "job-not-approved"
    resident.answer(world.offer(manifest, terms))
    assert code_of(resident.answer(frame)) == "job-not-approved"
    assert code_of(resident.answer(join(terms, manifest))) == "job-not-approved"
    assert made == []
    approve(resident, manifest)
    assert decode(resident.answer(frame)).kind == "echo"
    resident.book.refuse(manifest.hash, OFFICER, reason="no")
    assert code_of(resident.answer(frame)) == "job-not-approved"
    assert made[0].asked == [kind]


def test_a_join_names_the_very_job_that_was_approved(resident, world, job):
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    assert decode(resident.answer(join(terms, manifest))).kind == "echo"
    cheaper = world.manifest(terms, price=1)
    assert code_of(resident.answer(join(terms, cheaper))) == "job-not-approved"
    nameless = encode("join", {"terms": digest(terms), "nonce": NONCE})
    assert code_of(resident.answer(nameless)) == "job-not-approved"


def test_several_studies_are_served_each_by_its_own_agent(resident, made, world):
    for study in ("lesions", "nodules", "lungs"):
        terms, manifest = world.job(study)
        resident.answer(world.offer(manifest, terms))
        approve(resident, manifest)
    resident.refresh()
    assert sorted(resident.studies()) == ["lesions", "lungs", "nodules"]
    for study in ("lungs", "lesions", "nodules", "lungs"):
        assert decode(resident.answer(frame_for("train", study))).body["study"] == study
    assert len(made) == 3


def test_a_refused_study_is_closed_and_the_others_go_on(resident, made, world):
    jobs = {study: world.job(study) for study in ("lesions", "nodules")}
    for terms, manifest in jobs.values():
        resident.answer(world.offer(manifest, terms))
        approve(resident, manifest)
        resident.refresh()
    resident.book.refuse(jobs["lesions"][1].hash, OFFICER, reason="no")
    resident.refresh()
    assert [one.closed for one in made] == [True, False]
    assert list(resident.studies()) == ["nodules"]
    resident.close()
    assert made[1].closed


class Training:
    """An agent during whose training something happens."""

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def answer(self, _frame):
        self.meanwhile()
        return encode("contribution", {}, {"update": b"secret"})

    def close(self):
        pass


def test_an_update_does_not_leave_whose_job_was_refused_while_it_was_trained(
    tmp_path, world, clock, job
):
    terms, manifest = job
    training = Training(lambda: resident.book.refuse(manifest.hash, OFFICER, reason="no longer"))
    resident, _ = resident_at(tmp_path, world, clock, make=lambda _job: training)
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    reply = resident.answer(frame_for("train", "lesions"))
    assert code_of(reply) == "job-not-approved"
    assert b"secret" not in reply
    assert resident.telemetry.rounds == {}


@pytest.mark.parametrize("order", ["pause", "drain", "leave"])
def test_an_update_leaves_a_site_that_drains_and_not_one_that_is_paused(
    tmp_path, world, clock, job, order
):
    training = Training(lambda: resident.duty.order(order, OFFICER))
    resident, _ = resident_at(tmp_path, world, clock, make=lambda _job: training)
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    reply = resident.answer(frame_for("train", "lesions"))
    assert (b"secret" in reply) == (order != "pause")
    assert order != "pause" or code_of(reply) == "agent-paused"


def test_another_job_of_a_study_gets_an_agent_of_its_own(resident, made, world, job):
    terms, manifest = job
    other = world.manifest(terms, price=2)
    for one in (manifest, other):
        resident.answer(world.offer(one, terms))
        approve(resident, one)
        resident.answer(frame_for("call", "lesions"))
    assert [one.closed for one in made] == [True, False]


def test_an_agent_that_cannot_be_made_is_a_refusal_of_its_study_alone(tmp_path, world, clock):
    class NotHere(ConfigurationError):
        code = "study-not-held"

    def make(job):
        raise NotHere(f"/secret/path of {job.manifest.study}")

    resident, _ = resident_at(tmp_path, world, clock, make=make)
    terms, manifest = world.job()
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    resident.refresh()
    reply = resident.answer(frame_for("train", "lesions"))
    assert code_of(reply) == "study-not-held"
    assert b"/secret/path" not in reply
    assert resident.failed == {"lesions": "study-not-held"}


def test_what_nobody_expected_is_a_refusal_without_its_words(resident, world, job):
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    reply = resident.answer(frame_for("train", "lesions", fail=True))
    assert code_of(reply) == "agent-failed"
    assert b"4711" not in reply
    assert decode(resident.answer(frame_for("train", "lesions"))).kind == "echo"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"noise",
        encode("steal", {"study": "lesions"}),
        encode("train", {}),
        encode("train", {"plan": {"study": "../etc"}}),
        encode("give-share", {"key_id": "0" * 16}),
        encode("join", {"terms": "f" * 64}),
        encode("part-key", {"commitments": []}),
    ],
)
def test_a_frame_that_is_for_no_study_is_refused(resident, frame):
    assert code_of(resident.answer(frame)) == "malformed-frame"


# On duty, and off


@pytest.fixture
def serving(resident, world, job):
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    return resident


@pytest.mark.parametrize("kind", [*KINDS, "offer"])
def test_a_paused_site_answers_only_that_it_is_paused(serving, world, job, kind):
    serving.duty.order("pause", OFFICER)
    terms, manifest = job
    frame = world.offer(manifest, terms) if kind == "offer" else frame_for(kind, "lesions")
    assert code_of(serving.answer(frame)) == "agent-paused"
    serving.duty.order("resume", OFFICER)
    assert decode(serving.answer(frame)).kind in {"echo", "job"}


def test_a_pause_outlives_the_process(serving, world, clock):
    serving.duty.order("pause", OFFICER)
    again, _ = resident_at(serving.home, world, clock)
    assert again.duty.standing().state == "paused"


def test_a_site_without_a_round_under_way_drains_at_once(serving):
    assert serving.duty.order("drain", OFFICER).state == "paused"


@pytest.fixture
def mid_round(serving, monkeypatch):
    """Let the site be in the middle of round 3."""
    rounds = [("lesions", 3)]
    monkeypatch.setattr(serving.rounds, "rounds", lambda: list(rounds))
    return rounds


@pytest.mark.parametrize("order", ["drain", "leave"])
def test_a_draining_site_finishes_the_round_under_way_and_begins_nothing(serving, mid_round, order):
    serving.duty.order(order, OFFICER)
    for kind in ("train", "endorse", "unmask", "share", "open"):
        assert decode(serving.answer(frame_for(kind, "lesions", 3))).kind == "echo"
        assert code_of(serving.answer(frame_for(kind, "lesions", 4))) == "agent-paused"
    for kind in ("call", "commit-key", "prepare"):
        assert code_of(serving.answer(frame_for(kind, "lesions", 3))) == "agent-paused"
    mid_round.clear()
    after = serving.answer(frame_for("open", "lesions", 3))
    assert code_of(after) == {"drain": "agent-paused", "leave": "site-left"}[order]


def test_a_round_that_is_being_trained_is_under_way(tmp_path, world, clock, job):
    going_on, enough = threading.Event(), threading.Event()

    class Slow:
        def answer(self, _frame):
            going_on.set()
            enough.wait(60)
            return encode("contribution", {})

        def close(self):
            pass

    resident, _ = resident_at(tmp_path, world, clock, make=lambda _job: Slow())
    terms, manifest = job
    resident.answer(world.offer(manifest, terms))
    approve(resident, manifest)
    training = threading.Thread(target=resident.answer, args=(frame_for("train", "lesions", 2),))
    training.start()
    assert going_on.wait(60)
    assert resident.duty.order("drain", OFFICER).state == "draining"
    enough.set()
    training.join()
    assert resident.duty.standing().state == "paused"


def test_a_site_that_left_says_so_with_its_signature(serving, world):
    serving.duty.order("leave", OFFICER)
    answer = decode(serving.answer(frame_for("call", "lesions")))
    assert answer.body["code"] == "site-left"
    signed = read(SignOff, answer.body["signed"])
    key = world.keys[SITE].signing_public
    check_signature(key, signed.signature, signed.signed_bytes(), what="word", who=SITE)
    assert serving.duty.order("resume", OFFICER).state == "running"
