"""Where commands print: the terminal, or lines of a fixed width."""

import os
import sys
import textwrap
from functools import partial
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from trainable.common.output import Output

PLAIN_WIDTH = 110
"""Columns of output that does not go to a terminal."""


class LastingOutput:
    """A stream that leads nowhere once its other end is gone: `| head`, or a closed terminal.

    What is printed is a view of what is recorded: a sweep goes on without anybody who looks.

    Args:
        stream: an open text file with a descriptor.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what the stream takes."""
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flush as far as there is somebody to flush to."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # with what the stream still holds
        os.close(nowhere)


def open_console(output: Output | None = None) -> Console:
    """Return a console as wide as the terminal; elsewhere of a fixed width.

    Args:
        output: where a command prints; by default for a person, to standard output.
    """
    if output and output.quiet:
        return Console(quiet=True, force_terminal=False)
    stream = sys.stderr if output and output.json else sys.stdout
    file: Any = None if stream is None else LastingOutput(stream)
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=PLAIN_WIDTH)


def say(console: Console, text: str) -> None:
    """Print text as it is, in a line however long: commands in it can be copied."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def say_folded(console: Console, text: str, indent: int) -> None:
    """Print prose: in a terminal folded between words, what follows indented; else in one line."""
    if console.is_terminal:
        fold = partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
        text = fold(text, max(20, console.width), subsequent_indent=" " * indent)
    say(console, text)


def plain(text: str) -> Text:
    """Return data as it is to be shown: no markup, no emoji, and no codes that a terminal obeys."""
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return Text("".join(shown))
