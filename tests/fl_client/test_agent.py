"""The agent obeys only the study it approved, answers once, and reads nobody without consent."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from fl_client import agent as agent_module
from fl_client.agent import NoiseSeeded
from fl_client.masking import Masking
from fl_client.plans import NO_MANIFEST, PlanRefused
from fl_client.tables import ANSWERS
from fl_server import gate as gate_module
from privacy.budget import BudgetConflict, BudgetUnreadable, DatasetUnknown, PrivacyBudget
from privacy.events import DpSgdEvent
from privacy.stewardship import Steward, open_dataset
from protocol.canonical import body, digest, read
from protocol.frames import decode, encode
from protocol.messages import Contribution
from protocol.summation import KeyRequest
from records.files import FileUnreadable
from storage.database import writing
from tests.fl_client.mutation import changed, says
from tests.fl_server.study import Direct

pytestmark = pytest.mark.slow


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


def restated(frame, **fields):
    """Return a request with other fields."""
    read = decode(frame)
    return encode(read.kind, {**read.body, **fields}, read.blobs)


@pytest.fixture
def site(primed):
    return primed.sites[0]


@pytest.fixture
def asked(study, site):
    """The first round as it was planned, which every site has answered, and the site's agent."""
    return study.planned(), study.agents[site]


@pytest.fixture(scope="module")
def closed(primed, tmp_path_factory):
    """A copy of the study whose first round is closed, its proofs believed."""
    study = primed.copy(tmp_path_factory.mktemp("closed") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_module, "verify_many", lambda _key, _proofs: None)
        engine = study.engine()
        engine._start()
        engine._hand_over(engine._round(1))
    return study


@pytest.fixture
def past(closed, tmp_path):
    """A copy of it to damage."""
    return closed.copy(tmp_path / "home")


@pytest.fixture
def second(past):
    """The second round as it is planned, which no site has answered yet."""
    return past.planned(2)


# Plans


def test_a_plan_the_server_did_not_sign_is_refused(study, site, asked):
    planned, agent = asked
    forged = planned.plan.model_copy(
        update={"steps": tuple(2 * step for step in planned.plan.steps)}
    )
    frame = study.train_frame(planned, site, plan=forged)
    assert refusal(agent.answer(frame)) == "bad-signature"


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
def test_a_signed_plan_that_is_not_of_the_approved_study_is_refused(study, site, asked, changes):
    planned, agent = asked
    signed = study.sign_plan(planned.plan, **changes)
    frame = restated(study.train_frame(planned, site), plan=body(signed))
    assert refusal(agent.answer(frame)) == "plan-refused"


def test_an_agent_does_not_start_on_terms_that_were_not_approved(study, site):
    agent = study.agents[site]
    with pytest.raises(PlanRefused, match="approved"):
        replace(agent, settings=replace(agent.settings, approved="0" * 64))


@pytest.mark.parametrize(
    ("kind", "code"),
    [("join", "plan-refused"), ("deal-key", "group-key-refused"), ("call", "summation-refused")],
)
def test_a_request_that_names_other_terms_is_refused(study, site, kind, code):
    engine = study.engine()
    engine._start()
    call = engine._sum.call(1, NO_MANIFEST, study.sites).call
    call = call.model_copy(update={"terms": "0" * 64}).signed_by(study.server_key().sign)
    key = KeyRequest(terms="0" * 64, study=study.terms.study, epoch=2, sites=study.sites)
    requests = {
        "join": {"terms": "0" * 64, "nonce": "0" * 64},
        "deal-key": body(key),
        "call": body(call),
    }
    assert refusal(study.agents[site].answer(encode(kind, requests[kind]))) == code


@pytest.mark.parametrize("frame", [b"", b"noise", encode("sing", {}), encode("train", {})])
def test_noise_is_answered_with_a_refusal(study, site, frame):
    assert refusal(study.agents[site].answer(frame)) in {"malformed-frame", "malformed-message"}


