"""The report's plots, as SVG that stands inside the page.

A plot is drawn at the size at which its letters are as large as the page's, so the learning curve
comes twice: wide for a screen or a sheet of paper, narrow for a phone. What holds for each, tested
in tests/portal/test_report_page.py:

1. It refers to nothing outside itself and shares no id with another plot on the page.
2. It carries its own description, and letters in a name stay letters.
3. The same report gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from itertools import accumulate
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from privacy.statement import read_statement, rounded_up

INK: Final = "#1c2b36"
FAINT: Final = "#7b8794"
ALONE: Final = "#b4bfc9"
GRID: Final = "#e6ebef"
FEDERATED: Final = "#0b6b7d"
LIMIT: Final = "#b8500c"
HOSPITAL: Final = "#0b6b7d"
PATIENTS: Final = "#4fa3b5"
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "svg.fonttype": "none",  # text stays text: it can be selected, and read aloud
}
DASHES: Final = (0, (5, 3))
DOTS_MAX: Final = 15
"""Rounds at most for which each one gets a dot on its curve."""
NAME_MAX: Final = 16
"""Letters of a site's name beside its bar; the table has the whole name."""
CHANCE_SHOWN_BELOW: Final = 0.7
"""The chance line is drawn where some curve comes so near to it; else it would flatten the rest."""


def curve_plot(report: dict[str, Any], *, narrow: bool = False) -> str:
    """Return the learning curves: federated, each site alone and their mean, pooled."""
    curve = report["curve"]
    rounds = range(1, report["rounds"] + 1)
    alone = list(curve["alone"].values())
    mean = [sum(values) / len(values) for values in zip(*alone, strict=True)]
    with mpl.rc_context(STYLE | {"svg.hashsalt": f"curve {narrow}"}):
        figure, axes = _axes(*((4.0, 3.8) if narrow else (8.6, 3.2)))
        dots = "o" if len(rounds) <= DOTS_MAX else ""
        alone_lines = [
            axes.plot(rounds, values, color=ALONE, linewidth=1, marker=dots, ms=2)[0]
            for values in alone
        ]
        [mean_line] = axes.plot(rounds, mean, color=FAINT, linewidth=2, marker=dots, ms=4)
        pooled_line = axes.axhline(curve["pooled"], color=LIMIT, linestyle=DASHES, linewidth=1.5)
        [federated_line] = axes.plot(
            rounds, curve["federated"], color=FEDERATED, linewidth=2.8, marker=dots, ms=5.5
        )
        legend = {
            "federated, private": federated_line,
            "pooled, no privacy": pooled_line,
            "one site alone": alone_lines[0],
            "mean of those": mean_line,
        }
        if min(curve["pooled"], *curve["federated"], *mean) < CHANCE_SHOWN_BELOW:
            legend["chance"] = axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1.2)
        axes.margins(y=0.06)
        axes.set_ylabel(f"AUC on held-out {report['source']['unit']}s")
        _number_rounds(axes, report["rounds"])
        _legend_above(figure, legend, columns=1 if narrow else len(legend))
        return _svg(
            figure,
            f"Learning curves over {report['rounds']} rounds. At the end: federated "
            f"{report['auc_federated']:.3f}, mean of the sites alone {mean[-1]:.3f}, "
            f"pooled without privacy {curve['pooled']:.3f}.",
        )


def epsilon_plot(report: dict[str, Any]) -> str:
    """Return the largest epsilon that any site has spent after each round, against the limit."""
    limit = report["study"]["epsilon_limit"]
    spent = list(
        accumulate(
            (
                max((receipt["epsilon_spent"] for receipt in one["receipts"]), default=0.0)
                for one in report["per_round"]
            ),
            max,  # a round in which nobody's update counted takes nothing back
        )
    )
    with mpl.rc_context(STYLE | {"svg.hashsalt": "epsilon"}):
        figure, axes = _axes(4.3, 2.7)
        rounds = range(1, len(spent) + 1)
        axes.fill_between(rounds, spent, color=FEDERATED, alpha=0.1, linewidth=0)
        dots = "o" if len(spent) <= DOTS_MAX else ""
        [line] = axes.plot(rounds, spent, color=FEDERATED, linewidth=2.4, marker=dots, ms=5)
        cap = axes.axhline(limit, color=LIMIT, linestyle=DASHES, linewidth=1.5)
        axes.set_ylim(0, max(limit, *spent) * 1.08)
        axes.set_ylabel("epsilon (ε)")
        _number_rounds(axes, len(spent))
        legend = {"spent, largest of all sites": line, f"limit, {limit:g}": cap}
        _legend_above(figure, legend, columns=2)
        return _svg(
            figure,
            f"Epsilon after each round: {rounded_up(spent[-1])} of at most {limit:g} after the "
            f"last ({read_statement(report).terms()}).",
        )


