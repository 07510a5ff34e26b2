"""Draw what privacy costs: the score against epsilon for each task, and hospital by hospital."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from portal.plots import ALONE, FAINT, FEDERATED, INK, LIMIT, STYLE
from storage.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

TITLES: Final = {
    "busi": "Breast ultrasound, six sites",
    "heart": "Heart disease, four hospitals",
    "hippocampus": "Hippocampus in 3-D, three groups",
}
SCORES: Final = {"hippocampus": "Dice"}
HOSPITALS: Final = {
    "cleveland": "Cleveland",
    "hungarian": "Budapest",
    "switzerland": "Switzerland",
    "va": "Long Beach",
}
ARMS: Final = (
    ("summed", "noise shared over the sum", FEDERATED, -0.06),
    ("per-site", "noise at each site", LIMIT, 0.06),
    ("alone", "one hospital alone", FAINT, 0.0),
)
PLAIN: Final = "no\nprivacy"


def plot(rows: dict[str, Any], path: Path) -> None:
    """Write the figure as SVG to ``path``."""
    panels = [(task, _frontier) for task in rows]
    panels += [(task, _hospitals) for task, row in rows.items() if row["sites"]]
    with mpl.rc_context({**STYLE, "svg.hashsalt": "bithive"}):
        figure = Figure(figsize=(4.1 * len(panels), 3.5), layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (task, draw) in zip(every, panels, strict=True):
            draw(axes, task, rows[task])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_whole(path, buffer.getvalue())


def _frontier(axes: Axes, task: str, row: dict[str, Any]) -> None:
    """The score against epsilon: means, every seed as a faint dot."""
    limits = sorted(
        (name.split("_")[1] for name in row["arms"] if name[:7] == "summed_"), key=float
    )
    places = np.arange(len(limits) + 1)
    for arm, label, colour, aside in ARMS:
        plain = "alone_plain" if arm == "alone" else "plain"
        names = [f"{arm}_{limit}" for limit in limits] + [plain]
        known = [
            (x, row["arms"][n]) for x, n in zip(places, names, strict=True) if n in row["arms"]
        ]
        at = [
            x + (0 if n == len(limits) else aside) for n, (x, _) in zip(places, known, strict=False)
        ]
        for x, (_, found) in zip(at, known, strict=True):
            spots = np.full(len(found["each"]), x)
            axes.plot(spots, found["each"], "o", color=colour, alpha=0.22, ms=4, mew=0)
        means = [found["mean"] for _, found in known]
        axes.plot(at, means, "-o", color=colour, lw=1.6, ms=6, label=label, zorder=3)
    axes.set_xticks(places, [*(f"ε = {limit}" for limit in limits), PLAIN])
    axes.set_xlim(-0.4, places[-1] + 0.4)
    axes.set_ylabel(f"{SCORES.get(task, 'AUC')} on held-out patients")
    axes.set_title(TITLES.get(task, task), loc="left", fontsize=10.5, color=INK)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)  # room for the legend
    axes.legend(loc="lower left", fontsize=8.5)


def _hospitals(axes: Axes, task: str, row: dict[str, Any]) -> None:
    """Each hospital's AUC on its own patients, alone and together, plain and private."""
    shown = (
        ("alone_plain", "alone, no privacy", ALONE, -0.3),
        ("alone_8", "alone, ε = 8", FAINT, -0.1),
        ("plain", "federated, no privacy", "#7fb9c4", 0.1),
        ("summed_8", "federated, ε = 8", FEDERATED, 0.3),
    )
    hospitals = list(row["sites"]["plain"])
    for arm, label, colour, aside in shown:
        if arm not in row["sites"]:
            continue
        places = row["sites"][arm]
        heights = [places[site][0] - 0.5 for site in hospitals]
        bars = np.arange(len(hospitals)) + aside
        axes.bar(bars, heights, 0.18, bottom=0.5, color=colour, label=label)
        for bar, site in zip(bars, hospitals, strict=True):
            mean, spread = places[site]
            low, high = (max(0.5, mean - (spread or 0)), min(1.0, mean + (spread or 0)))
            axes.plot([bar, bar], [low, high], color=INK, lw=0.8, alpha=0.45)
    axes.set_xticks(range(len(hospitals)), [HOSPITALS.get(site, site) for site in hospitals])
    axes.set_ylim(0.5, 1.12)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    axes.set_title(f"{TITLES.get(task, task)}, each on its own", loc="left", fontsize=10.5)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=8, ncols=2)
