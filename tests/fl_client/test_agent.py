"""The agent obeys only the study it approved, answers once, and reads nobody without consent."""

import hashlib
from dataclasses import replace

import pytest

from fl_client.agent import PlanRefused
from privacy.bfv import EncryptedUpdate, ServerContext
from privacy.parameters import parameter_set
from protocol.frames import decode, encode
from protocol.messages import OpenRequest, body
from tests.fl_server.study import Study


class Spy:
    """A loader that remembers whom it was asked for."""

    def __init__(self, loader):
        self.loader = loader
        self.asked = []

    def load(self, patients):
        self.asked += [patient.id for patient in patients]
        return self.loader.load(patients)


def refusal(reply):
    frame = decode(reply)
    assert frame.kind == "refused", frame.kind
    return frame.body["code"]


@pytest.fixture
def site(study):
    return study.sites[0]


@pytest.fixture
def asked(study, site):
    """The plan of round 1, the site's lane, and its agent."""
    plan, lanes = study.plan()
    return plan, lanes[site], study.agents[site]


@pytest.fixture(scope="module")
def total(primed: Study):
    """The call to open the first round's sum, unsigned, and the sum."""
    plan, lanes = primed.plan()
    answers = [primed.contribution(site, plan, lanes) for site in primed.sites]
    blob = (
        ServerContext(parameter_set(primed.terms.encryption))
        .add(
            [
                EncryptedUpdate(ciphertext, one.key_id, one.encryption, one.length)
                for one, ciphertext in answers
            ]
        )
        .blob
    )
    request = OpenRequest(
        study=plan.study,
        round=plan.round,
        key_id=plan.key_id,
        sum_sha256=hashlib.sha256(blob).hexdigest(),
        length=primed.terms.training.parameters,
        receipts=tuple(one.receipt for one, _ in answers),
    )
    return request, blob


def open_frame(study, request, blob):
    signature = study.server_key().sign(request.signed_bytes())
    signed = request.model_copy(update={"signature": signature})
    return encode("open", {"request": body(signed), "send_integers": True}, {"sum": blob})


def test_a_plan_the_server_did_not_sign_is_refused(study, asked):
    plan, lane, agent = asked
    forged = plan.model_copy(update={"steps": tuple(2 * step for step in plan.steps)})
    assert refusal(agent.answer(study.train_frame(forged, lane))) == "bad-signature"


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": "0" * 64},
        {"study": "study-other"},
        {"round": 3},
        {"steps": (1.0,)},
        {"steps": (1.0, 1.0, 1.0, 0.0)},
        {"round": 2, "model": "0" * 64},
    ],
)
def test_a_signed_plan_that_is_not_of_the_approved_study_is_refused(study, asked, changes):
    plan, lane, agent = asked
    signed = study.sign_plan(plan, **changes)
    assert refusal(agent.answer(study.train_frame(signed, lane))) == "plan-refused"


def test_an_agent_does_not_start_on_terms_that_were_not_approved(study, site):
    agent = study.agents[site]
    with pytest.raises(PlanRefused, match="approved"):
        replace(agent, settings=replace(agent.settings, approved="0" * 64))


@pytest.mark.parametrize("kind", ["join", "deal-key"])
def test_a_call_that_names_other_terms_is_refused(study, site, kind):
    frame = encode(kind, {"terms": "0" * 64, "nonce": "0" * 64})
    assert refusal(study.agents[site].answer(frame)) == "plan-refused"


@pytest.mark.parametrize("frame", [b"", b"noise", encode("sing", {}), encode("train", {})])
def test_noise_is_answered_with_a_refusal(study, site, frame):
    assert refusal(study.agents[site].answer(frame)) in {"malformed-frame", "malformed-message"}


def test_the_same_plan_gets_the_same_bytes_also_after_a_restart(study, site, asked):
    plan, lane, agent = asked
    frame = study.train_frame(plan, lane)
    first = agent.answer(frame)
    assert decode(first).kind == "contribution"
    spent = agent.budget.spent()
    assert agent.answer(frame) == first
    again = study.agent(site)
    assert again.answer(frame) == first
    assert again.budget.spent() == spent


def test_a_second_plan_for_an_answered_round_is_refused(study, asked):
    plan, lane, agent = asked
    other = study.sign_plan(plan, steps=tuple(2 * step for step in plan.steps))
    assert refusal(agent.answer(study.train_frame(other, lane))) == "round-already-answered"


