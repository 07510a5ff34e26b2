"""Certificates are made ahead, one chunk at a time, and the newest choice's alone are kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.certifier import Certifier
from fl_client.coverage import select_checked
from fl_client.store import SiteStore
from tests.fl_client.lane_world import CHUNKS, NORTH, SLOTS, TERMS, HandProver, LaneWorld
from zk.prover import ProverFailed


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    """The choice at four epochs: at first everybody, then one after another of the first chunk."""
    world = LaneWorld(tmp_path_factory.mktemp("choices"))
    made = []
    for number in (None, 0, 1, 2):
        if number is not None:
            world.withdraw(number)
        made.append(
            select_checked(
                TERMS,
                NORTH,
                world.state().chunks,
                openings=world.openings,
                patients=world.records,
            )
        )
    yield made
    world.close()


@pytest.fixture
def prover():
    return HandProver()


@pytest.fixture
def store(tmp_path):
    return SiteStore(tmp_path / "site.db")


@pytest.fixture
def certifier(store, prover):
    return Certifier(TERMS, store, prover)


def kept(store, selections):
    return [
        store.consents.certificate(TERMS.study, one.chunk, one.digest) is not None
        for one in selections
    ]


def test_what_was_prepared_needs_no_proof_in_the_round(certifier, prover, store, choices):
    certifier.prepare(choices[0])
    prover.work()
    assert kept(store, choices[0]) == [True] * CHUNKS
    certification = certifier.begin(choices[0])
    assert len(certification.ready) == CHUNKS == len(prover.jobs)
    assert certification.proving == {}
    certificates = certifier.finish(certification)
    assert [one.public_inputs[2] for one in certificates] == [one.root for one in choices[0]]


def test_after_a_withdrawal_one_chunk_is_proved_again(certifier, prover, choices):
    certifier.prepare(choices[0])
    prover.work()
    certifier.prepare(choices[1])
    assert prover.in_work == 1
    prover.work()
    assert len(certifier.begin(choices[1]).ready) == CHUNKS


def test_a_round_takes_over_what_is_in_work(certifier, prover, choices):
    certifier.prepare(choices[0])
    certification = certifier.begin(choices[0])
    assert len(prover.jobs) == CHUNKS
    prover.work()
    assert len(certifier.finish(certification)) == CHUNKS


def test_of_a_chunk_one_proof_made_ahead_is_in_work(certifier, prover, store, choices):
    """A worker cannot be called off, so the next choice waits; of several the last counts."""
    certifier.prepare(choices[0][:1])
    assert prover.jobs[0].set_running_or_notify_cancel()
    certifier.prepare(choices[1][:1])
    certifier.prepare(choices[2][:1])
    certifier.prepare(choices[3][:1])
    assert len(prover.jobs) == 1
    prover.jobs[0].made()
    assert len(prover.jobs) == 2
    assert kept(store, choices[0][:1]) == [False]  # it came late
    prover.work()
    assert len(prover.jobs) == 2
    assert [kept(store, choice[:1]) for choice in choices] == [[False], [False], [False], [True]]


def test_a_choice_that_returns_while_it_is_proved_is_not_proved_twice(certifier, prover, choices):
    certifier.prepare(choices[0][:1])
    assert prover.jobs[0].set_running_or_notify_cancel()
    certifier.prepare(choices[1][:1])
    certifier.prepare(choices[0][:1])
    prover.jobs[0].made()
    assert len(prover.jobs) == 1


def test_a_proof_not_begun_is_called_off_for_a_newer_choice(certifier, prover, choices):
    certifier.prepare(choices[0][:1])
    certifier.prepare(choices[1][:1])
    assert prover.jobs[0].cancelled()
    assert prover.in_work == 1


def test_news_stops_no_proof_that_a_round_waits_for(certifier, prover, store, choices):
    certification = certifier.begin(choices[0], epoch=1)
    certifier.prepare(choices[1], epoch=2)
    certifier.close()
    prover.work()
    certificates = certifier.finish(certification)
    assert [one.public_inputs[2] for one in certificates] == [one.root for one in choices[0]]
    assert kept(store, choices[0]) == [False, True, True]


def test_a_round_of_an_older_epoch_leaves_the_newest_certificates_kept(
    certifier, prover, store, choices
):
    certifier.prepare(choices[1], epoch=2)
    prover.work()
    certification = certifier.begin(choices[0], epoch=1)
    prover.work()
    assert certifier.finish(certification)[0].public_inputs[2] == choices[0][0].root
    assert kept(store, choices[1]) == [True] * CHUNKS


def test_closing_stops_what_nobody_waits_for_and_begins_nothing_more(certifier, prover, choices):
    certifier.prepare(choices[0][:2])
    certifier.close()
    certifier.prepare(choices[0])
    assert [one.cancelled() for one in prover.jobs] == [True, True]


def test_the_chunk_with_most_patients_goes_first(certifier, prover, choices):
    certifier.prepare(choices[3])
    sizes = [len(choice.patients) for choice in choices[3]]
    assert sizes == [SLOTS - 3, SLOTS, SLOTS]
    prover.jobs[2].made()
    assert certifier.begin(choices[3]).ready.keys() == {choices[3][0].chunk}


def test_a_proof_that_fails_ahead_is_tried_again_by_the_round(certifier, prover, choices):
    certifier.prepare(choices[0][:1])
    prover.jobs[0].set_exception(ProverFailed("why"))
    certification = certifier.begin(choices[0][:1])
    assert len(prover.jobs) == 2
    prover.jobs[1].set_exception(ProverFailed("again"))
    with pytest.raises(ProverFailed, match="again"):
        certifier.finish(certification)


def test_a_prover_that_is_closed_under_a_round_is_named(certifier, prover, choices):
    certification = certifier.begin(choices[0][:1])
    prover.jobs[0].cancel()
    with pytest.raises(ProverFailed, match="closed"):
        certifier.finish(certification)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prepare"), st.integers(0, 3)),
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.tuples(st.just("start"), st.integers(0, 20)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_in_any_order_the_last_choice_is_the_one_that_is_kept(choices, steps):
    prover, store = HandProver(), SiteStore(":memory:")
    certifier = Certifier(TERMS, store, prover)
    last, waits = None, []
    for step, number in steps:
        pending = [one for one in prover.jobs if not one.done()]
        if step in {"prepare", "begin"}:
            last = choices[number]
            begun = getattr(certifier, step)(last)
            waits = waits if step == "prepare" else [begun]  # a round at a time
        elif pending:
            future = pending[number % len(pending)]
            if not future.running():
                future.set_running_or_notify_cancel()
            if step == "finish":
                future.made()
        ahead = [job for job in certifier._jobs.values() if not job.awaited]
        assert len({job.selection.chunk for job in ahead}) == len(ahead) <= CHUNKS
    for future in prover.jobs:
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.made()
    prover.work()
    for certification in waits:
        assert len(certifier.finish(certification)) == CHUNKS
    if last is not None:
        assert kept(store, last) == [True] * CHUNKS
