"""A hospital is known by what it signs, and whatever a node does wrong is a refusal."""

import secrets
import time

import pytest

from fl_server import sites as sites_module
from fl_server.sites import Sites, TooFewSites, refusal_of
from protocol.canonical import MalformedMessage, body, digest, read
from protocol.frames import Frame, decode, encode
from protocol.messages import Join
from protocol.terms import StudyTerms
from tests.fl_server.cohort import Cohort, Direct


def asking(cohort, transport=None):
    """Return the cohort's hospitals as a server sees them that has yet to call the roll."""
    steps = []
    return Sites(cohort.terms, transport or cohort.transport, steps.append), steps


def altered(cohort, site, change):
    def alter(kind, its_site, reply):
        return change(reply) if (kind, its_site) == ("join", site) else reply

    cohort.transport.alter = alter


def joined(cohort, who, /, *, signer=None, **changes):
    """Return a change of an answer to the roll call: other fields, signed by a site."""
    keys = cohort.hospitals[signer or who].keys

    def change(reply):
        join = read(Join, decode(reply).body).model_copy(update=changes)
        return encode("joined", body(join.signed_by(keys.sign)))

    return change


@pytest.fixture
def cohort():
    return Cohort.meet(4)


def test_the_roll_call_finds_each_site_and_the_key_it_holds(cohort):
    found, steps = asking(cohort)
    assert found.roll_call(1.0) == dict.fromkeys(cohort.sites, "")
    assert found.nodes == {site: node for node, site in enumerate(cohort.sites)}
    assert [step.site for step in steps] == list(cohort.sites)
    key_id, _ = cohort.keeper.ensure(1, cohort.sites)
    assert asking(cohort)[0].roll_call(1.0) == dict.fromkeys(cohort.sites, key_id)


def test_a_node_that_is_not_up_yet_is_asked_again(cohort, monkeypatch):
    monkeypatch.setattr(sites_module, "AGAIN_SECONDS", 0.0)
    late = []

    def lost(_kind, site):
        late.append(site)
        return site == cohort.sites[0] and late.count(site) < 3

    cohort.transport.lost = lost
    found, _ = asking(cohort)
    assert set(found.roll_call(5.0)) == set(cohort.sites)
    assert late.count(cohort.sites[0]) == 3
    assert late.count(cohort.sites[1]) == 1


def test_a_node_that_said_nothing_is_not_pressed(cohort):
    cohort.transport.lost = lambda _kind, site: site == cohort.sites[0]
    found, _ = asking(cohort)
    before = len(cohort.transport.asked)
    assert set(found.roll_call(0.3)) == set(cohort.sites[1:])
    assert len(cohort.transport.asked) - before == 4


def test_too_few_sites_end_the_roll_call(cohort):
    cohort.transport.lost = lambda _kind, site: site in cohort.sites[:2]
    with pytest.raises(TooFewSites, match="2 sites answered and the study needs 3"):
        asking(cohort)[0].roll_call(0.2)


def test_the_roll_call_waits_longer_for_as_many_as_the_study_needs_than_for_all(
    cohort, monkeypatch
):
    monkeypatch.setattr(sites_module, "AGAIN_SECONDS", 0.0)
    began = time.monotonic()

    def slow(_kind, site):
        late = {cohort.sites[0]: 0.4, cohort.sites[1]: 3600.0}.get(site, 0.0)
        return time.monotonic() - began < late

    cohort.transport.lost = slow
    found, _ = asking(cohort)
    assert set(found.roll_call(0.1, 60.0)) == set(cohort.sites) - {cohort.sites[1]}
    assert 0.4 < time.monotonic() - began < 30.0


@pytest.mark.parametrize(
    "change",
    [
        lambda _reply: None,
        lambda _reply: b"noise",
        lambda _reply: encode("joined", {}),
        lambda _reply: encode("refused", {"code": "plan-refused", "reason": "no"}),
        lambda reply: encode("joined", {**decode(reply).body, "signature": "00" * 64}),
    ],
)
def test_a_node_that_does_not_say_who_it_is_is_no_site(cohort, change):
    altered(cohort, cohort.sites[0], change)
    assert set(asking(cohort)[0].roll_call(0.2)) == set(cohort.sites[1:])


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "0" * 64},
        {"terms": "0" * 64},
        {"site": "stranger"},
        {"site": "site-01"},
    ],
)
def test_an_answer_for_another_call_study_or_site_is_no_answer(cohort, changes):
    altered(cohort, "site-00", joined(cohort, "site-00", **changes))
    found, _ = asking(cohort)
    assert set(found.roll_call(0.2)) == set(cohort.sites[1:])
    assert found.nodes["site-01"] == 1


