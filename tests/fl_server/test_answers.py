"""What sites answered is stored as it came, and what does not count by its hash alone."""

import pytest

from fl_server.phases import Wait
from fl_server.store import ServerStore
from protocol.frames import Frame
from tests.fl_server.records import SITES, closing, model, planned, terms

ANSWER = Frame("endorsement", {"nonce": "1"}, {"reveals": bytes(range(200))})
LARGE = Frame("opening", {"weight": 5}, {"integers": bytes(300_000)})


@pytest.fixture
def source(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def answers(source):
    made = ServerStore(source)
    made.found(terms(), model())
    made.plan(planned())
    return made.answers


def kept(source, kind, question):
    return dict(ServerStore(source).answers.kept(1, kind, question))


def end(answers, kind, question):
    answers.end(1, kind, question, Wait(1.0), 3)


def test_a_stored_answer_is_found_again_under_its_own_question_only(answers, source):
    answers.keep(1, "endorse", "q", SITES[0], ANSWER)
    answers.keep(1, "open", "q", SITES[1], LARGE)
    assert kept(source, "endorse", "q") == {SITES[0]: ANSWER}  # with the large one, or before it
    assert kept(source, "open", "q") == {SITES[1]: LARGE}
    assert kept(source, "open", "other") == {}


def test_a_small_answer_is_stored_before_the_next_step_begins(answers, source):
    answers.keep(1, "endorse", "q", SITES[0], ANSWER)
    end(answers, "endorse", "q")
    assert kept(source, "endorse", "q") == {SITES[0]: ANSWER}


def test_a_small_answer_waits_for_company_a_moment_at_most(answers, source, monkeypatch):
    monkeypatch.setattr("fl_server.database.GATHER_SECONDS", 0.0)
    answers.keep(1, "endorse", "q", SITES[0], ANSWER)
    assert kept(source, "endorse", "q") == {SITES[0]: ANSWER}


def test_a_step_that_has_ended_stays_ended(answers, source):
    end(answers, "endorse", "q")
    again = ServerStore(source).answers
    assert again.ended(1, "endorse", "q")
    assert not again.ended(1, "endorse", "other")
    assert not again.ended(1, "unmask", "q")


def test_forgotten_answers_are_asked_for_again(answers, source):
    answers.keep(1, "open", "q", SITES[0], LARGE)
    answers.keep(1, "open", "q again", SITES[1], LARGE)
    end(answers, "open", "q")
    answers.forget(1, "open")
    assert kept(source, "open", "q") == kept(source, "open", "q again") == {}
    assert not ServerStore(source).answers.ended(1, "open", "q")


def test_a_stray_is_kept_once_by_hash_and_size(answers, source):
    for content in (b"late", b"late", b"later"):
        answers.stray(1, "train", SITES[0], "late-answer", content)
    found = ServerStore(source).answers.strays()
    assert [(one.site, one.code, one.bytes) for one in found] == [
        (SITES[0], "late-answer", 4),
        (SITES[0], "late-answer", 5),
    ]
    assert all(len(one.sha256) == 64 for one in found)


def test_a_closed_rounds_answers_are_gone_but_how_its_steps_ended_stays(answers, source):
    answers.keep(1, "open", "q", SITES[0], LARGE)
    end(answers, "open", "q")
    store = ServerStore(source)
    store.close(closing(1), model(1))
    assert store.blob(1, "open q", SITES[0]) == b""
    assert store.answers.ended(1, "open", "q")
