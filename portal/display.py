"""Show a run while it runs: one bar for the rounds, one for each site, on standard error.

On a terminal the bars move; elsewhere (a log, a pipe) one plain line is written per event that a
person would want to find again, so that nothing floods a file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from protocol.ids import SiteId
from protocol.plain import plain
from protocol.progress import Step

WORDS: Final = {
    "join": "joined",
    "call": "round keys exchanged",
    "read": "reading",
    "features": "running the study's code",
    "train": "training",
    "encrypt": "encrypted",
    "prove": "proven",
    "verify": "[green]accepted[/]",
    "refuse": "[bold red]refused[/]",
    "endorse": "stands by the sum",
    "unmask": "lifting the masks",
    "share": "giving its share of the key",
    "open": "opening the sum",
}


class Display:
    """Draws steps; safe to call from several threads."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._moving = console.is_terminal and not quiet
        self._quiet = quiet
        self._lock = threading.Lock()
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[name]:<12}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the bars on the screen for the duration."""
        if self._moving:
            with self._bars:
                yield
        else:
            yield

    def say(self, words: str) -> None:
        """Write one line above the bars."""
        if not self._quiet:
            self._console.print(words, highlight=False)

    def step(self, step: Step) -> None:
        """Draw one step of a round."""
        with self._lock:
            if step.stage == "refuse":
                why = escape(plain(step.note))  # a hospital's words
                self.say(f"  round {step.round}: [bold red]refused[/] {step.site}: {why}")
            if step.stage == "close":
                self._bar("rounds", step.done, step.total, f"round {step.round} closed")
            elif step.site is not None and step.stage in WORDS:
                self._site(step.site, step)

    def tick(self, name: str, done: int, total: int, doing: str) -> None:
        """Draw work that is not a round: writing images, training baselines."""
        with self._lock:
            self._bar(name, done, total, doing)

    def finish(self, name: str) -> None:
        """Take a bar away once its work is done."""
        with self._lock:
            task = self._tasks.pop(name, None)
            if task is not None:
                self._bars.remove_task(task)

    def _site(self, site: SiteId, step: Step) -> None:
        words = f"round {step.round}: {WORDS[step.stage]}"
        if step.stage in {"train", "features"}:
            self._bar(site, step.done, step.total, f"{words} {step.done}/{step.total}")
        else:
            self._bar(site, 1, 1, words)

    def _bar(self, name: str, done: int, total: int, doing: str) -> None:
        if not self._moving:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, name=name, doing=doing)
        self._bars.update(self._tasks[name], completed=done, total=total, doing=doing)