def test_the_same_plan_gets_the_same_bytes_also_after_a_restart(study, site, asked):
    planned, agent = asked
    frame = study.train_frame(planned, site)
    first = agent.answer(frame)
    assert decode(first).kind == "contribution"
    spent = agent.budget.spent()
    assert agent.answer(frame) == first
    again = study.agent(site)
    assert again.answer(frame) == first
    assert again.budget.spent() == spent


def test_a_second_plan_for_an_answered_round_is_refused(study, site, asked):
    planned, agent = asked
    other = study.sign_plan(planned.plan, steps=tuple(2 * step for step in planned.plan.steps))
    frame = study.train_frame(planned, site, plan=other)
    assert refusal(agent.answer(frame)) == "round-already-answered"


def test_a_model_that_is_not_the_plans_is_refused(past, site, second):
    frame = decode(past.train_frame(second, site))
    for model in (b"", frame.blobs["model"][:-4], bytes(len(frame.blobs["model"]))):
        other = encode(frame.kind, frame.body, {**frame.blobs, "model": model})
        assert refusal(past.agents[site].answer(other)) == "plan-refused"


# Consent and budget


def test_after_the_last_day_of_consent_nobody_is_read_whatever_the_server_goes_on_with(
    past, site, second
):
    agent, spy = past.agents[site], Spy(past.loader)
    spent = agent.budget.spent()
    last = past.terms.consent.through_day
    later = replace(agent, loader=spy, today=lambda: last + 1)
    assert refusal(later.answer(past.train_frame(second, site))) == "plan-refused"
    assert spy.asked == []
    assert agent.budget.spent() == spent
    on_the_day = replace(agent, today=lambda: last)
    assert decode(on_the_day.answer(past.train_frame(second, site))).kind == "contribution"


def test_leaves_that_do_not_lead_to_the_signed_root_are_refused(past, site, second):
    lane = second.lanes[site]
    forged = lane[0].model_copy(update={"leaves": (1, *lane[0].leaves[1:])})
    spy = Spy(past.loader)
    frame = past.train_frame(second, site, chunks=(forged, *lane[1:]))
    assert refusal(past.agent(site, loader=spy).answer(frame)) == "lane-forged"
    assert spy.asked == []


def test_a_cohort_that_is_too_small_reads_and_spends_nothing(past, site, second):
    agent, spy = past.agents[site], Spy(past.loader)
    spent = agent.budget.spent()
    large = replace(agent, loader=spy, settings=replace(agent.settings, cohort_min=13))
    assert refusal(large.answer(past.train_frame(second, site))) == "cohort-too-small"
    assert spy.asked == []
    assert agent.budget.spent() == spent


def nobody_left(agent, monkeypatch, *, how=lambda: None):
    """Have everybody leave after epsilon was reserved and before a file is opened."""
    honest = agent_module.gather

    def gather(*asked, **settings):
        cohort = honest(*asked, **settings)
        how()
        return replace(cohort, selections=())

    monkeypatch.setattr(agent_module, "gather", gather)
    return agent


def test_a_cohort_that_shrank_after_the_reservation_gives_the_epsilon_back(
    past, site, second, monkeypatch
):
    spy, reserved = Spy(past.loader), []
    agent = past.agent(site, loader=spy)
    spent = agent.budget.spent()
    with monkeypatch.context() as patch:
        nobody_left(agent, patch, how=lambda: reserved.append(agent.budget.spent()))
        frame = past.train_frame(second, site)
        assert refusal(agent.answer(frame)) == "cohort-too-small"
    assert reserved[0] > spent
    assert agent.budget.spent() == spent
    assert spy.asked == []
    assert decode(past.agent(site).answer(frame)).kind == "contribution"


