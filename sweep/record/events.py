"""The sweep's own record: an append-only file of JSON lines, the source of all that is shown.

Results, the terminal, MLflow, the rungs and the searcher's memory after a resume are all read
from these events, so they cannot disagree. A line is one write: a killed process leaves at most
one torn line, the last, which readers pass over and the next writer cuts off. Any other change of
a line is found by its checksum.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.record.lines import Event, from_line, is_sound, to_line
from trainable.common.files import fsync_folder

EVENTS_FILE = "events.jsonl"


def read_events(folder: Path) -> list[Event]:
    """Return the events of a sweep folder in order; none if the sweep never began.

    Raises:
        SweepError: the file cannot be read, or a line other than a torn last one is not as it was
            written.
    """
    return read_events_from(folder, 0)[0]


def read_events_from(folder: Path, offset: int, end: int | None = None) -> tuple[list[Event], int]:
    """Return the events between two byte offsets, and the offset behind the last of them.

    Raises:
        SweepError: as for read_events.
    """
    path = folder / EVENTS_FILE
    events: list[Event] = []
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if is_torn(line) or (end is not None and offset >= end):
                    break
                events.append(from_line(line))
                offset += len(line)
    except FileNotFoundError:
        return events, offset
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SweepError(
            f"{path}: the line at byte {offset} is damaged; "
            f"`python sweep/status.py {folder.name} --repair` goes on without it"
        ) from error
    return events, offset


def is_torn(line: bytes) -> bool:
    """Say whether a line is one that a killed process began, and not a whole one that was changed.

    The latter is the last line, if only the newline at its end is another byte.
    """
    return not line.endswith(b"\n") and not is_sound(line[:-1] + b"\n")


def sync_events(folder: Path) -> None:
    """Make durable what any process has recorded so far: before it is told anywhere else."""
    descriptor = os.open(folder / EVENTS_FILE, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        fsync_folder(folder)

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
            line = to_line(event)
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
