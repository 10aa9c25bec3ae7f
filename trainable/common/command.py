"""How a command of the project ends: its exit status, and one line for a user's mistake."""

import sys
from collections.abc import Callable
from typing import NoReturn

from trainable.common.errors import UserError


def run_command(command: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's main and exit: 2 after a user's mistake (one message), 130 after Ctrl-C."""
    try:
        status = command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader went away, as `| head` does: nothing is wrong
        sys.stderr.close()
        status = 141
    sys.exit(status)
