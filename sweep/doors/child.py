"""The process in which run_sweep's sweep runs: told by a line of JSON, it tells by others."""

import json
import os
import signal
import threading
from typing import Any

from sweep.conduct.ordered import run_ordered
from trainable.common.errors import UserError


def main(channel: int) -> int:
    """Read what to do from standard input, and do it; return the exit status.

    What is told to `channel`, a line each: {"name": ...} once a session has begun, {"error":
    classes, "text": ...}, {"status": ...} at the end. Where standard input ends before, the process
    that started this one is gone.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a thread of a notebook ignores it
    order = json.loads(_first_line())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()

    def tell(**message: Any) -> None:
        os.write(channel, json.dumps(message).encode() + b"\n")

    try:
        status = run_ordered(order, lambda folder, _: tell(name=folder.name))
    except UserError as error:
        tell(error=[kind.__name__ for kind in type(error).__mro__], text=str(error))
        return 2
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    tell(status=status)
    return status


def _first_line() -> bytes:
    with open(0, "rb", closefd=False) as file:
        return file.readline()


def _end_with_parent() -> None:
    # Without Python's own buffer: its lock would be held for ever.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
