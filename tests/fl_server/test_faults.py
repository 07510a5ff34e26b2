"""Whatever fails in whichever step: what was committed is kept, and the run ends."""

import contextlib
import os
import signal

import pytest

from fl_server import database
from fl_server.standing import summary
from privacy.journal import ClockBackwards
from protocol.errors import DiskFull
from protocol.frames import decode, encode
from tests.fl_server.cohort import values_of
from tests.fl_server.federation import Fault, Federation, Killed

pytestmark = pytest.mark.slow

STEPS = ("call", "train", "endorse", "unmask", "open")
WRITES = 40
"""More than a run of one round makes; ``test_a_run_makes_fewer_writes`` says when it does not."""


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path, rounds=1)


def refusing(reply):
    return encode("refused", {"code": "site-away", "reason": "the site is away"})


def full():
    raise DiskFull("server.db")


def hit(federation, fault):
    """Let a fault strike, then resume with hospitals begun anew; see that nothing is lost."""
    with contextlib.suppress(Killed, DiskFull):
        federation.run(fault=fault)
    before = federation.committed()
    federation.restart()
    transport = federation.transport()
    federation.run(transport)
    federation.check(before)
    _, number, uploads = before
    again = {
        site
        for kind, site, frame in transport.asked
        if kind == "train" and decode(frame).body["plan"]["round"] == number
    }
    assert not again & set(uploads), f"round {number}: stored uploads were asked for again"


# The server is killed


def test_a_run_makes_fewer_writes(federation):
    assert 10 < federation.run() < WRITES
    federation.check()


@pytest.mark.parametrize("at", [9])
def test_a_server_killed_between_writes_goes_on(federation, at):
    hit(federation, Fault(at=at))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, WRITES, 5))
def test_a_server_killed_before_or_after_every_fifth_write_goes_on(federation, at, after):
    hit(federation, Fault(at=at, after=after))


@pytest.mark.exhaustive
@pytest.mark.parametrize("opening", ["members", "threshold"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 2 * WRITES))
def test_a_server_killed_before_or_after_any_write_of_two_rounds_goes_on(
    tmp_path, at, after, opening
):
    hit(Federation(tmp_path, rounds=2, opening=opening), Fault(at=at, after=after))


@pytest.mark.parametrize("at", [4, 8, 12, 17])
def test_a_process_killed_with_signal_9_is_followed_by_another(federation, at, monkeypatch):
    monkeypatch.setattr(database, "GATHER_SECONDS", 0.0)  # as many writes on any machine
    child = os.fork()
    if child == 0:  # not a line of pytest's runs in it any more
        federation.restart()
        kill = Fault(at=at, after=True, strike=lambda: os.kill(os.getpid(), signal.SIGKILL))
        federation.run(fault=kill)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    before = federation.committed()
    store = federation.store()  # what the child settled it took with it; the rest is settled here
    federation.settled |= {n: one for n, one in before[0].items() if store.round(n).settled}
    federation.restart()
    federation.run()
    federation.check(before)


@pytest.mark.parametrize(("kind", "following"), [("endorse", "unmask"), ("unmask", "open")])
def test_answers_that_were_stored_are_not_asked_for_again(federation, kind, following):
    def stop(its_kind, _site, _frame):
        if its_kind == following:
            raise Killed(kind)

    with pytest.raises(Killed):
        federation.run(federation.transport(before=stop))
    transport = federation.transport(lost=lambda its_kind, _site: its_kind == kind)
    federation.run(transport)
    assert kind not in {its_kind for its_kind, _, _ in transport.asked}
    assert len(federation.check().round(1).closed.receipts) == 4


def test_openings_that_were_stored_are_not_asked_for_again(federation, monkeypatch):
    monkeypatch.setattr(database, "GATHER_SECONDS", 0.0)  # each by itself, as when they come late
    asked = []

    def stop(kind, site, _frame):
        asked.extend([site] if kind == "open" else [])
        if len(asked) == 3:
            raise Killed(kind)

    with pytest.raises(Killed):
        federation.run(federation.transport(before=stop))
    gone = set(asked[:2])
    transport = federation.transport(lost=lambda kind, site: kind == "open" and site in gone)
    federation.run(transport)
    assert not gone & {site for kind, site, _ in transport.asked if kind == "open"}
    assert len(federation.check().round(1).closed.receipts) == 4


# The disk is full


@pytest.mark.parametrize("at", [11])
def test_a_full_disk_ends_the_run_with_its_name_and_a_second_goes_on(federation, at):
    with pytest.raises(DiskFull):
        federation.run(fault=Fault(at=at, strike=full))
    before = federation.committed()
    federation.run()
    federation.check(before)


@pytest.mark.parametrize("at", range(2, WRITES, 6))
def test_a_full_disk_at_every_sixth_write_loses_nothing(federation, at):
    hit(federation, Fault(at=at, strike=full))


# Sites are gone, late, double or odd


