"""The steward sees what was spent and left, draws it, and sets the cap; nothing else can."""

import json
import re

import pytest
from typer.testing import CliRunner

from portal.budget_plot import write_plot
from portal.budgets import LedgerMissing, PlotUnwritable, curve_of
from portal.cli import app
from privacy.budget import PrivacyBudget
from privacy.cohorts import CohortUnknown
from privacy.events import DpSgdEvent
from privacy.stewardship import CapRaiseUnconfirmed

ROUND = DpSgdEvent(1.0, 8.0, 4)


@pytest.fixture
def home(tmp_path):
    budget = opened(tmp_path)
    for study, researcher in (("lesions", "radiology"), ("<hearts & $x$>", "cardiology")):
        for number in (1, 2, 3):
            budget.reserve(study, number, ROUND, researcher=researcher)
            budget.commit(study, number)
    return tmp_path


def opened(home, dataset="scans"):
    return PrivacyBudget(
        home / "sites/north/budget.db", dataset=dataset, epsilon_limit=8.0, delta=1e-5
    )


def run(home, *arguments):
    words = ["site", arguments[0], "north", "--home", str(home), *arguments[1:]]
    return CliRunner().invoke(app, words)


def printed(home, *arguments):
    found = run(home, "budget", *arguments)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_the_table_has_spent_left_and_cap_and_every_epsilon_its_terms(home):
    text = printed(home)
    assert re.search(r"scans\s+│ all patients\s+│\s+│\s+6 │\s+2\.\d\d │\s+5\.\d\d │\s+8 │", text)
    assert re.search(
        r"epsilon 2\.\d\d \(delta 1e-05, unit: patient, sampling: none, accountant: PRV\)", text
    )


def test_json_lists_events_by_study_and_researcher_and_the_chains_head(home):
    [found] = json.loads(printed(home, "--json"))["datasets"]
    assert {(one["study"], one["researcher"]) for one in found["rounds"]} == {
        ("lesions", "radiology"),
        ("<hearts & $x$>", "cardiology"),
    }
    assert found["cohorts"][0]["spent"].keys() >= {"epsilon", "delta", "unit", "sampling"}
    assert (found["entries"], found["head"]) == (13, opened(home).head().link)


def test_a_cap_is_lowered_at_once_and_raised_only_with_the_flag(home):
    assert json.loads(printed(home, "--cap", "3", "--json"))["datasets"][0]["epsilon_limit"] == 3.0
    refused = run(home, "budget", "--cap", "9")
    assert isinstance(refused.exception, CapRaiseUnconfirmed)
    assert opened(home).limit() == 3.0
    printed(home, "--cap", "9", "--confirm-raise")
    assert opened(home).limit() == 9.0


def test_a_cohort_is_fixed_from_a_list_and_shown(home, tmp_path):
    (tmp_path / "adults.txt").write_text("p1\np2\n\np3\n")
    found = run(home, "cohort", "adults", str(tmp_path / "adults.txt"))
    assert found.exit_code == 0, found.output
    assert re.search(r"adults\s+│\s+3 │", printed(home))
    with pytest.raises(CohortUnknown):
        opened(home).spent("children")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_plot_is_the_same_twice_and_keeps_letters_letters(home, ending):
    first, second = home / f"one.{ending}", home / f"two.{ending}"
    for path in (first, second):
        write_plot(opened(home), path)
    assert first.read_bytes() == second.read_bytes()
    if ending == "svg":
        text = first.read_text()
        assert "&lt;hearts &amp; $x$&gt;" in text
        assert "delta 1e-05, unit: patient, sampling: none, accountant: PRV" in text


def test_the_curve_ends_at_what_was_spent_and_never_falls(home):
    points = curve_of(opened(home))
    assert points[-1].epsilon == opened(home).spent()
    assert [one.epsilon for one in points] == sorted(one.epsilon for one in points)


def test_a_ledger_in_which_nothing_was_spent_is_drawn(tmp_path):
    write_plot(opened(tmp_path), tmp_path / "none.svg")


def test_another_format_a_missing_ledger_and_an_unclear_data_set_are_refused(home, tmp_path):
    assert isinstance(run(home, "budget", "--plot", "spent.pdf").exception, PlotUnwritable)
    assert isinstance(run(tmp_path / "other", "budget").exception, LedgerMissing)
    opened(home, "tables")
    assert run(home, "budget", "--cap", "3").exit_code == 2
    assert run(home, "budget", "--cap", "3", "--dataset", "tables").exit_code == 0


def test_the_clock_is_accepted_by_the_steward(home):
    before = opened(home).head().number
    printed(home, "--accept-clock")
    assert opened(home).head().number == before + 1


def test_the_steward_opens_a_data_set_before_any_study_uses_it(tmp_path):
    new = ("--dataset", "scans", "--cap", "6", "--delta", "1e-5")
    (tmp_path / "sites" / "north").mkdir(parents=True)
    found = run(tmp_path, "budget", *new, "--json")
    assert found.exit_code == 0, found.output
    [shown] = json.loads(found.stdout)["datasets"]
    assert (shown["epsilon_limit"], shown["delta"], shown["rounds"]) == (6.0, 1e-5, [])
    assert run(tmp_path, "budget", "--delta", "1e-5", "--cap", "6").exit_code == 2
