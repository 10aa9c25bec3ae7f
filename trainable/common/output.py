"""Where a command prints: its result alone to standard output, for a person or as JSON."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainable.common.document import Document


class Output:
    """A command's `--json` and `--quiet`.

    Messages follow what is done: they go to standard output for a person, to standard error beside
    JSON, and nowhere if the command is quiet. Errors and warnings go to standard error always.

    Args:
        json: whether the result is one JSON document.
        quiet: whether only the result and errors are printed.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    @property
    def is_for_people(self) -> bool:
        """Whether somebody reads all that is printed."""
        return not self.json and not self.quiet

    def say(self, text: str, *, end: str = "\n") -> None:
        """Print a message, unless the command is quiet."""
        if not self.quiet:
            print(text, end=end, file=sys.stderr if self.json else sys.stdout, flush=True)

    def result(self, brief: str, document: Callable[[], "Document"]) -> None:
        """Print the result where it is not among the messages: as JSON, or in brief."""
        if self.json:
            indent = 2 if sys.stdout.isatty() else None
            print(json.dumps(document().model_dump(), indent=indent, allow_nan=False), flush=True)
        elif self.quiet:
            print(brief, flush=True)
