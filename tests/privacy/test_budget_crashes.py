"""Whatever stops between any two steps of several jobs, the cap holds and nothing counts twice.

A job reserves, trains, keeps its answer, commits and sends; or it cannot train and releases. Jobs
take turns in a random order, each as its own process would (its own ``PrivacyBudget``). A crash is
thrown at a random statement of a random call, before or after it, before or after the transaction,
and around the head's file; then the job starts again from what is on the disk.
"""

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa

from privacy import journal
from privacy.accounting import epsilon
from privacy.budget import BudgetExceeded, PrivacyBudget
from privacy.events import DpSgdEvent

pytestmark = pytest.mark.slow

CAP, DELTA = 4.0, 1e-5
EVENTS = [DpSgdEvent(1.0, 4.0, 4), DpSgdEvent(1.0, 3.0, 4), DpSgdEvent(1.0, 8.0, 4)]
JOBS, ROUNDS = 3, 2
SHARED_MEMORY = Path("/dev/shm")
FAST, SLOW = 200, 10_000


class Crash(Exception):
    """The process is gone; nothing in the code under test catches this."""


class Fuse:
    """Burns down by one at every step of the ledger, and crashes at zero."""

    left = None

    def burn(self, *_):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Crash


FUSE = Fuse()


def opened(path):
    budget = PrivacyBudget(path, dataset="scans", epsilon_limit=CAP, delta=DELTA, accountant="rdp")
    engine = budget._journal._engine
    for moment in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(engine, moment, FUSE.burn)
    return budget


@pytest.fixture(scope="module", autouse=True)
def fused_head():
    whole = journal.write_whole

    def fused(*arguments, **options):
        FUSE.burn()
        whole(*arguments, **options)
        FUSE.burn()

    journal.write_whole = fused
    yield
    journal.write_whole = whole


class Job:
    """One study at one hospital. ``answered`` is on its disk; everything else dies with it."""

    def __init__(self, path, name, chance):
        self.path, self.name, self.chance = path, name, chance
        self.number, self.answered, self.over = 1, False, False
        self.sent = {}
        self.budget = None

    def steps(self):
        """Do one round step by step, from what is on the disk."""
        if not self.answered:
            event = EVENTS[(self.number + len(self.name)) % len(EVENTS)]
            try:
                self.budget.reserve(self.name, self.number, event)
            except BudgetExceeded:
                held = self.budget.events()
                assert epsilon([*held, event], DELTA, "rdp") > CAP, "refused what fits"
                self.over = True
                return
            yield
            if self.chance.random() < 0.3:  # the records could not be read
                self.budget.release(self.name, self.number)
                self.over = True
                return
            self.answered = True
            yield
        self.budget.commit(self.name, self.number)
        yield
        key = self.name, self.number
        [held] = [one for one in self.budget.history() if (one.study, one.round) == key]
        assert held.state == "committed"
        self.sent[key] = held.event
        self.answered = False
        self.number += 1
        self.over = self.number > ROUNDS

    def start(self):
        self.budget = opened(self.path) if self.budget is None else self.budget
        self.going = self.steps()

    def turn(self):
        """Take one step, or die in it and lose everything that is not on the disk."""
        FUSE.left = self.chance.randrange(12) if self.chance.random() < 0.15 else None
        try:
            if next(self.going, "round over") == "round over" and not self.over:
                self.start()
        except Crash:
            self.budget._journal._engine.dispose()
            self.budget = None
        finally:
            FUSE.left = None
        if self.budget is None and not self.over:
            self.start()


def interleave(seed, folder):
    chance = random.Random(seed)
    path = folder / f"{seed}.db"
    jobs = [Job(path, name, chance) for name in ("a", "bb", "ccc")[:JOBS]]
    for job in jobs:
        job.start()
    while going := [job for job in jobs if not job.over]:
        chance.choice(going).turn()
        sent = {key: event for job in jobs for key, event in job.sent.items()}
        assert epsilon(list(sent.values()), DELTA, "rdp") <= CAP + 1e-9
    for job in jobs:
        if job.budget is not None:
            job.budget._journal._engine.dispose()
    found = opened(path)
    assert found.spent() <= CAP + 1e-9
    assert {(one.study, one.round): one.event for one in found.history()} == sent
    found._journal._engine.dispose()
    for left_over in folder.iterdir():
        left_over.unlink()
    return len(sent)


def interleave_many(seeds):
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        return [interleave(seed, Path(folder)) for seed in seeds]


def test_hundreds_of_interleavings_with_crashes_keep_the_cap_and_lose_nothing_twice():
    sent = interleave_many(range(FAST))
    assert len(set(sent)) > 1, "the interleavings differ"


@pytest.mark.exhaustive  # five minutes of a processor; hundreds are in every run
def test_ten_thousand_interleavings_with_crashes_keep_the_cap_and_lose_nothing_twice():
    parts = [range(start, start + SLOW // 50) for start in range(0, SLOW, SLOW // 50)]
    with multiprocessing.get_context("fork").Pool() as processes:
        sent = list(itertools.chain.from_iterable(processes.imap_unordered(interleave_many, parts)))
    assert len(sent) == SLOW
    assert len(set(sent)) > 3, "the interleavings differ"


def work(path, name, sent):
    """Reserve, commit and send rounds for as long as it lives; a line is sent once it is there."""
    budget = PrivacyBudget(path, dataset="scans", epsilon_limit=CAP, delta=DELTA, accountant="rdp")
    held = {(one.study, one.round): one.state for one in budget.history()}
    with os.fdopen(os.open(sent, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb", 0) as out:
        for number in itertools.count(1):
            if held.get((name, number)) == "committed":
                continue
            try:
                budget.reserve(name, number, DpSgdEvent(1.0, 40.0, 1))
                if number % 3 == 0:
                    budget.release(name, number)
                    continue
            except BudgetExceeded:
                return
            budget.commit(name, number)
            out.write(f"{name} {number}\n".encode())


def kill_and_check(folder, kills):
    chance = random.Random(7)
    path, sent = folder / "budget.db", folder / "sent"
    context = multiprocessing.get_context("fork")
    work_for = [context.Process(target=work, args=(path, name, sent)) for name in "ab"]
    for _ in range(kills):
        for one in work_for:
            one.start()
        time.sleep(0.05 + 0.15 * chance.random())
        for one in work_for:
            os.kill(one.pid, signal.SIGKILL)
            one.join(20)
        work_for = [context.Process(target=work, args=(path, name, sent)) for name in "ab"]
        budget = PrivacyBudget(
            path, dataset="scans", epsilon_limit=CAP, delta=DELTA, accountant="rdp"
        )
        held = {f"{one.study} {one.round}" for one in budget.history()}
        told = sent.read_text().split("\n")[:-1] if sent.exists() else []
        assert set(told) <= held, "what left is in the ledger"
        assert len(told) == len(set(told)), "nothing left twice"
        assert budget.spent() <= CAP + 1e-9
    return budget, told


def test_killed_processes_leave_a_ledger_that_holds_what_they_sent(tmp_path):
    budget, told = kill_and_check(tmp_path, 4)
    assert told
    assert len(budget.history()) - len(told) <= 2 * 4, "one open reservation a kill, and no more"


def test_many_killed_processes_leave_a_ledger_that_holds_what_they_sent(tmp_path):
    kill_and_check(tmp_path, 25)
