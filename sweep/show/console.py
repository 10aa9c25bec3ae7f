"""Where commands print: the terminal, or lines of a fixed width."""

from rich.console import Console
from rich.text import Text

PLAIN_WIDTH = 110
"""Columns of output that does not go to a terminal."""


def open_console() -> Console:
    """Return a console as wide as the terminal; elsewhere of a fixed width."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def say(console: Console, text: str) -> None:
    """Print text as it is, in a line however long: commands in it can be copied."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def plain(text: str) -> Text:
    """Return data as it is to be shown: no markup, no emoji, and no codes that a terminal obeys."""
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return Text("".join(shown))
