"""Where commands print: the terminal, or lines of a fixed width."""

from rich.console import Console

PLAIN_WIDTH = 110
"""Columns of output that does not go to a terminal."""


def open_console() -> Console:
    """Return a console as wide as the terminal; elsewhere of a fixed width."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def say(console: Console, text: str) -> None:
    """Print text as it is, in a line however long: commands in it can be copied."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
