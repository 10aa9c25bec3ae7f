"""Whether a sweep runs, is complete, or waits to be gone on with."""

from pathlib import Path
from typing import Literal

from sweep.record.lock import is_running
from sweep.record.results import End, SweepRecord

State = Literal["running"] | End


def state_of(folder: Path, record: SweepRecord) -> State:
    """Return the state of a sweep, given its record."""
    if is_running(folder):
        return "running"
    return record.end
