"""How a command of the project ends: its exit status, and one line for a user's mistake."""

import contextlib
import sys
from collections.abc import Callable
from typing import NoReturn

from trainable.common.errors import UserError


def run_command(command: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's main and exit: 2 after a user's mistake (one message), 130 after Ctrl-C."""
    try:
        status = command(sys.argv[1:])
    except UserError as error:
        _tell(f"error: {error}")
        status = 2
    except KeyboardInterrupt:
        _tell("interrupted")
        status = 130
    except BrokenPipeError:  # the reader went away, as `| head` does: nothing is wrong
        sys.stderr.close()
        status = 141
    sys.exit(status)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody there to be told: the status tells it, too
        print(text, file=sys.stderr, flush=True)
