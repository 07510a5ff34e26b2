"""A round finds its proofs made, a withdrawal costs one of them, and who withdrew is not read."""

import json
import time
from datetime import UTC, datetime

import pytest

from fl_client.lane import newest_in
from fl_server import gate as gate_module
from protocol.canonical import read
from protocol.frames import decode, encode
from protocol.ids import GrantId
from protocol.messages import Contribution
from tests.fl_server.study import Direct

pytestmark = pytest.mark.slow

WAIT = 120.0


class Counting:
    """A prover that counts what it is asked for; the context says for which chunk."""

    def __init__(self, prover):
        self.prover = prover
        self.contexts = []

    def submit(self, slots, scope, blind):
        self.contexts.append(scope.context)
        return self.prover.submit(slots, scope, blind)


class Reader:
    """A loader that remembers whom it was asked for, and may do something before it reads."""

    def __init__(self, loader):
        self.loader = loader
        self.asked = []

    def load(self, patients):
        self.asked += [patient.id for patient in patients]
        return self.loader.load(patients)


@pytest.fixture
def counted(study, monkeypatch):
    """The study with real proofs, which are counted; the gate believes them."""
    monkeypatch.setattr(gate_module, "verify_many", lambda _key, _proofs: None)
    counting = Counting(study.prover)
    for agent in study.agents.values():
        agent.certifier._prover = counting
    yield study, counting
    for agent in study.agents.values():
        agent.close()


def idle(study):
    """Wait until no site prepares anything."""
    deadline = time.monotonic() + WAIT
    for agent in study.agents.values():
        agent._preparation._thread.submit(lambda: None).result(WAIT)
        while agent.certifier._jobs:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def withdraw(study, site, *, chosen):
    """Let one of a site's chosen patients withdraw, with her paper; return her number."""
    papers = json.loads((study.home.patients / f"{site}.json").read_text())
    patient = next(one for one in sorted(papers) if one in chosen)
    code = bytes.fromhex(papers[patient]["code"])
    study.registry.withdraw(GrantId(papers[patient]["grant"]), code, now=datetime.now(UTC))
    return patient


def test_the_second_round_needs_no_proving_time_and_a_withdrawal_one_chunk(counted):
    study, counting = counted
    engine = study.engine()
    engine._start()
    engine._news.send(0)
    idle(study)
    engine._hand_over(engine._round(1))
    assert counting.contexts == []  # the first round's proofs were made with the fixture

    withdrew = study.withdraw(before_round=2)
    assert withdrew
    engine._news.send(1)
    idle(study)
    assert len(counting.contexts) == len(set(counting.contexts)) == len(withdrew)
    engine._hand_over(engine._round(2))
    assert len(counting.contexts) == len(withdrew)  # the round itself had nothing proved
    assert [receipt.site for receipt in study.store.round(2).closed.receipts] == study.sites


def test_each_site_hears_of_each_change_of_its_own_lane_once(counted):
    study, _ = counted
    transport = Direct(study.agents)
    engine = study.engine(transport)

    def told(round_number):
        transport.asked.clear()
        engine._news.send(round_number)
        return {site: decode(frame).body["chunks"] for _, site, frame in transport.asked}

    engine._start()
    chunks = told(0)
    assert sorted(chunks) == study.sites
    for site, sent in chunks.items():
        own = newest_in(study.registry, study.terms, site)().chunks
        assert [one["chunk"] for one in sent] == [one.chunk for one in own]
    assert told(0) == {}
    withdrew = study.withdraw(before_round=2)
    changed = told(1)
    assert sorted(changed) == sorted(withdrew)
    assert {len(sent) for sent in changed.values()} == {1}
    assert told(1) == {}


def test_what_a_plan_told_is_no_news(counted):
    study, _ = counted
    transport = Direct(study.agents)
    engine = study.engine(transport)
    engine._start()
    engine._hand_over(engine._round(1))
    transport.asked.clear()
    engine._news.send(1)
    assert transport.asked == []


@pytest.mark.parametrize(
    "alter", [lambda _: b"noise", lambda _: None, lambda _: encode("refused", {})]
)
def test_a_site_that_refuses_news_or_fails_ends_no_round(counted, alter):
    study, _ = counted
    steps = []
    engine = study.engine(
        Direct(study.agents, alter=lambda kind, _, one: alter(one) if kind == "prepare" else one)
    )
    engine._start()
    engine._news.progress = steps.append
    engine._news.send(0)
    assert [(step.stage, bool(step.note)) for step in steps] == [("prepare", True)] * 3
    engine._hand_over(engine._round(1))


def asked_for(study, site, *, newest=None):
    """Open an agent of the site anew that shows whom it reads."""
    agent = study.agent(site, loader=Reader(study.loader), newest=newest)
    agent.certifier._prover = study.agents[site].certifier._prover
    agent.seen = []
    agent.progress = agent.seen.append
    study.agents[site].close()
    study.agents[site] = agent
    return agent


@pytest.mark.parametrize("way", ["told", "told and proven", "asks"])
def test_who_withdraws_after_the_plan_is_not_read_in_that_round_where_it_can_be_known(counted, way):
    study, counting = counted
    site = study.sites[0]
    granting = study.wishes.decisions[site]
    newest = newest_in(study.registry, study.terms, site)
    agent = asked_for(study, site, newest=newest if way == "asks" else None)
    engine = study.engine()
    engine._start()
    engine._hand_over(engine._round(1))
    agent.loader.asked.clear()
    planned = engine._plan(2)
    chosen = {one for one, wish in granting.items() if wish == "grants"}
    patient = withdraw(study, site, chosen=chosen)
    if way != "asks":
        engine._news.send(1)
    if way == "told and proven":
        idle(study)
    reply = decode(agent.answer(study.train_frame(planned, site)))
    contribution = read(Contribution, reply.body)
    assert patient not in agent.loader.asked
    assert set(agent.loader.asked) == chosen - {patient}
    assert contribution.receipt.proven_patients == len(chosen) - 1
    assert reply.blobs["left-out"] == (1).to_bytes(4, "big")
    assert [step.note[:1] for step in agent.seen if step.stage == "leave-out"] == ["1"]
    assert not any(patient in step.note for step in agent.seen)
    # The server planned with the older root; under it the smaller choice is as good as any.
    study.store.plan(planned)
    engine._intake._consider(site, reply, study.store.planned(2))
    assert study.store.uploads.left_out(2) == {site: 1}
    assert counting.contexts


def test_a_site_says_nothing_where_nobody_withdrew(counted):
    study, _ = counted
    planned = study.planned()
    reply = decode(study.agents[study.sites[0]].answer(study.train_frame(planned, study.sites[0])))
    assert "left-out" not in reply.blobs


def test_more_left_out_than_the_lane_has_is_not_believed(counted):
    study, _ = counted
    site = study.sites[0]
    engine = study.engine(
        Direct(
            study.agents,
            alter=lambda kind, _, one: boasting(one) if kind == "train" else one,
        )
    )
    engine._start()
    engine._hand_over(engine._round(1))
    assert study.store.uploads.left_out(1) == {}
    assert site in study.store.uploads.of(1)


def boasting(reply):
    frame = decode(reply)
    return encode(frame.kind, frame.body, {**frame.blobs, "left-out": b"\xff" * 4})
