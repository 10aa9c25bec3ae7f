"""A sweep that runs elsewhere, shown as in its own terminal: read from the record as it grows."""

import time
from pathlib import Path

from rich.console import Console

from sweep.analysis.words import counts_text
from sweep.record.events import read_events_from
from sweep.record.folder import read_sweep
from sweep.record.lock import is_running
from sweep.record.results import SweepRecord
from sweep.show.console import say
from sweep.show.progress import Progress
from sweep.show.summary import end_text

LOOK_EVERY_SECONDS = 0.5


def follow_sweep(folder: Path, console: Console) -> int:
    """Show a sweep until its session ends, and say how it did; nothing is written, nor waited for.

    Returns:
        The exit status: 0; 1 if its driver went without a word; 130 after Ctrl-C, which ends the
        showing alone.
    """
    following = _Following(folder, console)
    try:
        following.to_the_end()
    except KeyboardInterrupt:
        say(console, f"{folder.name} goes on")
        return 130
    say(console, end_text(folder.name, read_sweep(folder).config, following.record))
    return 0 if following.record.session_started is None else 1


class _Following:
    """The record of a sweep as far as it was read.

    Args:
        folder: the sweep's.
        console: where to show it.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.record = SweepRecord()
        self._folder = folder
        self._console = console
        self._offset = 0

    def to_the_end(self) -> None:
        """Show the running session, once it has begun, until it has ended."""
        running = self._read()
        if running and self.record.session_started is None:
            say(self._console, f"{self._folder.name}: starts")
        while running and self.record.session_started is None:
            time.sleep(LOOK_EVERY_SECONDS)
            running = self._read()
        if not running:
            return
        config = read_sweep(self._folder).config  # a resume may have changed it
        counts = counts_text(self.record) or "no trial"
        say(self._console, f"{self._folder.name}: running: {counts} of {config.num_samples}")
        plan = self.record.plan if self.record.sessions == 1 else None
        with Progress(config, self.record, plan, self._console) as progress:
            while running and self.record.session_started is not None:
                time.sleep(LOOK_EVERY_SECONDS)
                running = self._read(progress)

    def _read(self, progress: Progress | None = None) -> bool:
        """Take in what is new on record; say whether the sweep ran until then."""
        running = is_running(self._folder)
        events, self._offset = read_events_from(self._folder, self._offset)
        for event in events:
            self.record.apply_all([event])
            if progress is not None:
                progress.notice(event)
        return running
