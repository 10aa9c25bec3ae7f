"""A command's words as a dataclass; what the parser refuses is told in one line."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, TypeVar

from trainable.common.errors import ConfigError

T = TypeVar("T")


def parse(made: type[T], argv: Sequence[str], prog: str, **given: Any) -> T:
    """Return `made` filled from a command's words (tyro: `--section.field value`).

    Args:
        made: a dataclass; its fields' texts are the help.
        argv: the words.
        prog: the command's name.
        given: more of what tyro's `cli` takes.

    Raises:
        ConfigError: the words are not understood; a misspelt flag is told with the nearest one.
        SystemExit: help was asked for, and printed.
    """
    import tyro  # it costs a quarter of a second: only commands that have flags pay it

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            filled: T = tyro.cli(made, args=[*argv], prog=prog, **given)
        return filled
    except SystemExit as end:
        if not end.code:
            raise
    raise ConfigError(f"{prog}: {_line(told.getvalue())}; see {prog} --help")


def _line(box: str) -> str:
    """Return the text of the parser's box, without its title and its frame, as one line.

    Rules stand between its parts; where the output is ASCII, so is the box.
    """
    parts = [""]
    _, *framed = [line for line in box.splitlines() if line.strip()]
    for line in framed:
        words = line.strip("│ ")
        if set(words) <= set("─-╰╯"):
            parts.append("")
        else:
            parts[-1] += f" {words}"
    whole = [part.strip(" .") for part in parts]
    return "; ".join(part for part in whole if part and not part.startswith("For full helptext"))
