"""The epsilon limit holds under every order of calls, crash, race and damaged file."""

import math
import multiprocessing
import stat
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from privacy.accounting import UnitsMixed, epsilon
from privacy.budget import (
    BudgetConflict,
    BudgetExceeded,
    BudgetUnreadable,
    DatasetUnknown,
    NotReserved,
    PrivacyBudget,
)
from privacy.events import DpSgdEvent, ImpossibleEvent, SiteLevelEvent
from privacy.journal import Journal
from privacy.ledger_view import datasets
from protocol.errors import DiskFull, StorageFailed

LIMIT, DELTA = 8.0, 1e-5
ROUND = DpSgdEvent(1.0, 4.0, 4)
ROUNDS_THAT_FIT = 9
LARGE = DpSgdEvent(1.0, 1.0, 8)  # costs more than the limit alone


def opened(path, *, limit=LIMIT, dataset="scans", delta=DELTA):
    return PrivacyBudget(path, dataset=dataset, epsilon_limit=limit, delta=delta, accountant="rdp")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget.db"


class Interleavings(RuleBasedStateMachine):
    """Any order of reserving, committing, releasing and dying, on one file."""

    rounds = st.integers(1, 8)
    events = st.sampled_from([ROUND, LARGE, DpSgdEvent(1.0, 3.0, 4), DpSgdEvent(1.0, 8.0, 4)])

    @initialize()
    def create(self):
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "budget.db"
        self.budget = opened(self.path)
        self.ran = {}  # what may have left the hospital, as an outside observer knows it
        self.held = {}

    @rule(number=rounds, event=events)
    def reserve_and_train(self, number, event):
        try:
            self.budget.reserve("study", number, event)
        except BudgetExceeded:
            costs = [e for n, e in self.held.items() if n != number]
            assert epsilon([*costs, event], DELTA, "rdp") > LIMIT
            return
        except BudgetConflict:
            assert self.held[number] != event
            return
        self.held[number] = self.ran[number] = event

    @rule(number=rounds)
    def commit(self, number):
        if number in self.held:
            self.budget.commit("study", number)
        else:
            with pytest.raises(NotReserved):
                self.budget.commit("study", number)

    @rule(number=rounds, event=events)
    def reserve_and_release_before_anything_left(self, number, event):
        if number in self.held:
            return
        try:
            self.budget.reserve("study", number, event)
        except BudgetExceeded:
            return
        self.budget.release("study", number)

    @rule()
    def die_and_start_again(self):
        self.budget = opened(self.path)

    @invariant()
    def the_limit_is_never_passed(self):
        if hasattr(self, "ran"):
            assert epsilon(list(self.ran.values()), DELTA, "rdp") <= LIMIT + 1e-9
            assert self.budget.spent() <= LIMIT + 1e-9

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def reserve_many(path, study, results):
    budget = opened(path)
    for number in range(1, ROUNDS_THAT_FIT + 1):
        try:
            budget.reserve(study, number, ROUND)
            results.put((study, number))
        except BudgetExceeded:
            return


