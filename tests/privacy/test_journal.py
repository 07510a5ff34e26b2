"""A ledger changed, shortened, put back or lost refuses to be used, and time never runs back."""

import shutil
import sqlite3

import pytest

from privacy.budget import BudgetUnreadable, PrivacyBudget
from privacy.events import DpSgdEvent
from privacy.journal import CLOCK_TOLERANCE_SECONDS, ClockBackwards
from privacy.stewardship import Steward

ROUND = DpSgdEvent(1.0, 4.0, 4)
NOW = 1_800_000_000
INSERTED = (
    "INSERT INTO ledger_entries SELECT 6, at, dataset, kind, body, link FROM ledger_entries "
    "WHERE number = 5"
)


def opened(path, clock=lambda: NOW):
    return PrivacyBudget(
        path, dataset="scans", epsilon_limit=8.0, delta=1e-5, accountant="rdp", clock=clock
    )


@pytest.fixture
def path(tmp_path):
    budget = opened(tmp_path / "budget.db")
    for number in (1, 2):
        budget.reserve("study", number, ROUND)
        budget.commit("study", number)
    budget._journal._engine.dispose()
    return tmp_path / "budget.db"


def refuses(path):
    with pytest.raises(BudgetUnreadable):
        opened(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET body = replace(body, '4.0', '40.0') WHERE number = 2",
        "UPDATE ledger_entries SET body = '[]' WHERE number = 2",
        "UPDATE ledger_entries SET body = 'no JSON' WHERE number = 2",
        "UPDATE ledger_entries SET body = x'ff' WHERE number = 2",
        "UPDATE ledger_entries SET kind = 'release' WHERE number = 3",
        "UPDATE ledger_entries SET dataset = 'other' WHERE number = 4",
        "UPDATE ledger_entries SET at = at + 1 WHERE number = 5",
        "UPDATE ledger_entries SET at = 'soon' WHERE number = 5",
        "UPDATE ledger_entries SET link = 'ff' WHERE number = 1",
        "UPDATE ledger_entries SET number = 9 WHERE number = 5",
        "DELETE FROM ledger_entries WHERE number = 1",
        "DELETE FROM ledger_entries WHERE number = 3",
        "DELETE FROM ledger_entries WHERE number = 5",
        "DELETE FROM ledger_entries",
        INSERTED,
        "UPDATE ledger_head SET number = 4",
        "UPDATE ledger_head SET link = ''",
        "UPDATE ledger_head SET salt = '00'",
        "UPDATE ledger_head SET salt = 'no salt'",
        "DELETE FROM ledger_head",
        "DROP TABLE ledger_entries",
        "DROP TABLE ledger_head",
    ],
)
def test_any_change_by_another_hand_refuses_everything_after(path, statement):
    budget = opened(path)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    with pytest.raises(BudgetUnreadable):
        budget.reserve("study", 3, ROUND)
    with pytest.raises(BudgetUnreadable):
        budget.spent()
    refuses(path)


def test_a_ledger_shortened_together_with_its_head_disagrees_with_the_file_beside_it(path):
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM ledger_entries WHERE number = 5")
        connection.execute(
            "UPDATE ledger_head SET number = 4, "
            "link = (SELECT link FROM ledger_entries WHERE number = 4)"
        )
    refuses(path)


def test_an_older_copy_put_back_is_noticed(path, tmp_path):
    shutil.copy(path, tmp_path / "copy")
    budget = opened(path)
    budget.reserve("study", 3, ROUND)
    budget._journal._engine.dispose()
    for name in ("budget.db", "budget.db-wal", "budget.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "copy", path)
    refuses(path)


@pytest.mark.parametrize("gone", ["deleted", "emptied"])
def test_a_ledger_that_is_gone_is_not_taken_for_a_new_one(path, gone):
    for left_over in path.parent.glob("budget.db-*"):
        left_over.unlink()
    if gone == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"")
    refuses(path)


def test_a_head_that_lags_behind_a_crash_is_caught_up(path):
    witness = path.with_name("budget.db.head")
    before = witness.read_bytes()
    budget = opened(path)
    budget.reserve("study", 3, ROUND)
    witness.write_bytes(before)
    assert opened(path).head().number == 6
    opened(path).commit("study", 3)
    assert '"number": 7' in witness.read_text()


def test_a_head_that_is_none_refuses(path):
    path.with_name("budget.db.head").write_text("{}")
    refuses(path)


def test_a_file_of_an_older_version_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "budget.db") as connection:
        connection.execute("CREATE TABLE limits (dataset TEXT)")
    refuses(tmp_path / "budget.db")


def test_a_clock_that_went_back_refuses_new_rounds_and_lets_old_ones_finish(path):
    opened(path).reserve("study", 3, ROUND)
    late = opened(path, clock=lambda: NOW - CLOCK_TOLERANCE_SECONDS - 1)
    with pytest.raises(ClockBackwards, match="--accept-clock"):
        late.reserve("study", 4, ROUND)
    assert late.reserve("study", 3, ROUND).state == "reserved"
    late.commit("study", 3)
    assert late.history()[-1].state == "committed"


def test_a_clock_a_little_behind_is_taken_for_the_last_entrys_time(path):
    late = opened(path, clock=lambda: NOW - 10)
    late.reserve("study", 3, ROUND)
    assert late.history()[-1].at == NOW


def test_the_steward_confirms_a_clock_that_had_been_ahead(path):
    opened(path, clock=lambda: NOW + 10**8).reserve("study", 3, ROUND)
    with pytest.raises(ClockBackwards):
        opened(path).reserve("study", 4, ROUND)
    Steward(path, "scans", clock=lambda: NOW).accept_clock()
    budget = opened(path)
    budget.reserve("study", 4, ROUND)
    assert budget.history()[-1].at == NOW
