"""A run on a terminal: a bar for the rounds, a row for every hospital, a curve of one line.

What is drawn is a ``View``; where the terminal cannot move (a log, a pipe) one plain line is
written for each phase, refusal and closed round instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from portal.live.events import LiveEvent
from portal.live.view import FINISHED, STARTED, View
from portal.live.wording import duration_text, measure_text, say, size_text, texts

BLOCKS: Final = "▁▂▃▄▅▆▇█"
BAR_WIDTH: Final = 40
CURVE_WIDTH: Final = 40
LANGUAGE: Final = "en"
TONES: Final = {
    "accepted": "green",
    "unmasked": "green",
    "opened": "green",
    "done": "green",
    "refused": "bold red",
    "late": "yellow",
    "absent": "dim",
    "training": "cyan",
    "asked": "cyan",
}


def sparkline(values: Sequence[float], *, width: int = CURVE_WIDTH) -> str:
    """Return the last ``width`` values as blocks, from the least of them to the most.

    Examples:
        >>> sparkline([0.5, 0.6, 0.75, 0.8, 0.82])
        '▁▃▆██'
        >>> sparkline([1.0, 1.0]), sparkline([])
        ('▁▁', '')
    """
    shown = list(values)[-width:]
    least, most = min(shown, default=0.0), max(shown, default=0.0)
    room = most - least
    return "".join(
        BLOCKS[int((value - least) / room * (len(BLOCKS) - 1) + 0.5) if room else 0]
        for value in shown
    )


def draw(view: View, *, title: str, now: datetime) -> RenderableType:
    """Return a run as it stands, for a terminal.

    Args:
        view: The run.
        title: Where it is watched.
        now: By the clock of the server.
    """
    return Panel(
        Group(_head(view, now), Text(), _sites(view), *_curve(view)),
        title=Text(title, style="bold"),
        title_align="left",
        border_style={"finished": "green", "failed": "red"}.get(view.outcome or "", "cyan"),
        padding=(1, 2),
    )


def line_of(event: LiveEvent, view: View) -> str | None:
    """Return an event as one plain line, None for one that would only fill a log."""
    number = f"round {event.round}"
    if event.kind == "phase":
        return f"{number}: {_phase(event.phase)}"
    if event.kind in {"refused", "late"}:
        return f"{number}: {event.kind} {event.site}: {event.code}"
    if event.kind == "closed":
        took = "" if event.seconds is None else f" in {duration_text(event.seconds, LANGUAGE)}"
        updates = view.rounds[event.round].updates if event.round in view.rounds else 0
        return f"{number}/{view.total} closed{took}: {updates} updates"
    if event.kind == "metrics":
        values = [f"{name} {measure_text(value)}" for name, value in event.numbers.items()]
        return f"{number}: {', '.join(values)}" if values else None
    if event.kind == "run":
        words = {STARTED: "a server began", FINISHED: "the run is finished"}
        return words.get(event.code or "", f"the run stopped: {event.code}")
    return None


def _head(view: View, now: datetime) -> Table:
    table = Table.grid(padding=(0, 2))
    left = view.remaining(now)
    if view.outcome == FINISHED:
        words = say("headline.finished", LANGUAGE, total=view.total)
    elif view.outcome is not None:
        words = say("headline.failed", LANGUAGE, round=view.round, total=view.total)
    elif view.round:
        words = say("headline", LANGUAGE, round=view.round, total=view.total)
    else:
        words = say("headline.waiting", LANGUAGE)
    bar = ProgressBar(total=max(view.total, 1), completed=view.closed, width=BAR_WIDTH)
    table.add_row(Text(words, style="bold"), bar, Text(_left(left, view), style="dim"))
    table.add_row(*_doing(view))
    return table


def _doing(view: View) -> tuple[Text, Text]:
    if view.outcome is not None:
        return Text(view.code or "", style="bold red"), Text()
    counted = f"{view.answers} of {view.asked} answered" if view.asked else ""
    return Text(_phase(view.phase) if view.phase else "", style="cyan"), Text(counted, style="dim")


def _left(seconds: float | None, view: View) -> str:
    if view.outcome is not None:
        return ""
    if seconds is None:
        return say("left.unknown", LANGUAGE)
    return f"{duration_text(seconds, LANGUAGE)} left" if seconds else say("left.soon", LANGUAGE)


def _sites(view: View) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for key in ("site", "state", "bytes", "took", "code"):
        is_number = key in {"bytes", "took"}
        table.add_column(say(key, LANGUAGE), justify="right" if is_number else "left")
    for site in sorted(view.sites):
        row, state = view.sites[site], view.state(site)
        words = say(f"state.{state}" if f"state.{state}" in texts() else "state.other", LANGUAGE)
        table.add_row(
            site,
            Text(words, style=TONES.get(state, "")),
            size_text(row.bytes),
            "" if row.seconds is None else duration_text(row.seconds, LANGUAGE),
            Text(view.refusal(site) or "", style="red"),
        )
    return table


def _curve(view: View) -> list[RenderableType]:
    found: list[RenderableType] = []
    for name in filter(None, (view.measure, "seconds")):
        values = [value for _, value in view.curve(name)]
        if not values:
            continue
        if name == "seconds":
            label, last = say("curve.seconds", LANGUAGE), duration_text(values[-1], LANGUAGE)
        else:
            label, last = say(f"measure.{name}", LANGUAGE), measure_text(values[-1])
        text = Text.assemble((f"{label}  ", "dim"), (sparkline(values), "cyan"), f"  {last}")
        found += [*([] if found else [Text()]), text]
    return found


def _phase(phase: str | None) -> str:
    return say(f"phase.{phase}" if f"phase.{phase}" in texts() else "phase.other", LANGUAGE)


def is_moving(console: Console) -> bool:
    """Say whether a console can show a picture that moves."""
    return console.is_terminal and not console.is_dumb_terminal
