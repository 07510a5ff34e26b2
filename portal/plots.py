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

INK: Final = "#1c2b36"
FAINT: Final = "#7b8794"
ALONE: Final = "#b4bfc9"
GRID: Final = "#e6ebef"
FEDERATED: Final = "#0b6b7d"
LIMIT: Final = "#b8500c"
HOSPITAL: Final = "#0b6b7d"
PATIENTS: Final = "#6fb7c6"
STYLE: Final = {
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
        figure, axes = _axes(*((4.5, 4.1) if narrow else (9.4, 3.9)))
        dots = "o" if len(rounds) <= 15 else ""
        for index, values in enumerate(alone):
            label = "one site alone, same privacy" if index == 0 else None
            axes.plot(rounds, values, color=ALONE, linewidth=1, marker=dots, ms=2, label=label)
        axes.plot(rounds, mean, color=FAINT, linewidth=2, marker=dots, ms=4, label="mean of those")
        axes.axhline(
            curve["pooled"],
            color=LIMIT,
            linestyle=(0, (5, 3)),
            linewidth=1.5,
            label="pooled, without privacy",
        )
        axes.plot(
            rounds,
            curve["federated"],
            color=FEDERATED,
            linewidth=2.8,
            marker=dots,
            ms=5.5,
            label="federated, private",
        )
        lowest = min(min(values) for values in [*alone, curve["federated"], [curve["pooled"]]])
        if lowest < CHANCE_SHOWN_BELOW:
            axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1.2, label="chance")
        axes.set_ylabel("AUC on held-out " + ("images" if _of_images(report) else "patients"))
        _number_rounds(axes, report["rounds"])
        _legend_above(axes, columns=1 if narrow else 5, reverse=True)
        finding = (
            f"Learning curves over {report['rounds']} rounds. At the end: federated "
            f"{report['auc_federated']:.3f}, mean of the sites alone {mean[-1]:.3f}, "
            f"pooled without privacy {curve['pooled']:.3f}."
        )
        return _svg(figure, finding)


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
        figure, axes = _axes(4.7, 3.0)
        rounds = range(1, len(spent) + 1)
        axes.fill_between(rounds, spent, color=FEDERATED, alpha=0.1, linewidth=0)
        axes.plot(
            rounds,
            spent,
            color=FEDERATED,
            linewidth=2.4,
            marker="o" if len(spent) <= 15 else "",
            ms=5,
            label="spent, largest of all sites",
        )
        axes.axhline(
            limit, color=LIMIT, linestyle=(0, (5, 3)), linewidth=1.5, label=f"limit, {limit:g}"
        )
        axes.set_ylim(0, max(limit, *spent, 0) * 1.08)
        axes.set_ylabel("epsilon (ε)")
        _number_rounds(axes, len(spent))
        _legend_above(axes, columns=2)
        return _svg(
            figure,
            f"Epsilon after each round: {spent[-1]:.2f} of at most {limit:g} after the last.",
        )


def payment_plot(report: dict[str, Any]) -> str:
    """Return what each site's hospital and its patients were paid."""
    sites = report["per_site"]
    hospital = [site["hospital_base_units"] / 1e18 for site in sites]
    patients = [site["patients_base_units"] / 1e18 for site in sites]
    with mpl.rc_context(STYLE | {"svg.hashsalt": "payment"}):
        figure, axes = _axes(4.7, max(3.0, 0.9 + 0.3 * len(sites)))
        places = range(len(sites))
        axes.barh(places, hospital, height=0.62, color=HOSPITAL, label="hospital")
        axes.barh(
            places,
            patients,
            left=hospital,
            height=0.62,
            color=PATIENTS,
            edgecolor="white",
            linewidth=0.8,
            label="its patients",
        )
        axes.set_yticks(places, [_short(site["site"]) for site in sites])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("BTT")
        _legend_above(axes, columns=2)
        return _svg(
            figure,
            f"Payments: {sum(hospital):,.2f} BTT to {len(sites)} hospitals, "
            f"{sum(patients):,.2f} BTT to their patients.",
        )


def _of_images(report: dict[str, Any]) -> bool:
    return bool(report["source"]["unit"] == "image")


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


def _legend_above(axes: Axes, *, columns: int, reverse: bool = False) -> None:
    """Put the legend where no curve can be."""
    axes.legend(
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1.02),
        columnspacing=1.4,
        handlelength=1.8,
        reverse=reverse,
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
