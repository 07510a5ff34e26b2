"""What a hospital says of a refusal is shown as its words, and steers no terminal."""

import io

from rich.console import Console

from portal.display import Display
from protocol.progress import Step


def test_a_hospitals_words_neither_end_the_display_nor_steer_the_terminal():
    screen = io.StringIO()
    display = Display(Console(file=screen, width=200))
    display.step(Step("refuse", 3, "north", note="code: [/bold] [red]all is well\x1b[2K\u202e"))
    assert "refused north: code: [/bold] [red]all is well?[2K?" in screen.getvalue()