def payment_plot(report: dict[str, Any]) -> str:
    """Return what each site's hospital and its patients were paid."""
    sites = report["per_site"]
    hospital = [site["hospital_base_units"] / 1e18 for site in sites]
    patients = [site["patients_base_units"] / 1e18 for site in sites]
    with mpl.rc_context(STYLE | {"svg.hashsalt": "payment"}):
        figure, axes = _axes(4.3, max(2.7, 0.9 + 0.27 * len(sites)))
        places = range(len(sites))
        legend = {
            "hospital": axes.barh(places, hospital, height=0.62, color=HOSPITAL),
            "its patients": axes.barh(
                places,
                patients,
                left=hospital,
                height=0.62,
                color=PATIENTS,
                edgecolor="white",
                linewidth=0.8,
            ),
        }
        axes.set_yticks(places, [_short(site["site"]) for site in sites])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("BTT")
        _legend_above(figure, legend, columns=2)
        return _svg(
            figure,
            f"Payments: {sum(hospital):,.2f} BTT to {len(sites)} hospitals, "
            f"{sum(patients):,.2f} BTT to their patients.",
        )


def reliability_plot(found: dict[str, Any], *, unit: str = "patient") -> str:
    """Return how often those given a probability were positive, against that probability.

    Args:
        found: The ``calibration`` of ``models.evaluation.evaluate``.
        unit: What is counted, in the singular.
    """
    table = found["table"]
    largest = max(row["patients"] for row in table)
    with mpl.rc_context(STYLE | {"svg.hashsalt": "reliability"}):
        figure, axes = _axes(4.3, 3.6)
        [perfect] = axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1.2)
        predicted, observed = ([row[key] for row in table] for key in ("predicted", "observed"))
        axes.plot(predicted, observed, color=FEDERATED, linewidth=1.5)
        # The area of a dot is its share of patients: a bin of two is no evidence.
        areas = [12 + 120 * row["patients"] / largest for row in table]
        dots = axes.scatter(predicted, observed, s=areas, color=FEDERATED, zorder=3)
        axes.set_xlim(-0.05, 1.05)
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel(f"share of {unit}s positive")
        _legend_above(figure, {"calibrated": perfect, f"{unit}s, by area": dots}, columns=2)
        count = sum(row["patients"] for row in table)
        return _svg(
            figure,
            f"Reliability of {count} {unit}s in {found['bins']} bins: calibration error "
            f"{found['error']:.3f}, Brier score {found['brier']:.3f}.",
        )


def _short(name: str) -> str:
    return name if len(name) <= NAME_MAX else name[: NAME_MAX - 1] + "…"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _number_rounds(axes: Axes, rounds: int) -> None:
    axes.set_xlabel("round")
    axes.set_xlim(0.7, rounds + 0.3)
    step = -(-rounds // 12)
    axes.set_xticks([number for number in range(1, rounds + 1) if number % step == 0 or step == 1])


def _legend_above(figure: Figure, lines: dict[str, Any], *, columns: int) -> None:
    """Put the legend where no curve can be."""
    figure.legend(
        list(lines.values()),
        list(lines),
        ncols=columns,
        loc="outside upper left",
        columnspacing=1.6,
        handlelength=1.8,
    )


def _svg(figure: Figure, description: str) -> str:
    """Return the figure as an element of a page that already has a style and other figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :]
    body = drawing[drawing.index(">") + 1 :]
    foreign = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|font-family: [^;\"]*;?"
    body = re.sub(foreign, "", body, flags=re.DOTALL)  # style and fonts are the page's
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # numbered alike in every figure, never referred to
    body = body.replace("xlink:href=", "href=")
    box = re.search(r'viewBox="([^"]*)"', drawing)
    assert box is not None
    # The page decides the width; the drawing keeps its proportions.
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(description)}">{body}'