def test_what_another_plan_reserved_is_neither_used_nor_given_back(past, site, second, monkeypatch):
    """Two agents on one ledger: the second plan of a round has no epsilon of its own."""
    agent = past.agents[site]
    with monkeypatch.context() as patch:
        patch.setattr(agent_module, "contribution", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # it dies after training
            agent.answer(past.train_frame(second, site))
    spent, spy = agent.budget.spent(), Spy(past.loader)
    other = past.sign_plan(second.plan, steps=tuple(2 * one for one in second.plan.steps))
    frame = past.train_frame(second, site, plan=other)
    with monkeypatch.context() as patch:
        patch.setattr(Masking, "begin", lambda *_: None)  # whatever else would refuse it
        again = past.agent(site, loader=spy)
        assert refusal(again.answer(frame)) == "privacy-budget-conflict"
    assert spy.asked == []
    assert agent.budget.spent() == spent


def test_an_agent_with_a_seed_starts_in_demonstrations_alone(past, site):
    agent = past.agents[site]
    with pytest.raises(NoiseSeeded):
        replace(agent, settings=replace(agent.settings, seed=7))
    replace(agent, settings=replace(agent.settings, seed=7, demonstration=True))


def test_no_study_gives_a_data_set_its_cap(past, site):
    """A hospital whose steward has not decided takes part in nothing."""
    for left in past.home.site(site).glob("budget.db*"):
        left.unlink()
    with pytest.raises(DatasetUnknown, match="--cap"):
        past.agent(site)
    ledger, terms = past.home.site(site) / "budget.db", past.terms
    numbers = {"epsilon_limit": 0.5, "delta": terms.privacy.delta}
    open_dataset(ledger, terms.consent.dataset, **numbers)
    assert PrivacyBudget(ledger, dataset=terms.consent.dataset).limit() == 0.5


class Unreadable:
    """A loader whose disk has gone bad."""

    def load(self, _patients):
        raise FileUnreadable(Path("scan.dcm"), "its disk does not answer")


def test_records_that_cannot_be_read_give_the_reserved_epsilon_back(past, site, second):
    agent = past.agents[site]
    spent = agent.budget.spent()
    frame = past.train_frame(second, site)
    assert refusal(past.agent(site, loader=Unreadable()).answer(frame)) == FileUnreadable.code
    assert agent.budget.spent() == spent
    assert decode(past.agent(site).answer(frame)).kind == "contribution"
    assert agent.budget.spent() > spent
    assert {one.state for one in agent.budget.history()} == {"committed"}


def test_a_receipt_tells_what_its_own_study_cost_and_nothing_of_others(past, site, second):
    agent = past.agents[site]
    ledger = agent.settings.home / "budget.db"
    Steward(ledger, agent.budget.dataset).set_limit(1000.0, confirm_raise=True)
    agent.budget.reserve("another-study", 1, DpSgdEvent(1.0, 0.5, 10))
    limit = past.terms.privacy.epsilon
    assert agent.budget.spent() > limit
    reply = decode(past.agent(site).answer(past.train_frame(second, site)))
    told = float(read(Contribution, reply.body).receipt.epsilon_spent)
    of_study = agent.budget.statement_of(past.terms.study).epsilon
    assert told <= limit + 1e-6
    assert told == pytest.approx(of_study, abs=2e-6)


def test_a_round_whose_answer_was_lost_is_not_trained_again_on_epsilon_that_is_spent(
    past, site, second
):
    """A hospital whose memory went back to an older day answers with other noise, for nothing."""
    agent, frame = past.agents[site], past.train_frame(second, site)
    assert decode(agent.answer(frame)).kind == "contribution"
    with writing(agent.store._engine) as connection:
        connection.execute(ANSWERS.delete())
    spent, spy = agent.budget.spent(), Spy(past.loader)
    assert refusal(past.agent(site, loader=spy).answer(frame)) == "round-already-answered"
    assert spy.asked == []
    assert agent.budget.spent() == spent


@pytest.mark.parametrize("wrong", ["delta", "dataset"])
def test_an_agent_does_not_start_on_a_ledger_of_another_delta_or_data_set(
    study, site, tmp_path, wrong
):
    agent = study.agents[site]
    dataset, delta = agent.budget.dataset, agent.budget.delta
    numbers = {"dataset": dataset, "delta": delta, "epsilon_limit": 8.0}
    numbers[wrong] = delta / 10 if wrong == "delta" else "another"
    with pytest.raises(BudgetConflict):
        replace(agent, budget=PrivacyBudget(tmp_path / "b.db", **numbers))


def test_an_agent_does_not_start_on_a_ledger_that_forgot_what_it_sent(past, site, tmp_path):
    """Put back to an earlier day together with its head, or gone: the answers know better."""
    agent = past.agents[site]
    fresh = PrivacyBudget(
        tmp_path / "b.db",
        dataset=agent.budget.dataset,
        delta=agent.budget.delta,
        epsilon_limit=8.0,
    )
    with pytest.raises(BudgetUnreadable, match="round 1"):
        replace(agent, budget=fresh)


def test_who_asked_is_recorded_with_what_was_spent(past, site):
    [found] = past.agents[site].budget.history()
    assert found.researcher == f"server key {past.terms.server_key.hex()[:16]}"


def test_patients_outside_the_cohort_that_pays_are_not_read(past, site, second):
    agent, spy = past.agents[site], Spy(past.loader)
    Steward(agent.settings.home / "budget.db", agent.budget.dataset).fix_cohort("few", ["nobody"])
    spent = agent.budget.spent()
    other = past.agent(site, loader=spy)
    other = replace(other, settings=replace(other.settings, budget_cohort="few"))
    assert refusal(other.answer(past.train_frame(second, site))) == "privacy-not-of-cohort"
    assert spy.asked == []
    assert agent.budget.spent() == spent


def test_a_plan_whose_roster_is_refused_reads_and_spends_nothing(past, site, second):
    spy = Spy(past.loader)
    agent = past.agent(site, loader=spy)
    spent = agent.budget.spent()
    other = past.sign_plan(second.plan, call="1" * 64)
    frame = past.train_frame(second, site, plan=other)
    assert refusal(agent.answer(frame)) == "summation-refused"
    assert spy.asked == []
    assert agent.budget.spent() == spent


def test_only_patients_whose_live_consent_allows_the_study_are_read(past, site):
    past.withdraw(before_round=2)
    planned = past.planned(2)
    spy = Spy(past.loader)
    reply = past.agent(site, loader=spy).answer(past.train_frame(planned, site))
    assert decode(reply).kind == "contribution"
    decisions = past.wishes.decisions[site]
    granting = {patient for patient, decision in decisions.items() if decision == "grants"}
    gone = {one.patient for one in past.wishes.withdrawals if one.site == site}
    assert gone
    assert set(spy.asked) == granting - gone


# History


def with_manifest(study, planned, site, /, **changes):
    """Return the request to train in which the round before ended otherwise, all of it signed."""
    manifest = study.store.round(1).manifest.model_copy(update=changes)
    manifest = manifest.signed_by(study.server_key().sign)
    plan = study.sign_plan(planned.plan, previous=digest(manifest))
    frame = study.train_frame(planned, site, plan=plan)
    return restated(frame, manifest=body(manifest))


def reason(reply):
    assert refusal(reply) == "plan-refused", decode(reply).body
    return decode(reply).body["reason"]


def test_a_plan_goes_on_from_the_manifest_of_the_round_before(past, site, second):
    assert second.plan.previous == digest(past.store.round(1).manifest)
    reply = past.agents[site].answer(past.train_frame(second, site))
    assert decode(reply).kind == "contribution", decode(reply).body
    kept = past.agents[site].store.manifest(past.terms.study, 1)
    assert kept == second.plan.previous


def test_a_later_plan_without_a_manifest_is_refused(past, site, second):
    frame = restated(past.train_frame(second, site), manifest=None)
    assert "manifest of the round before is missing" in reason(past.agents[site].answer(frame))


def test_a_manifest_that_the_server_did_not_sign_is_refused(past, site, second):
    manifest = past.store.round(1).manifest.model_copy(update={"plan": "0" * 64})
    frame = restated(past.train_frame(second, site), manifest=body(manifest))
    assert refusal(past.agents[site].answer(frame)) == "bad-signature"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"round": 2}, "not of the round before"),
        ({"study": "study-other"}, "not of the round before"),
        ({"model_sha256": "0" * 64}, "does not go on from the manifest"),
        ({"integers_sha256": "1" * 64}, "another sum than this hospital opened"),
        ({"commitment": "1" * 64}, "another sum than this hospital opened"),
    ],
)
def test_a_manifest_of_something_else_is_refused(past, site, second, changes, why):
    frame = with_manifest(past, second, site, **changes)
    assert why in reason(past.agents[site].answer(frame))
    assert past.agents[site].store.plan(past.terms.study, 2) is None


