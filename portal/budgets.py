"""What a hospital's privacy ledger says, for its data steward: spent and left, by whom and when.

Reads one site's folder and nothing of the run around it, so it works while an agent is running.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from privacy.cohorts import EVERYONE
from privacy.events import event_fields
from privacy.ledger_view import LedgerView, datasets, open_ledger
from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from privacy.cohorts import Spending
    from privacy.statement import PrivacyStatement

POINTS_MAX: Final = 16
"""Points of a curve at most: each is one more composition of everything before it."""


class LedgerMissing(ConfigurationError):
    """There is no privacy ledger where one was asked for."""

    code = "privacy-ledger-missing"

    def __init__(self, site: str, known: list[str]) -> None:
        self.site = site
        here = (
            f"the sites with one here are {', '.join(known)}" if known else "no site here has one"
        )
        super().__init__(
            f"site {site} has no privacy ledger in this home; {here}, and a site has one from its "
            "first round on"
        )


class PlotUnwritable(ConfigurationError):
    """A plot was asked for in a format that is not drawn."""

    code = "plot-unwritable"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is no plot that can be drawn; give a name that ends in .svg or .png"
        )


@dataclass(frozen=True)
class Row:
    """One cohort of one data set: what its dearest patient has spent, and what is left."""

    dataset: str
    cohort: str
    patients: int | None
    spent: PrivacyStatement
    left: float
    limit: float


@dataclass(frozen=True)
class Point:
    """What everything together had cost after one round of one study."""

    number: int
    study: str
    epsilon: float


def ledger_at(home: Path, site: str) -> Path:
    """Return the path of a site's ledger.

    Raises:
        LedgerMissing: There is none.
    """
    path = home / "sites" / site / "budget.db"
    if not path.is_file() and not path.with_name("budget.db.head").is_file():
        known = sorted(one.parent.name for one in home.glob("sites/*/budget.db"))
        raise LedgerMissing(site, known)
    return path


def open_budgets(path: Path) -> list[LedgerView]:
    """Return the account of every data set in the ledger.

    Raises:
        BudgetUnreadable: It cannot be trusted.
    """
    return [open_ledger(path, name) for name in datasets(path)]


def rows_of(budget: LedgerView) -> list[Row]:
    """Return one row for all patients and one for each cohort."""
    limit = budget.limit()
    sizes: dict[str, int | None] = {EVERYONE: None, **budget.cohorts()}
    found = []
    for cohort, patients in sizes.items():
        spent = budget.statement(cohort)
        left = max(0.0, limit - spent.epsilon)
        found.append(Row(budget.dataset, cohort, patients, spent, left, limit))
    return found


def curve_of(budget: LedgerView) -> list[Point]:
    """Return what the patient who pays most had spent after each round, in the ledger's order."""
    history = budget.history()
    if not history:
        return []
    step = max(1, -(-len(history) // POINTS_MAX))
    numbers = sorted({1, *range(step, len(history), step), *_turns(history), len(history)})
    return [
        Point(
            number,
            history[number - 1].study,
            budget.statement_after(number).epsilon,
        )
        for number in numbers
    ]


def as_json(site: str, budgets: list[LedgerView]) -> dict[str, Any]:
    """Return all of it as plain values."""
    return {"site": site, "datasets": [_dataset(budget) for budget in budgets]}


def _dataset(budget: LedgerView) -> dict[str, Any]:
    head = budget.head()
    return {
        "dataset": budget.dataset,
        "epsilon_limit": budget.limit(),
        "delta": budget.delta,
        "entries": head.number,
        "head": head.link,
        "cohorts": [
            {
                "cohort": row.cohort or None,
                "patients": row.patients,
                "spent": row.spent.as_json(),
                "epsilon_left": row.left,
            }
            for row in rows_of(budget)
        ],
        "rounds": [
            {
                "study": one.study,
                "round": one.round,
                "researcher": one.researcher,
                "cohort": one.cohort or None,
                "state": one.state,
                "at": one.at,
                "event": event_fields(one.event),
            }
            for one in budget.history()
        ],
    }


def _turns(history: list[Spending]) -> list[int]:
    """Return the numbers of the rounds after which another study goes on."""
    return [
        number
        for number, (one, after) in enumerate(pairwise(history), start=1)
        if one.study != after.study
    ]
