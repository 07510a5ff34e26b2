"""No epsilon is printed without delta, unit of privacy, sampling and accountant."""

import json
import logging
import math
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from portal import cli
from portal.page import page
from portal.plots import epsilon_plot
from privacy import accounting
from privacy.accounting import EpsilonUnreachable, epsilon
from privacy.budget import BudgetExceeded, PrivacyBudget
from privacy.events import DpSgdEvent
from privacy.stewardship import CapRaiseUnconfirmed, Steward
from tests.portal.test_report_page import report_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
TERMS = ("delta 1e-05", "unit: patient", "sampling: ", "accountant: ")
NAMES = ("delta ", "unit: ", "sampling: ", "accountant: ")
NUMBERED = re.compile(r"(?:epsilon|ε)[^\d\n(){}]{0,24}\d")
RUN = [DpSgdEvent(0.5, 1.6, 20)]
FORMATTED = re.compile(r"epsilon \{|(?:epsilon|spent)[a-z_\]\"'.()]*:\.?\d*[fg]\}")
STATED = {  # files that format an epsilon, and how its terms come with it
    "privacy/statement.py": "writes the terms itself",
    "privacy/stewardship.py": "the message goes on with the terms",
    "portal/cli.py": "a table; the line after it states the largest",
    "portal/budget_plot.py": "a title; the terms stand under the axis",
}


def check(text, terms=TERMS):
    """See that every epsilon with a number has its terms in the same line."""
    lines = [line for line in text.splitlines() if NUMBERED.search(line)]
    assert lines, "nothing to check"
    for line in lines:
        assert all(term in line for term in terms), line


@pytest.fixture
def home(tmp_path):
    budget = PrivacyBudget(
        tmp_path / "sites/north/budget.db", dataset="scans", epsilon_limit=3.0, delta=1e-5
    )
    budget.reserve("lesions", 1, DpSgdEvent(1.0, 8.0, 4))
    return tmp_path


def test_what_a_run_prints(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    cli.show(report_of())
    check(capsys.readouterr().out)


def test_what_the_steward_sees(home):
    found = CliRunner().invoke(cli.app, ["site", "budget", "north", "--home", str(home)])
    check(found.stdout)


def test_the_steward_gets_the_terms_in_json_too(home):
    words = ["site", "budget", "north", "--home", str(home), "--json"]
    [found] = json.loads(CliRunner().invoke(cli.app, words).stdout)["datasets"]
    for cohort in found["cohorts"]:
        assert set(cohort["spent"]) == {"epsilon", "delta", "unit", "sampling", "accountant"}


def test_a_summary_has_the_terms_beside_its_epsilon():
    from portal.report import SUMMARY

    assert {"epsilon", "delta", "unit", "sampling", "accountant"} <= set(SUMMARY)


class Sections(HTMLParser):
    """The text of each section of a page, with what its drawings say of themselves."""

    def __init__(self):
        super().__init__()
        self.found = [""]

    def handle_starttag(self, tag, attributes):
        if tag == "section":
            self.found.append("")
        self.found[-1] += " " + (dict(attributes).get("aria-label") or "")

    def handle_data(self, data):
        self.found[-1] += data


def test_every_section_of_the_report_that_speaks_of_epsilon_has_the_terms():
    reader = Sections()
    reader.feed(page(report_of()))
    # That sites alone had "the same limit of ε" names no number.
    speaking = [text for text in reader.found if re.search(r"(?<!limit of )ε|[Ee]psilon", text)]
    assert len(speaking) >= 3
    for text in speaking:
        assert all(term in text for term in TERMS), text[:300]


def test_what_the_plot_says_of_itself():
    check(re.search(r'aria-label="([^"]*)"', epsilon_plot(report_of()))[1].lower())


def test_what_refusals_say(home):
    path = home / "sites/north/budget.db"
    with pytest.raises(BudgetExceeded) as exceeded:
        PrivacyBudget(path, dataset="scans").reserve("lesions", 2, DpSgdEvent(1.0, 1.0, 9))
    with pytest.raises(CapRaiseUnconfirmed) as unconfirmed:
        Steward(path, "scans").set_limit(9.0)
    for refusal in (exceeded.value, unconfirmed.value, EpsilonUnreachable(0.1, 1e-5)):
        check(str(refusal))


@pytest.mark.parametrize("answer", [math.inf, 100.0])
def test_what_is_logged_when_accountants_disagree(caplog, monkeypatch, answer):
    accounting._cost.cache_clear()
    monkeypatch.setattr(accounting, "_prv", lambda *_: answer)
    with caplog.at_level(logging.WARNING, "bithive.privacy"):
        epsilon(RUN, 1e-5)
    accounting._cost.cache_clear()
    check(caplog.text)


def test_the_examples_in_the_readme_have_the_terms():
    shown = (ROOT / "README.md").read_text().split("```json")[0].split("## What you will see")[1]
    check(shown, NAMES)


def test_no_other_source_formats_an_epsilon_by_itself():
    packages = PACKAGES["targets"]["wheel"]["packages"]
    found = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if FORMATTED.search(path.read_text())
    }
    assert found <= STATED.keys(), "print a PrivacyStatement instead"