def test_a_plan_that_names_another_manifest_than_comes_with_it_is_refused(past, site, second):
    plan = past.sign_plan(second.plan, previous="1" * 64)
    frame = past.train_frame(second, site, plan=plan)
    assert "does not go on from" in reason(past.agents[site].answer(frame))


def test_a_manifest_of_another_history_than_was_known_is_refused(past, site, second):
    past.agents[site].store.keep_manifest(past.terms.study, 0, "1" * 64)
    frame = past.train_frame(second, site)
    assert "another history" in reason(past.agents[site].answer(frame))


def test_another_manifest_of_a_round_than_was_gone_on_from_is_refused(past, site, second):
    past.agents[site].store.keep_manifest(past.terms.study, 1, "1" * 64)
    said = reason(past.agents[site].answer(past.train_frame(second, site)))
    assert "another manifest of that round" in said


def test_the_first_manifest_that_was_known_stands(past, site):
    store = past.agents[site].store
    store.keep_manifest(past.terms.study, 7, "1" * 64)
    store.keep_manifest(past.terms.study, 7, "2" * 64)
    assert store.manifest(past.terms.study, 7) == "1" * 64


@pytest.mark.parametrize("previous", ["1" * 64, None])
def test_the_first_plan_goes_on_from_nothing(study, site, asked, previous):
    planned, agent = asked
    with writing(agent.store._engine) as connection:
        connection.execute(ANSWERS.delete())  # else the stored answer is given
    plan = study.sign_plan(planned.plan, previous=previous or NO_MANIFEST)
    frame = study.train_frame(planned, site, plan=plan)
    if previous is not None:
        assert "manifest of the round before is missing" in reason(agent.answer(frame))
    else:  # it is good for a first plan; only the round's epsilon has been spent already
        assert refusal(agent.answer(frame)) == "round-already-answered"