def test_leaves_that_do_not_lead_to_the_signed_root_are_refused(study, site, asked):
    plan, lane, _ = asked
    forged = lane[0].model_copy(update={"leaves": (1, *lane[0].leaves[1:])})
    second = study.sign_plan(plan, round=2)
    spy = Spy(study.loader)
    reply = study.agent(site, loader=spy).answer(study.train_frame(second, (forged, *lane[1:])))
    assert refusal(reply) == "lane-forged"
    assert spy.asked == []


def test_a_cohort_that_is_too_small_reads_and_spends_nothing(study, site, asked):
    plan, lane, agent = asked
    spy = Spy(study.loader)
    spent = agent.budget.spent()
    large = replace(agent, loader=spy, settings=replace(agent.settings, cohort_min=13))
    second = study.sign_plan(plan, round=2)
    assert refusal(large.answer(study.train_frame(second, lane))) == "cohort-too-small"
    assert spy.asked == []
    assert agent.budget.spent() == spent


def test_only_patients_whose_live_consent_allows_the_study_are_read(study, site):
    study.withdraw(before_round=2)
    plan, lanes = study.plan()
    second = study.sign_plan(plan, round=2)
    spy = Spy(study.loader)
    reply = study.agent(site, loader=spy).answer(study.train_frame(second, lanes[site]))
    assert decode(reply).kind == "contribution"
    decisions = study.wishes.decisions[site]
    granting = {patient for patient, decision in decisions.items() if decision == "grants"}
    gone = {one.patient for one in study.wishes.withdrawals if one.site == site}
    assert gone
    assert set(spy.asked) == granting - gone


def test_a_sum_is_opened_by_every_site_to_the_same_integers(study, total):
    frame = open_frame(study, *total)
    replies = [decode(agent.answer(frame)) for agent in study.agents.values()]
    assert {reply.kind for reply in replies} == {"opening"}
    assert len({reply.blobs["integers"] for reply in replies}) == 1
    weight = sum(receipt.proven_patients for receipt in total[0].receipts)
    assert {reply.body["weight"] for reply in replies} == {weight}


def test_a_call_to_open_that_the_server_did_not_sign_is_refused(study, site, total):
    request, blob = total
    frame = encode("open", {"request": body(request)}, {"sum": blob})
    assert refusal(study.agents[site].answer(frame)) == "bad-signature"


def test_a_sum_of_too_few_sites_is_not_opened(study, site, total):
    request, blob = total
    few = request.model_copy(update={"receipts": request.receipts[:2]})
    assert refusal(study.agents[site].answer(open_frame(study, few, blob))) == "plan-refused"


def test_a_site_named_twice_does_not_make_a_sum_large_enough(study, site, total):
    request, blob = total
    first, second, _ = request.receipts
    twice = request.model_copy(update={"receipts": (first, second, second)})
    assert refusal(study.agents[site].answer(open_frame(study, twice, blob))) == "plan-refused"


def test_a_sum_that_weighs_otherwise_than_its_receipts_is_not_opened(study, site, total):
    request, blob = total
    keys = study.keys(site)
    heavier = request.receipts[0].model_copy(update={"proven_patients": 11_000})
    heavier = heavier.model_copy(update={"site_signature": keys.sign(heavier.site_bytes())})
    wrong = request.model_copy(update={"receipts": (heavier, *request.receipts[1:])})
    assert refusal(study.agents[site].answer(open_frame(study, wrong, blob))) == "plan-refused"


def test_a_receipt_its_site_did_not_sign_opens_nothing(study, site, total):
    request, blob = total
    forged = request.receipts[0].model_copy(update={"site_signature": bytes(64)})
    wrong = request.model_copy(update={"receipts": (forged, *request.receipts[1:])})
    assert refusal(study.agents[site].answer(open_frame(study, wrong, blob))) == "bad-signature"


def test_a_second_sum_of_the_same_round_is_not_opened_also_after_a_restart(study, site, total):
    request, blob = total
    assert decode(study.agents[site].answer(open_frame(study, request, blob))).kind == "opening"
    other = blob + b"\0"
    changed = request.model_copy(update={"sum_sha256": hashlib.sha256(other).hexdigest()})
    frame = open_frame(study, changed, other)
    assert refusal(study.agents[site].answer(frame)) == "sum-already-opened"
    assert refusal(study.agent(site).answer(frame)) == "sum-already-opened"
    assert decode(study.agent(site).answer(open_frame(study, request, blob))).kind == "opening"
