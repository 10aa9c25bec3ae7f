"""The sweep's own record: an append-only file of JSON lines, the source of all that is shown.

Results, the terminal, MLflow, the rungs and the searcher's memory after a resume are all read
from these events, so they cannot disagree. A line is one write: a killed process leaves at most
one torn line, the last, which readers pass over and the next writer cuts off.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError

EVENTS_FILE = "events.jsonl"

Event = dict[str, Any]
"""Has "event", its kind, and "time", Unix seconds; see results.py for each kind's other keys."""


def read_events(folder: Path) -> list[Event]:
    """Return the events of a sweep folder in order; none if the sweep never began.

    Raises:
        SweepError: a line other than a torn last one is not a JSON object with an event and a time.
    """
    return read_events_from(folder, 0)[0]


def read_events_from(folder: Path, offset: int, end: int | None = None) -> tuple[list[Event], int]:
    """Return the events between two byte offsets, and the offset behind the last of them.

    Raises:
        SweepError: as for read_events.
    """
    path = folder / EVENTS_FILE
    events: list[Event] = []
    if not path.exists():
        return events, offset
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n") or (end is not None and offset >= end):
                break
            try:
                event = json.loads(line, parse_constant=_refuse)
                valid = isinstance(event["event"], str) and math.isfinite(event["time"])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                valid = False
            if not valid:
                raise SweepError(f"{path}: the line at byte {offset} is damaged; restore a backup")
            events.append(event)
            offset += len(line)
    return events, offset


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


class EventLog:
    """Appends events to a sweep folder and tells each to its listeners.

    The sweep's lock must be held.
    """

    def __init__(self, folder: Path) -> None:
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.RLock()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(folder / EVENTS_FILE, flags, 0o600)
        self._cut_torn_line(folder / EVENTS_FILE)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every further event, after it is written."""
        self._listeners.append(listener)

    def append(self, kind: str, **facts: Any) -> None:
        """Write one event, stamped with the time.

        Raises:
            OSError: the disk is full; the file is then as before.
        """
        with self._lock:
            event: Event = {"event": kind, "time": round(time.time(), 3), **facts}
            line = json.dumps(event, allow_nan=False).encode() + b"\n"
            size = os.fstat(self._descriptor).st_size
            if os.write(self._descriptor, line) != len(line):
                os.ftruncate(self._descriptor, size)
                raise OSError(28, "no space left for the sweep's record")
            for listener in self._listeners:
                listener(event)

    def seal(self) -> None:
        """Let only this thread append from now on: it is about to end the process."""
        self._lock.acquire()

    def close(self) -> None:
        """Make all events durable."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _cut_torn_line(self, path: Path) -> None:
        content = path.read_bytes()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)
