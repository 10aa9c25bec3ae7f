"""A damaged record made whole: one flipped bit is mended, what cannot be is set aside."""

import io
import itertools
import time
from pathlib import Path
from typing import Any

from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE, is_torn
from sweep.record.lines import Event, from_line, is_sound, mended, to_line
from sweep.record.results import SweepRecord
from trainable.common.files import write_atomic


def repair_record(folder: Path, num_samples: int) -> list[str]:
    """Mend a sweep's record; keep its damaged lines in events.jsonl.damaged-N.

    A trial whose start is lost is lost with all its events; its number is not given to another,
    which would go on in its MLflow run. Where an outcome is lost, a resume goes on with the trial.
    The sweep's lock must be held. Bytes move: what has an offset into the record must forget it.

    Args:
        folder: the sweep's.
        num_samples: its trials, where the record no longer says so.

    Returns:
        What was found, in words; nothing if all is well.

    Raises:
        SweepError: there is no record.
        OSError: the disk is full; the record is then as before.
    """
    path = folder / EVENTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    repair = _Repair()
    for number, line in enumerate(io.BytesIO(content), start=1):
        if is_torn(line):
            break  # as after any crash
        repair.take(number, line)
    if not repair.found:
        return []
    repair.complete(_newest_session(folder), num_samples)
    aside = _free_name(path)
    write_atomic(aside, b"".join(repair.damaged))
    write_atomic(path, b"".join(repair.whole))
    return [*repair.found, f"the lines as they were: {aside.name}"]


class _Repair:
    """What becomes of the lines of a record, one after another."""

    def __init__(self) -> None:
        self.whole: list[bytes] = []
        """The lines of the new record."""
        self.damaged: list[bytes] = []
        """The lines of the old one that are not in it as they were."""
        self.found: list[str] = []
        """What was found, in words."""
        self._record = SweepRecord()
        self._orphans: set[str] = set()
        """Trials that events name, and whose start is lost."""

    def take(self, number: int, line: bytes) -> None:
        """Take in a line of the old record."""
        if is_sound(line):
            self._keep(number, line)
            return
        self.damaged.append(line)
        lines = mended(line)
        if not lines:
            self.found.append(f"line {number}: cannot be read, set aside: {line[:100]!r}")
        for mend in lines:
            self.found.append(f"line {number}: one flipped bit, mended: {_words(from_line(mend))}")
            self._keep(number, mend)

    def complete(self, newest_session: int, num_samples: int) -> None:
        """Write again what the sweep cannot go on without."""
        for name in sorted(self._orphans - set(self._record.trials)):
            self._append("trial_lost", trial=name)
        if newest_session > self._record.sessions:  # else its folder would be used again
            self._append("session_started", session=newest_session, num_samples=num_samples)

    def _keep(self, number: int, line: bytes) -> None:
        event = from_line(line)
        try:
            self._record.apply(event)
        except (KeyError, TypeError, ValueError, OverflowError):
            self._orphans.add(str(event.get("trial")))
            self.damaged.append(line)
            self.found.append(f"line {number}: set aside, for its start is lost: {_words(event)}")
        else:
            self.whole.append(line)

    def _append(self, kind: str, **facts: Any) -> None:
        event = {"event": kind, "time": self._record.updated or time.time(), **facts}
        self.whole.append(to_line(event))
        self._record.apply(event)


def _words(event: Event) -> str:
    words = event["event"].replace("_", " ")
    return f"{words} of {event['trial']}" if "trial" in event else words


def _newest_session(folder: Path) -> int:
    """Return the highest number of a folder that Tune made for a session; 0 if there is none."""
    numbers = (path.name.removeprefix("session-") for path in folder.glob("session-*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