def test_a_hospital_that_signs_in_the_name_of_another_is_no_site(cohort):
    altered(cohort, "site-00", joined(cohort, "site-00", signer="site-01"))
    assert set(asking(cohort)[0].roll_call(0.2)) == set(cohort.sites[1:])


def test_every_roll_call_has_a_nonce_of_its_own(cohort, monkeypatch):
    drawn = []
    honest = secrets.token_hex

    def token_hex(size):
        drawn.append(honest(size))
        return drawn[-1]

    monkeypatch.setattr(sites_module.secrets, "token_hex", token_hex)
    for _ in range(3):
        asking(cohort)[0].roll_call(1.0)
    assert len(set(drawn)) == len(drawn) == 3
    assert all(len(nonce) == 64 for nonce in drawn)


def test_replies_come_with_the_name_of_their_site(cohort):
    frame = encode("join", {"terms": digest(cohort.terms), "nonce": "1" * 64})
    requests = dict.fromkeys(cohort.sites[1:3], frame)
    replies = dict(cohort.asking.ask("join", requests, "test", 1.0))
    assert set(replies) == set(cohort.sites[1:3])
    assert all(reply.body["site"] == site for site, reply in replies.items())


def test_a_site_that_is_silent_or_not_connected_is_not_waited_for(cohort):
    cohort.transport.lost = lambda _kind, site: site == cohort.sites[1]
    del cohort.asking.nodes[cohort.sites[2]]
    frame = encode("join", {"terms": "", "nonce": "1" * 64})
    replies = dict(cohort.asking.ask("join", dict.fromkeys(cohort.sites, frame), "test", 1.0))
    assert set(replies) == {cohort.sites[0], cohort.sites[3]}


def test_nobody_is_asked_where_there_is_nothing_to_ask(cohort):
    class Untouchable(Direct):
        def exchange(self, *_, **__):
            raise AssertionError

    found, _ = asking(cohort, Untouchable(cohort.hospitals))
    assert list(found.ask("join", {}, "test", 1.0)) == []
    assert list(found.ask("join", {cohort.sites[0]: b""}, "test", 1.0)) == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [(None, "site-failed"), (b"", "malformed-frame"), (b"noise", "malformed-frame")],
)
def test_a_failed_process_or_noise_is_a_refusal(cohort, reply, code):
    cohort.transport.alter = lambda _kind, _site, _reply: reply
    frame = encode("join", {"terms": "", "nonce": "1" * 64})
    ((_, answer),) = cohort.asking.ask("join", {cohort.sites[0]: frame}, "test", 1.0)
    assert answer.kind == "refused"
    assert refusal_of(answer)[0] == code


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"code": "budget-spent", "reason": "no more"}, ("budget-spent", "no more")),
        ({"code": "a\x1bb", "reason": "no\nmore \x1b[2J"}, ("a?b", "no?more ?[2J")),
        ({"code": 1, "reason": "no more"}, None),
        ({"code": "budget-spent"}, None),
        ({}, None),
    ],
)
def test_a_refusal_says_its_code_and_reason_or_is_malformed(facts, expected):
    malformed = ("malformed-message", "the site sent a 'joined' where something else was due")
    assert refusal_of(Frame("joined", facts)) == (expected or malformed)


@pytest.mark.parametrize("shared", ["site", "signing_key", "agreement_key"])
def test_two_hospitals_of_a_study_share_no_name_and_no_key(shared):
    terms = Cohort.meet(3).terms
    first, second, third = terms.sites
    twin = second.model_copy(update={shared: getattr(first, shared)})
    with pytest.raises(MalformedMessage, match="share"):
        read(StudyTerms, body(terms.model_copy(update={"sites": (first, twin, third)})))


def test_a_study_needs_no_more_hospitals_than_it_names():
    terms = Cohort.meet(3).terms
    with pytest.raises(MalformedMessage, match="than it names"):
        read(StudyTerms, body(terms.model_copy(update={"sites_min": 4})))
