"""The report's plots, as SVG that stands inside the page."""

from __future__ import annotations

import io
import re
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#1f2933"
FAINT: Final = "#9aa5b1"
GRID: Final = "#e4e7eb"
FEDERATED: Final = "#0b7285"
POOLED: Final = "#e8590c"
HOSPITAL: Final = "#0b7285"
PATIENTS: Final = "#66c2d7"
STYLE: Final = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "svg.fonttype": "none",  # text stays text: it can be selected, and read aloud
    "svg.hashsalt": "bithive",  # the same report gives the same bytes
}


def curve_plot(report: dict[str, Any]) -> str:
    """Return the learning curves: federated, each site alone, pooled without privacy."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(7.2, 3.6)
        rounds = range(1, report["rounds"] + 1)
        for index, curve in enumerate(report["curve"]["alone"].values()):
            label = "each site alone, same privacy" if index == 0 else None
            axes.plot(rounds, curve, color=FAINT, linewidth=1.2, label=label)
        axes.plot(
            rounds,
            report["curve"]["federated"],
            color=FEDERATED,
            linewidth=2.6,
            marker="o",
            markersize=4,
            label="federated, private",
        )
        axes.axhline(
            report["curve"]["pooled"],
            color=POOLED,
            linestyle="--",
            linewidth=1.4,
            label="pooled data, no privacy (not allowed)",
        )
        axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1)
        axes.set_xlabel("round")
        axes.set_ylabel("AUC, held-out patients")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        return _svg(figure)


def epsilon_plot(report: dict[str, Any]) -> str:
    """Return epsilon spent after each round, against the limit."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(3.5, 2.6)
        spent = [
            max((receipt["epsilon_spent"] for receipt in one["receipts"]), default=0.0)
            for one in report["per_round"]
        ]
        axes.step(
            range(1, len(spent) + 1),
            spent,
            where="mid",
            color=FEDERATED,
            linewidth=2,
            label="spent",
        )
        axes.axhline(
            report["study"]["epsilon_limit"],
            color=POOLED,
            linestyle="--",
            linewidth=1.4,
            label="limit",
        )
        axes.set_ylim(0, report["study"]["epsilon_limit"] * 1.15)
        axes.set_xlabel("round")
        axes.set_ylabel("epsilon")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        return _svg(figure)


def payment_plot(report: dict[str, Any]) -> str:
    """Return what each site and its patients were paid."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(3.5, 2.6)
        names = [site["site"] for site in report["per_site"]]
        hospital = [site["hospital_base_units"] / 1e18 for site in report["per_site"]]
        patients = [site["patients_base_units"] / 1e18 for site in report["per_site"]]
        axes.barh(names, hospital, color=HOSPITAL, label="hospital")
        axes.barh(names, patients, left=hospital, color=PATIENTS, label="its patients")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("BTT")
        axes.legend(
            frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1)
        )
        return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The page decides the width; the drawing keeps its proportions.
    return re.sub(
        r'<svg([^>]*?) width="[^"]*"', r"<svg\1", re.sub(r' height="[^"]*pt"', "", text, count=1)
    )
