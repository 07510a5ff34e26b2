"""Each step of the outbox starts from the state it names, or is refused and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.chain.outbox import LIVE, Attempt, Intent, Outbox, OutboxConflict
from ledger.store import open_tables
from storage.database import open_database
from tests.ledger.chain.world import NOW


@pytest.fixture
def outbox(path):
    engine = open_tables(path)
    yield Outbox(engine)
    engine.dispose()


def attempt(intent, nonce, fee=1):
    name = f"{intent} {nonce} {fee}".encode()
    return Attempt(name, intent, nonce, b"raw", 21_000, fee, 1)


def test_an_intent_goes_its_way(outbox):
    outbox.plan([Intent("a", 1, None, b"x"), Intent("b", 1, b"t" * 20, b"y")], now=NOW)
    outbox.plan([Intent("a", 9, None, b"other")], now=NOW)
    first = attempt("a", 0)
    assert [one.state for one in outbox.intents()] == ["planned", "planned"]
    for step, state in (
        (lambda: outbox.sign(first, now=NOW), "signed"),
        (lambda: outbox.sent(first, 5), "broadcast"),
        (lambda: outbox.mined(first, 6, b"h"), "mined"),
        (lambda: outbox.unmined(first), "broadcast"),
        (lambda: outbox.mined(first, 7, b"i"), "mined"),
        (lambda: outbox.final(first), "final"),
    ):
        step()
        assert outbox.intent("a").state == state
        assert outbox.attempts("a")[0].state == state
    assert [one.intent for one in outbox.undone()] == ["b"]
    assert outbox.intent("a").data == b"x"


def test_a_dearer_attempt_has_the_same_nonce(outbox):
    outbox.plan([Intent("a", 1, None, b"x")], now=NOW)
    outbox.sign(attempt("a", 0), now=NOW)
    with pytest.raises(OutboxConflict):
        outbox.sign(attempt("a", 1), now=NOW)
    dearer = attempt("a", 0, fee=2)
    outbox.sign(dearer, now=NOW)
    outbox.sent(dearer, 1)
    outbox.mined(dearer, 2, b"h")
    outbox.final(dearer)
    assert [one.state for one in outbox.attempts()] == ["replaced", "final"]


def test_a_nonce_is_one_intents(outbox):
    outbox.plan([Intent("a", 1, None, b"x"), Intent("b", 1, None, b"y")], now=NOW)
    outbox.sign(attempt("a", 0), now=NOW)
    with pytest.raises(OutboxConflict):
        outbox.sign(attempt("b", 0), now=NOW)
    outbox.again("a")
    outbox.sign(attempt("b", 0), now=NOW)


def test_a_step_from_another_state_changes_nothing(outbox):
    outbox.plan([Intent("a", 1, None, b"x")], now=NOW)
    first = attempt("a", 0)
    outbox.sign(first, now=NOW)
    for step in (
        lambda: outbox.final(first),
        lambda: outbox.unmined(first),
        lambda: outbox.failed(first, "reverted"),
        lambda: outbox.sent(replace(first, hash=b"unknown"), 1),
    ):
        with pytest.raises(OutboxConflict):
            step()
        assert (outbox.intent("a").state, outbox.attempts()[0].state) == ("signed", "signed")


class Steps(RuleBasedStateMachine):
    """Any step at any time: what is refused changes nothing, and nonces stay apart."""

    @initialize()
    def start(self):
        self.outbox = Outbox(open_database(":memory:", _tables()))
        self.outbox.plan([Intent(name, 1, None, b"x") for name in "abc"], now=NOW)
        self.ended = {}

    @rule(intent=st.sampled_from("abc"), nonce=st.integers(0, 3), fee=st.integers(1, 3))
    def sign(self, intent, nonce, fee):
        if attempt(intent, nonce, fee).hash not in {one.hash for one in self.outbox.attempts()}:
            self.take(lambda: self.outbox.sign(attempt(intent, nonce, fee), now=NOW))

    @rule(step=st.sampled_from(["sent", "mined", "unmined", "final", "failed"]), data=st.data())
    def step(self, step, data):
        attempts = self.outbox.attempts()
        if attempts:
            one = data.draw(st.sampled_from(attempts))
            more = {"sent": [1], "mined": [1, b"h"], "failed": ["reverted"]}.get(step, [])
            self.take(lambda: getattr(self.outbox, step)(one, *more))

    @rule(step=st.sampled_from(["done", "again"]), intent=st.sampled_from("abc"))
    def end(self, step, intent):
        more = ["shown"] if step == "done" else []
        self.take(lambda: getattr(self.outbox, step)(intent, *more))

    def take(self, step):
        before = self.outbox.intents(), self.outbox.attempts()
        try:
            step()
        except OutboxConflict:
            assert before == (self.outbox.intents(), self.outbox.attempts())

    @invariant()
    def nonces_are_apart_and_the_final_stays(self):
        owners = {}
        for one in self.outbox.attempts():
            if one.state in LIVE:
                assert owners.setdefault(one.nonce, one.intent) == one.intent
        for one in self.outbox.intents():
            assert self.ended.get(one.intent, one.state) == one.state
            if one.state == "final":
                self.ended[one.intent] = "final"


def _tables():
    from ledger.chain.outbox import METADATA

    return METADATA


Steps.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSteps = Steps.TestCase