@pytest.mark.parametrize(
    "kind",
    ["unmask", *(pytest.param(one, marks=pytest.mark.slow) for one in STEPS if one != "unmask")],
)
def test_a_site_that_is_silent_in_one_step_stops_nothing(federation, kind):
    gone = federation.sites[0]
    federation.run(
        federation.transport(lost=lambda its_kind, site: (its_kind, site) == (kind, gone))
    )
    closed = federation.check().round(1).closed
    in_sum = {receipt.site for receipt in closed.receipts}
    assert in_sum == set(federation.sites) - ({gone} if kind in {"call", "train"} else set())
    codes = {one.site: one.code for one in closed.refused}
    assert codes == ({gone: "no-answer"} if kind in {"call", "train"} else {})


@pytest.mark.parametrize("kind", ["train", "unmask", "open"])
def test_too_many_silent_sites_close_the_round_without_an_update(federation, kind):
    gone = federation.sites[:3]
    federation.run(
        federation.transport(lost=lambda its_kind, site: its_kind == kind and site in gone)
    )
    closed = federation.check().round(1).closed
    assert closed.receipts == ()
    codes = {one.code for one in closed.refused if one.site == federation.sites[3]}
    assert codes == {"opening-missing" if kind == "open" else "quorum-missing"}


@pytest.mark.parametrize("kind", STEPS[1:])
def test_an_answer_that_comes_late_is_named_and_changes_nothing(tmp_path, kind):
    federation = Federation(tmp_path, rounds=2)
    late = federation.sites[1]
    first = []

    def delayed(its_kind, site):
        if (its_kind, site) != (kind, late) or first:
            return False
        first.append(its_kind)
        return True

    federation.run(federation.transport(delayed=delayed))
    store = federation.check()
    (stray,) = store.answers.strays()
    assert (stray.round, stray.kind, stray.site, stray.code) == (1, kind, late, "late-answer")
    (event,) = [one for one in store.events.since() if one.kind == "late"]
    assert (event.round, event.site, event.code) == (1, late, "late-answer")
    assert late in {receipt.site for receipt in store.round(2).closed.receipts}


@pytest.mark.parametrize("kind", STEPS[1:])
def test_an_answer_that_comes_twice_counts_once(federation, kind):
    federation.run(
        federation.transport(
            twice=lambda its_kind, _site, reply: reply if its_kind == kind else None
        )
    )
    store = federation.check()
    assert len(store.round(1).closed.receipts) == 4
    assert store.answers.strays() == []


def test_other_bytes_under_the_same_key_are_refused_and_named(federation):
    odd = federation.sites[2]

    def other(kind, site, reply):
        if (kind, site) != ("train", odd):
            return None
        hospital = federation.cohort.hospitals[site]
        plan = federation.store().round(1).plan
        return hospital.contribution(plan, values_of(site, 99), 7)

    federation.run(federation.transport(twice=other))
    store = federation.check()
    (stray,) = store.answers.strays()
    assert (stray.site, stray.code) == (odd, "upload-conflict")
    assert odd in {receipt.site for receipt in store.round(1).closed.receipts}
    assert odd not in {one.site for one in store.round(1).closed.refused}


def test_a_site_that_comes_back_is_called_in_the_next_round(tmp_path):
    federation = Federation(tmp_path, rounds=2)
    away = federation.sites[0]
    transport = federation.transport(lost=lambda kind, site: site == away and kind == "join")
    asked = transport.asked

    def back(kind, site):
        second = any(k == "open" for k, _, _ in asked)
        return site == away and not second

    transport.lost = back
    federation.run(transport)
    store = federation.check()
    assert away not in {receipt.site for receipt in store.round(1).closed.receipts}
    assert away in {receipt.site for receipt in store.round(2).closed.receipts}


def test_a_site_whose_clock_went_back_is_refused_by_its_code_and_the_run_ends(federation):
    wrong = federation.sites[3]
    refused = ClockBackwards(3600)

    def alter(kind, site, reply):
        if (kind, site) != ("train", wrong):
            return reply
        return encode("refused", {"code": refused.code, "reason": "its clock went back"})

    federation.run(federation.transport(alter=alter))
    closed = federation.check().round(1).closed
    assert {one.site: one.code for one in closed.refused} == {wrong: "privacy-clock-backwards"}
    assert len(closed.receipts) == 3


# Readers


def test_a_reader_sees_every_phase_and_the_end(federation):
    federation.run()
    store = federation.store()
    phases = list(dict.fromkeys(one.phase for one in store.events.since() if one.kind == "phase"))
    assert phases == ["roster", "uploads", "unmasking", "opening", "closing", "scoring"]
    now = summary(store)
    assert (now.state, now.rounds_done, now.eta_seconds) == ("finished", 1, 0.0)
    uploads = [one for one in store.events.since() if one.phase == "uploads" and one.site]
    assert {one.site for one in uploads} == set(federation.sites)
    assert all(one.bytes > 1000 for one in uploads)


def test_a_second_server_is_refused_while_the_first_works(federation):
    from fl_server.lease import RunBusy

    seen = []

    def second(kind, _site, _frame):
        if kind == "endorse" and not seen:
            seen.append(kind)
            with pytest.raises(RunBusy):
                federation.engine(lease_seconds=3.0).run()

    federation.run(federation.transport(before=second))
    assert seen
    federation.check()