def test_processes_that_race_do_not_pass_the_limit_together(path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racers = [context.Process(target=reserve_many, args=(path, name, results)) for name in "abc"]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert all(racer.exitcode == 0 for racer in racers)
    granted = [results.get(timeout=120) for _ in range(len(opened(path).events()))]
    assert len(set(granted)) == ROUNDS_THAT_FIT
    assert opened(path).spent() <= LIMIT
    with pytest.raises(BudgetExceeded):
        opened(path).reserve("d", 1, ROUND)


def test_the_same_request_is_answered_twice_and_counted_once(path):
    budget = opened(path)
    first = budget.reserve("study", 1, ROUND)
    assert budget.reserve("study", 1, ROUND) == first
    budget.commit("study", 1)
    budget.commit("study", 1)
    assert budget.reserve("study", 1, ROUND).state == "committed"
    assert budget.events() == [ROUND]


def test_another_event_for_a_held_round_is_refused(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    with pytest.raises(BudgetConflict):
        budget.reserve("study", 1, DpSgdEvent(1.0, 4.0, 5))


def test_another_plan_for_a_held_round_is_refused(path):
    """Two studies of one name, or a round planned twice, do not spend one reservation twice."""
    budget = opened(path)
    first = budget.reserve("study", 1, ROUND, plan="a" * 64)
    assert budget.reserve("study", 1, ROUND, plan="a" * 64) == first
    for other in ("b" * 64, ""):
        with pytest.raises(BudgetConflict):
            opened(path).reserve("study", 1, ROUND, plan=other)
    budget.commit("study", 1)
    with pytest.raises(BudgetConflict):
        budget.reserve("study", 1, ROUND, plan="b" * 64)
    assert budget.events() == [ROUND]


def test_a_reservation_is_released_for_its_own_plan_alone(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND, plan="a" * 64)
    with pytest.raises(NotReserved, match="another plan"):
        budget.release("study", 1, plan="b" * 64)
    assert budget.events() == [ROUND]
    budget.release("study", 1, plan="a" * 64)
    assert budget.events() == []


def test_a_journal_of_an_earlier_version_names_no_plans_and_still_counts(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    budget.reserve("study", 2, ROUND, plan="a" * 64)
    budget.commit("study", 1)
    with Journal(path, time.time).read() as pages:
        bodies = [one.body for one in pages.entries if one.kind == "reserve"]
    assert ["plan" in body for body in bodies] == [False, True]  # as it was, byte for byte
    again = opened(path)
    assert [one.plan for one in again.history()] == ["", "a" * 64]
    with pytest.raises(BudgetConflict):
        again.reserve("study", 1, ROUND, plan="a" * 64)


def test_a_round_that_does_not_fit_is_refused_and_leaves_no_trace(path):
    budget = opened(path)
    with pytest.raises(BudgetExceeded) as refusal:
        budget.reserve("study", 1, LARGE)
    assert refusal.value.would_be > LIMIT
    assert budget.events() == []
    assert budget.left() == LIMIT


def test_all_studies_share_one_limit_and_data_sets_do_not(path):
    budget = opened(path)
    for number in range(1, ROUNDS_THAT_FIT + 1):
        budget.reserve(f"study-{number}", 1, ROUND)
    with pytest.raises(BudgetExceeded):
        budget.reserve("study-10", 1, ROUND)
    opened(path, dataset="tables").reserve("study-10", 1, ROUND)


def test_a_committed_round_is_never_given_back(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    budget.commit("study", 1)
    with pytest.raises(NotReserved):
        budget.release("study", 1)
    assert budget.events() == [ROUND]


def test_releasing_what_was_never_reserved_is_refused(path):
    with pytest.raises(NotReserved):
        opened(path).release("study", 1)


def test_a_released_round_can_be_reserved_again(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    budget.release("study", 1)
    assert budget.spent() == 0.0
    budget.reserve("study", 1, DpSgdEvent(1.0, 3.0, 4))


def test_a_study_cannot_change_the_stewards_cap(path):
    opened(path)
    assert opened(path, limit=100.0).limit() == LIMIT
    assert opened(path, limit=2.0).limit() == LIMIT


def test_a_study_has_its_own_limit_beside_the_cap(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND, study_limit=3.0)
    with pytest.raises(BudgetExceeded, match="study study") as refusal:
        budget.reserve("study", 2, DpSgdEvent(1.0, 2.0, 4), study_limit=3.0)
    assert refusal.value.limit == 3.0
    budget.reserve("other", 1, DpSgdEvent(1.0, 4.0, 2), study_limit=3.0)


def test_who_asked_is_recorded_and_part_of_the_request(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND, researcher="radiology")
    assert [one.researcher for one in budget.history()] == ["radiology"]
    with pytest.raises(BudgetConflict):
        budget.reserve("study", 1, ROUND, researcher="surgery")


def test_all_researchers_share_one_cap(path):
    budget = opened(path)
    for number in range(1, ROUNDS_THAT_FIT + 1):
        budget.reserve(f"study-{number}", 1, ROUND, researcher=f"researcher {number}")
    with pytest.raises(BudgetExceeded):
        budget.reserve("study-10", 1, ROUND, researcher="another")


def test_an_event_about_sites_is_refused_and_stated_for_patients_is_not(path):
    budget = opened(path)
    with pytest.raises(UnitsMixed):
        budget.reserve("study", 1, SiteLevelEvent(8.0, 1))
    budget.reserve("study", 1, SiteLevelEvent(8.0, 1).for_patients())


def test_what_the_ledger_says_names_delta_unit_sampling_and_accountant(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    assert budget.statement().terms() == (
        "delta 1e-05, unit: patient, sampling: none, accountant: RDP"
    )


def test_a_data_set_without_cap_or_delta_is_refused(path):
    with pytest.raises(DatasetUnknown):
        PrivacyBudget(path, dataset="scans")
    opened(path)
    assert PrivacyBudget(path, dataset="scans").delta == DELTA
    assert datasets(path) == ["scans"]


def test_another_delta_is_refused(path):
    opened(path)
    with pytest.raises(BudgetConflict):
        opened(path, delta=1e-4)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_limits_nothing_is_refused(path, limit):
    with pytest.raises(ImpossibleEvent):
        opened(path, limit=limit)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_that_cannot_be_is_refused(path, delta):
    with pytest.raises(ImpossibleEvent):
        opened(path, delta=delta)


def test_the_file_belongs_to_its_owner_alone(path):
    opened(path).reserve("study", 1, ROUND)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"not a ledger" * 500)
    with pytest.raises(BudgetUnreadable):
        opened(path)


def test_a_damaged_database_is_refused(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)
    whole = bytearray(path.read_bytes())
    whole[4096:] = bytes(len(whole) - 4096)
    path.write_bytes(whole)
    for left_over in path.parent.glob("budget.db-*"):
        left_over.unlink()
    with pytest.raises(BudgetUnreadable):
        opened(path)


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageFailed):
        opened(tmp_path / "taken" / "budget.db")


def test_a_full_disk_is_said_and_nothing_is_lost(path):
    budget = opened(path)
    budget.reserve("study", 1, ROUND)

    def fill(connection, _record, _proxy):
        connection.cursor().execute("PRAGMA max_page_count = 1")

    import sqlalchemy as sa

    sa.event.listen(budget._journal._engine, "checkout", fill)
    with pytest.raises(DiskFull):
        for number in range(2, 4000):
            budget.reserve(f"study-{'x' * 3000}", number, DpSgdEvent(1.0, 9000.0, 1))
    assert ROUND in opened(path).events()
