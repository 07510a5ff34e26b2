"""The plot of a privacy ledger: epsilon over rounds, coloured by study, under the steward's cap.

A file that stands alone, as SVG or PNG. What holds, each line a test in
tests/portal/test_site_budget.py: the same ledger gives the same bytes, letters in a name stay
letters, and the terms of epsilon stand under the axis.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from portal.budgets import PlotUnwritable, Point, curve_of
from portal.plots import DASHES, FAINT, FEDERATED, INK, LIMIT, STYLE
from privacy.statement import rounded_up
from storage.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from privacy.ledger_view import LedgerView

COLOURS: Final = (FEDERATED, "#7a5ea8", "#3d8b5f", "#c28a1a", "#b0476b", FAINT)
"""One for each study in order; the last for all that come after."""
DOTS_MAX: Final = 40
NAME_MAX: Final = 28
DOTS_PER_INCH: Final = 200


def write_plot(budget: LedgerView, path: Path) -> None:
    """Draw the ledger of one data set into a file.

    Args:
        budget: Of which data set.
        path: Ends in ``.svg`` or ``.png``.

    Raises:
        PlotUnwritable: It ends otherwise.
        StorageError: The disk refused.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in {"svg", "png"}:
        raise PlotUnwritable(path.name)
    with mpl.rc_context(STYLE | {"svg.hashsalt": "budget", "font.size": 10}):
        buffer = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        _draw(budget).savefig(
            buffer, format=form, dpi=DOTS_PER_INCH, facecolor="white", metadata=metadata
        )
    write_whole(path, buffer.getvalue())


def _draw(budget: LedgerView) -> Figure:
    points, limit, spent = curve_of(budget), budget.limit(), budget.statement()
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    rounds = max(1, points[-1].number if points else 0)
    _cap(axes, limit)
    named = _curve(axes, points)
    axes.set_xlim(0, rounds * 1.02)
    axes.set_ylim(0, max(limit, *(point.epsilon for point in points), 0.0) * 1.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("epsilon (ε), all studies together")
    axes.set_xlabel(f"rounds in the ledger\n\nε at {spent.terms()}", linespacing=1.1)
    axes.set_title(
        f"{budget.dataset}: epsilon {rounded_up(spent.epsilon)} of {limit:g} spent",
        loc="left",
        fontsize=12.5,
        fontweight="bold",
        pad=30 if named else 10,
    )
    if named:
        axes.legend(
            list(named.values()),
            list(named),
            ncols=min(3, len(named)),
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.005),
            columnspacing=1.6,
            handlelength=1.4,
        )
    return figure


def _cap(axes: Axes, limit: float) -> None:
    axes.axhline(limit, color=LIMIT, linestyle=DASHES, linewidth=1.5)
    axes.annotate(
        f"cap {limit:g}",
        (0, limit),
        xytext=(4, 4),
        textcoords="offset points",
        color=LIMIT,
        fontweight="bold",
    )


def _curve(axes: Axes, points: list[Point]) -> dict[str, Line2D]:
    """Draw each stretch of rounds in its study's colour; return one line for each name."""
    studies = list(dict.fromkeys(point.study for point in points))
    named: dict[str, Line2D] = {}
    before = Point(0, "", 0.0)
    for point in points:
        place = min(studies.index(point.study), len(COLOURS) - 1)
        colour = COLOURS[place]
        x, y = [before.number, point.number], [before.epsilon, point.epsilon]
        axes.fill_between(x, y, color=colour, alpha=0.13, linewidth=0)
        [line] = axes.plot(x, y, color=colour, linewidth=2.6, solid_capstyle="round")
        if len(points) <= DOTS_MAX:
            axes.plot(*([point.number], [point.epsilon]), color=colour, marker="o", ms=4.5)
        alone = place < len(COLOURS) - 1 or len(studies) == len(COLOURS)
        named.setdefault(_short(point.study) if alone else "other studies", line)
        before = point
    if points:
        axes.annotate(
            rounded_up(before.epsilon),
            (before.number, before.epsilon),
            xytext=(-2, -16),
            textcoords="offset points",
            ha="right",
            color=INK,
            fontweight="bold",
        )
    return named


def _short(name: str) -> str:
    return name if len(name) <= NAME_MAX else name[: NAME_MAX - 1] + "…"
