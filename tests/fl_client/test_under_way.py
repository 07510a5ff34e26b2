"""A round is under way while it trains, then until its sum is open or its server's time is over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client.under_way import STEP, UPLOADS, UPLOADS_MAX, UnderWay, _uploads
from tests.fl_client.job_world import Clock

ROUND = ("lesions", 3)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def answered():
    """The rounds with an update whose sum is not open."""
    return []


@pytest.fixture
def rounds(tmp_path, clock, answered):
    return UnderWay(tmp_path / "site.db", answered=lambda: list(answered), clock=clock)


@pytest.fixture
def sent(rounds, answered):
    """An update of round 3, whose server waits for uploads for two minutes."""
    with rounds.training(*ROUND, 120):
        answered.append(ROUND)
    return rounds


def test_a_round_is_under_way_however_long_it_trains(rounds, clock):
    with rounds.training(*ROUND, 1):
        clock.pass_(days=3)
        assert rounds.rounds() == [ROUND]
    assert rounds.rounds() == []


def test_a_round_whose_server_is_gone_ends_when_the_server_would_have_given_it_up(sent, clock):
    clock.pass_(seconds=120 + STEP.total_seconds() - 1)
    assert sent.rounds() == [ROUND]
    clock.pass_(seconds=1)
    assert sent.rounds() == []


def test_each_later_frame_of_the_round_gives_its_server_another_step(sent, clock):
    for _ in range(5):
        clock.pass_(minutes=9)
        sent.heard(*ROUND)
        assert sent.rounds() == [ROUND]
    clock.pass_(minutes=10)
    assert sent.rounds() == []


def test_a_round_whose_sum_is_open_is_over_at_once(sent, answered):
    answered.clear()
    assert sent.rounds() == []


def test_another_round_of_the_study_ends_the_one_before(sent):
    with sent.training("lesions", 4, 120):
        assert sent.rounds() == [("lesions", 4)]
    with sent.training("nodules", 1, 120):
        assert sent.rounds() == [("nodules", 1)]


def test_a_restart_ends_no_round_early_and_brings_none_back(tmp_path, sent, clock, answered):
    again = UnderWay(tmp_path / "site.db", answered=lambda: list(answered), clock=clock)
    assert again.rounds() == [ROUND]
    clock.pass_(seconds=120 + STEP.total_seconds())
    assert again.rounds() == []


def test_a_round_of_which_no_time_is_known_is_not_waited_for(rounds, answered):
    answered.append(("older", 9))
    assert rounds.rounds() == []


@given(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.booleans(), st.lists(st.none()))
)
def test_whatever_a_server_says_is_a_time_within_bounds(said):
    assert _uploads(said).total_seconds() > 0
    assert _uploads(said) <= UPLOADS_MAX
    if not isinstance(said, int) or isinstance(said, bool) or said <= 0:
        assert _uploads(said) == UPLOADS
