"""The engine ends with the same rounds however often it is killed, and pays for none twice."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fl_client.masking import Masking
from fl_client.tables import GROUP_KEY
from fl_server import database
from fl_server import engine as engine_module
from fl_server import gate as gate_module
from fl_server.engine import Deadlines
from fl_server.opening import OpeningDisputed
from fl_server.sites import TooFewSites
from privacy.signatures import check_signature
from protocol.canonical import body, digest, read
from protocol.frames import decode, encode
from protocol.summation import Opening
from storage.database import writing
from tests.fl_server.study import Direct

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """The process ends here; nothing in the engine may catch it."""


@dataclass
class Killer:
    """Ends the process at the call of the given number, counted over its whole life."""

    at: int
    calls: int = 0
    seen: list = field(default_factory=list)

    def step(self, what):
        self.calls += 1
        if self.calls == self.at:
            self.seen.append(what)
            raise Killed(what)


SETTLING = ("before settling", "after settling")
PHASES = ("join", "call", "train", "endorse", "unmask", "open", *SETTLING)


@dataclass
class Payer:
    """Settles a closed round once, as the market does, however often it is told of it."""

    paid: dict = field(default_factory=dict)
    told: list = field(default_factory=list)

    def __call__(self, closed):
        self.told.append(closed.round)
        assert self.paid.setdefault(closed.round, closed) == closed


def run(study, **options):
    payer = Payer()
    study.engine(after_close=payer, **options).run()
    return payer


def altered(kind, change, *, node=None):
    """Return an ``alter`` that changes the replies of one kind, of one node or of all."""

    def alter(its_kind, its_node, reply):
        hit = its_kind == kind and node in {None, its_node}
        return change(reply) if hit else reply

    return alter


def refusing(reply):
    return encode("refused", {"code": "site-away", "reason": "the site is away"})


@pytest.fixture
def swift(study, monkeypatch):
    """The study with every proof believed, where a test is not about proofs."""
    monkeypatch.setattr(gate_module, "verify_many", lambda _key, _proofs: None)
    return study


def closed_rounds(study):
    return [study.store.round(number).closed for number in (1, 2)]


def test_a_whole_study_ends_with_every_round_closed_and_settled_once(study):
    payer = run(study)
    assert payer.told == [1, 2]
    for closed in closed_rounds(study):
        assert [receipt.site for receipt in closed.receipts] == study.sites
        assert closed.refused == ()
        assert closed.model_sha256 == study.store.models.at(closed.round).sha256
        for receipt in closed.receipts:
            check_signature(
                study.terms.server_key,
                receipt.server_signature,
                receipt.server_bytes(),
                what="receipt",
                who="the server",
            )
    assert all(study.store.round(number).settled for number in (1, 2))
    assert study.store.round(2).plan.previous == digest(study.store.round(1).manifest)
    assert all(blob == b"" for _, blob in study.store.uploads.of(1).values())
    assert all(blob for _, blob in study.store.uploads.of(2).values())  # to be added again


def test_what_is_opened_is_the_sum_of_what_the_sites_sent(swift):
    run(swift)
    for number in (1, 2):
        sent = [
            np.frombuffer(agent.store.integers(swift.terms.study, number), "<i8")
            for agent in swift.agents.values()
        ]
        assert (np.sum(sent, axis=0) == swift.store.round(number).integers).all()


def test_a_study_that_is_over_asks_nobody_again(swift):
    run(swift)
    transport = Direct(swift.agents)
    assert run(swift, transport=transport).told == []
    assert transport.asked == []


def test_an_engine_killed_at_every_frame_and_every_settlement_ends_with_the_same_rounds(swift):
    payer, kills = Payer(), []
    plans: dict[int, set[str]] = {1: set(), 2: set()}
    for at in range(1, 100):
        killer = Killer(at)

        def after_close(closed, killer=killer):
            killer.step("before settling")
            payer(closed)
            killer.step("after settling")

        transport = Direct(
            swift.agents, before=lambda kind, _node, killer=killer: killer.step(kind)
        )
        try:
            swift.engine(transport, after_close=after_close).run()
            break
        except Killed:
            kills += killer.seen
        finally:
            for number, seen in plans.items():
                stored = swift.store.round(number)
                if stored is not None:
                    seen.add(digest(stored.plan))
    assert payer.paid == {closed.round: closed for closed in closed_rounds(swift)}
    assert all(len(seen) == 1 for seen in plans.values())
    assert all(len(closed.receipts) == 3 for closed in closed_rounds(swift))
    # Which later frames are still asked depends on what was stored a moment before each kill.
    assert {"join", "call", "train"} <= set(kills)


@pytest.mark.parametrize("phase", PHASES)
def test_an_engine_killed_once_in_a_phase_goes_on_where_it_was(swift, phase):
    payer, killed = Payer(), []

    def kill(what, times=2):
        killed.append(what)
        if killed.count(phase) == times and what == phase:
            raise Killed(what)

    def after_close(closed):
        kill("before settling", times=1)
        payer(closed)
        kill("after settling", times=1)

    with pytest.raises(Killed):
        swift.engine(
            Direct(swift.agents, before=lambda kind, _node: kill(kind)), after_close=after_close
        ).run()
    planned = swift.store.round(1)
    swift.agents = {site: swift.agent(site) for site in swift.sites}
    swift.engine(after_close=payer).run()
    assert payer.paid == {closed.round: closed for closed in closed_rounds(swift)}
    if planned is not None:
        assert swift.store.round(1).plan == planned.plan
    assert all(len(closed.receipts) == 3 for closed in closed_rounds(swift))


def test_a_round_closed_before_the_kill_is_settled_before_anything_else(swift):
    def die(closed):
        raise Killed(closed.round)

    with pytest.raises(Killed):
        swift.engine(after_close=die).run()
    assert not swift.store.round(1).settled
    order = []
    transport = Direct(swift.agents, before=lambda kind, _node: order.append(kind))
    swift.engine(transport, after_close=lambda closed: order.append(closed.round)).run()
    assert order[:2] == [1, "join"]
    assert order[-1] == 2


def test_too_few_sites_at_the_roll_call_end_the_run_before_a_round_is_planned(swift):
    engine = swift.engine(Direct(swift.agents, alter=altered("join", refusing, node=0)))
    engine.deadlines = Deadlines(join=0.3, roster=0.0)
    with pytest.raises(TooFewSites, match="2 sites answered"):
        engine.run()
    assert swift.store.round(1) is None


def test_an_answer_to_another_roll_call_does_not_count(swift):
    old = []

    def replay(reply):
        old.append(reply)
        return old[0]

    engine = swift.engine(Direct(swift.agents, alter=altered("join", replay)))
    engine.deadlines = Deadlines(join=0.3, roster=0.0)
    with pytest.raises(TooFewSites, match="1 sites answered"):
        engine.run()


def test_a_round_with_too_few_updates_closes_without_update_and_without_receipts(swift):
    payer = run(swift, transport=Direct(swift.agents, alter=altered("train", refusing, node=1)))
    for closed in payer.paid.values():
        assert closed.receipts == ()
        codes = {one.site: one.code for one in closed.refused}
        sound = dict.fromkeys(swift.sites, "quorum-missing")
        assert codes == {**sound, swift.sites[1]: "site-away"}
    assert swift.store.models.at(2).sha256 == swift.store.models.at(0).sha256
    assert swift.store.round(1).integers is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _reply: None, "site-failed"),
        (lambda _reply: b"noise", "malformed-frame"),
        (lambda _reply: encode("joined", {}), "malformed-message"),
        (lambda _reply: encode("contribution", {"receipt": 1}), "malformed-message"),
        (lambda reply: encode("contribution", decode(reply).body), "contribution-refused"),
    ],
)
def test_a_site_that_answers_badly_is_recorded_and_ends_no_round(swift, change, code):
    run(swift, transport=Direct(swift.agents, alter=altered("train", change, node=0)))
    refused = {one.site: one.code for one in swift.store.round(1).closed.refused}
    assert refused.pop(swift.sites[0]) == code
    assert set(refused.values()) == {"quorum-missing"}  # sound, but too few


def test_a_site_that_answers_in_the_name_of_another_is_refused(swift):
    answers = {}

    def swap(kind, node, reply):
        if kind != "train":
            return reply
        answers[node] = reply
        return answers[0]

    run(swift, transport=Direct(swift.agents, alter=swap))
    refused = {one.site: one.code for one in swift.store.round(1).closed.refused}
    assert refused.pop(swift.sites[0]) == "quorum-missing"
    assert set(refused.values()) == {"federation"}


def test_a_site_that_is_silent_is_recorded_as_such(swift):
    class Silent(Direct):
        def exchange(self, kind, requests, **how):
            kept = {node: frame for node, frame in requests.items() if (kind, node) != ("train", 2)}
            return super().exchange(kind, kept, **how)

    run(swift, transport=Silent(swift.agents))
    refused = {one.site: one.code for one in swift.store.round(1).closed.refused}
    assert refused[swift.sites[2]] == "no-answer"


def test_sites_that_open_a_sum_to_different_integers_stop_the_run(swift):
    keys = swift.keys(swift.sites[1])

    def lie(reply):
        frame = decode(reply)
        opening = read(Opening, frame.body).model_copy(update={"integers_sha256": "0" * 64})
        signature = keys.sign(opening.signed_bytes())
        return encode(
            "opening", body(opening.model_copy(update={"signature": signature})), frame.blobs
        )

    with pytest.raises(OpeningDisputed, match="round 1"):
        run(swift, transport=Direct(swift.agents, alter=altered("open", lie, node=1)))
    assert swift.store.rounds_closed() == 0
    run(swift)  # the same contributions, opened in earnest
    assert swift.store.rounds_closed() == 2


def test_an_opening_that_its_site_did_not_sign_does_not_count(swift):
    def forge(reply):
        frame = decode(reply)
        opening = read(Opening, frame.body).model_copy(update={"integers_sha256": "0" * 64})
        return encode("opening", body(opening), frame.blobs)

    run(swift, transport=Direct(swift.agents, alter=altered("open", forge, node=2)))
    assert swift.store.rounds_closed() == 2


def test_a_round_whose_sum_is_none_closes_without_update_and_the_study_goes_on(swift, monkeypatch):
    honest = Masking.pad
    liar = swift.sites[0]

    def pad(self, plan):
        told = honest(self, plan)
        return 0 * told if (self.site, plan.round) == (liar, 2) else told

    monkeypatch.setattr(Masking, "pad", pad)
    run(swift)
    first, second = closed_rounds(swift)
    assert len(first.receipts) == 3
    assert second.receipts == ()
    assert {one.code for one in second.refused} == {"sum-unsound"}


def test_one_opening_alone_is_not_believed_and_the_round_closes_without_update(swift, monkeypatch):
    monkeypatch.setattr(database, "GATHER_SECONDS", 3600.0)  # nothing is written for its age

    def only_first(kind, node, reply):
        return refusing(reply) if kind == "open" and node != 0 else reply

    transport = Direct(swift.agents, alter=only_first)
    run(swift, transport=transport)
    assert [len(closed.receipts) for closed in closed_rounds(swift)] == [0, 0]
    assert {one.code for one in closed_rounds(swift)[0].refused} == {"opening-missing"}
    asked = [site for kind, site, _ in transport.asked if kind == "open"]
    assert asked.count(swift.sites[1]) == 2 * Deadlines().attempts
    assert asked.count(swift.sites[0]) == 2  # its opening is kept


def test_a_statement_is_verified_once_in_a_study(study, monkeypatch):
    verified = []
    verify = engine_module.Gate._verify

    def counting(self, certificates, statements, known):
        fresh = verify(self, certificates, statements, known)
        verified.extend(fresh)
        return fresh

    monkeypatch.setattr(engine_module.Gate, "_verify", counting)
    run(study)
    assert len(verified) == len(set(verified)) == study.store.uploads.certificates() == 6


def test_a_withdrawal_between_rounds_leaves_the_patient_out_of_the_next(swift):
    swift.engine(after_close=lambda closed: swift.withdraw(before_round=closed.round + 1)).run()
    first, second = closed_rounds(swift)
    for before, after in zip(first.receipts, second.receipts, strict=True):
        assert after.proven_patients == before.proven_patients - 1
        assert after.consent_root != before.consent_root
        assert len(set(after.certificates) & set(before.certificates)) == 1


def test_a_site_that_lost_the_group_key_gets_it_again_before_the_round(swift):
    lost = swift.agents[swift.sites[2]].store
    with writing(lost._engine) as connection:
        connection.execute(GROUP_KEY.delete())
    transport = Direct(swift.agents)
    run(swift, transport=transport)
    taken = [site for kind, site, _ in transport.asked if kind == "take-key"]
    assert taken == [swift.sites[2]]
    assert len(swift.store.round(1).closed.receipts) == 3


def test_a_site_that_trains_still_answers_the_roll_call_of_a_server_begun_anew(study):
    agent = study.agents[study.sites[0]]
    asked = encode("join", {"terms": digest(study.terms), "nonce": "1" * 64})
    with agent._lock:  # as while it trains
        assert decode(agent.answer(asked)).kind == "joined"


def test_a_site_whose_clock_went_back_an_hour_is_refused_by_its_code_and_the_run_ends(swift):
    wrong = swift.sites[0]

    def set_back(closed):
        journal = swift.agents[wrong].budget._journal
        journal._clock = lambda: time.time() - 3600

    swift.engine(after_close=set_back).run()
    first, second = closed_rounds(swift)
    assert len(first.receipts) == 3
    refused = {one.site: one.code for one in second.refused}
    assert refused.pop(wrong) == "privacy-clock-backwards"
    assert set(refused.values()) == {"quorum-missing"}  # two of three are no quorum


def test_a_server_whose_clock_is_an_hour_ahead_ends_with_the_same_rounds(swift):
    engine = swift.engine()
    engine.store.events._now = lambda: datetime.now(UTC) + timedelta(hours=1)
    engine.run()
    assert [len(closed.receipts) for closed in closed_rounds(swift)] == [3, 3]