# Whatever comes


class Besieged(Direct):
    """A transport that lets changed copies of every frame arrive before it."""

    random = Random(0)

    def exchange(self, kind, requests, **how):
        sites = sorted(self.agents)
        for node, frame in requests.items():
            for _ in range(6):
                says(self.agents[sites[node]].answer(changed(frame, self.random)))
            for other in sites[:node]:
                says(self.agents[other].answer(frame))
        return super().exchange(kind, requests, **how)


@pytest.mark.parametrize("seed", range(3))
def test_no_frame_raises_and_the_round_goes_on_after_it(past, seed, monkeypatch):
    monkeypatch.setattr(gate_module, "verify_many", lambda _key, _proofs: None)
    transport = Besieged(past.agents)
    transport.random = Random(seed)
    past.engine(transport).run()
    assert past.store.rounds_closed() == 2
    assert [one.site for one in past.store.round(2).closed.receipts] == past.sites


def test_an_update_of_other_patients_than_are_proven_stays_home(past, site, second, monkeypatch):
    honest = agent_module.gather

    def one_more(*asked, **settings):
        cohort = honest(*asked, **settings)
        first, *others = cohort.selections
        twice = replace(first, patients=(*first.patients, first.patients[0]))
        return replace(cohort, selections=(twice, *others))

    monkeypatch.setattr(agent_module, "gather", one_more)
    agent = past.agent(site)
    assert refusal(agent.answer(past.train_frame(second, site))) == "patients-unproven"
    assert agent.store.answer(second.plan.study, 2, digest(second.plan)) is None
