# ruff: noqa: PLC0415 - a command loads only what it needs: `--help` in a second, not in ten
"""``bithive watch`` and ``bithive live serve``: see a run while it runs, here or in a browser."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

if TYPE_CHECKING:  # a command loads only what it needs
    from portal.live.events import LiveEvent

app = typer.Typer(no_args_is_help=True, help="A run's live page.")

DEFAULT_HOME: Final = Path("bithive-home")
DEFAULT_PORT: Final = 8480
POLL_SECONDS: Final = 0.25
STOPPED_SECONDS: Final = 90
"""How long a run of another machine may be stopped: its supervisor starts it again within this."""
words = Console(stderr=True)


@app.command(epilog="Example:  bithive live serve --home bithive-home --port 8480")
def serve(
    *,
    home: Annotated[
        Path, typer.Option("--home", help="The run's folder.", file_okay=False)
    ] = DEFAULT_HOME,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port on this machine; 0 for a free one.")
    ] = DEFAULT_PORT,
) -> None:
    """Serve a run's live page to browsers on this machine, until interrupted."""
    from portal.live.server import serve as serve_page

    def told(address: str) -> None:
        words.print(f"the run as it happens: {address}", highlight=False, soft_wrap=True)

    serve_page(home, port=port, told=told)


def watch(
    *,
    home: Annotated[
        Path, typer.Option("--home", help="The run's folder.", file_okay=False)
    ] = DEFAULT_HOME,
    url: Annotated[
        str | None, typer.Option("--url", help="Of a `bithive live serve`, in place of --home.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one event a line.")] = False,
) -> None:
    """Watch a run until it ends: exit code 0 if it is finished, 1 if it stopped."""
    from portal.home import Home
    from portal.live.reader import until_reader_leaves
    from portal.live.source import HomeSource, ServerSource, follow_home

    if url is None:
        events = follow_home(HomeSource(Home(home)), poll_seconds=POLL_SECONDS)
        title = str(home)
    else:
        source = ServerSource(url)
        events, title = source.follow(), source.url
    with until_reader_leaves():
        finished = _show(events, title, home=home if url is None else None, as_json=as_json)
    if not finished:
        raise typer.Exit(1)


def _show(
    events: Iterator[LiveEvent | None], title: str, *, home: Path | None, as_json: bool
) -> bool:
    """Show events until their run ends; say whether it is finished."""
    from contextlib import nullcontext
    from datetime import UTC, datetime

    from rich.live import Live

    from portal.live.terminal import draw, is_moving, line_of
    from portal.live.view import FINISHED, View

    view, console, stopped = View(), Console(), 0.0
    moving = is_moving(console) and not as_json
    picture = Live(
        get_renderable=lambda: draw(view, title=title, now=datetime.now(UTC)), console=console
    )
    with picture if moving else nullcontext():
        for event in events:
            if event is None:
                if view.outcome is not None and _is_over(home, time.monotonic() - stopped):
                    break  # it stopped, and nobody has gone on with it
                continue
            view = view.after(event)
            stopped = time.monotonic()
            line = event.text() if as_json else None if moving else line_of(event, view)
            if line is not None:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    return view.outcome == FINISHED


def _is_over(home: Path | None, seconds: float) -> bool:
    """Say whether nobody goes on with a run that stopped so long ago."""
    return seconds >= STOPPED_SECONDS if home is None else not _is_kept(home)


def _is_kept(home: Path) -> bool:
    """Say whether a supervisor works in this home: it starts another run where one stopped."""
    from contextlib import suppress

    from portal.deployment.hold import holder
    from portal.deployment.plan import folder_of

    with suppress(OSError):  # another user's: who cannot look waits for nobody
        return holder(folder_of(home))[1]
    return False
