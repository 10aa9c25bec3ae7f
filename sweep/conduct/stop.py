"""A running sweep is asked to end, from wherever its folder is seen."""

import time
from pathlib import Path

from rich.console import Console

from sweep.common.errors import SweepError
from sweep.control.orders import Want, give_order
from sweep.record.folder import read_sweep
from sweep.record.lock import is_running
from sweep.record.results import ENDS, SweepRecord
from sweep.show.console import say
from sweep.show.summary import end_text

PATIENCE_SECONDS = 120.0
"""How long the end is waited for: trials are saved in 15 s, MLflow may take 60 s more."""

LOOK_EVERY_SECONDS = 0.1


def stop_sweep(
    folder: Path, want: Want, console: Console, patience: float = PATIENCE_SECONDS
) -> None:
    """Ask a sweep for its end and wait for it; say what became of it.

    Raises:
        SweepError: it cannot be asked, or has not ended within `patience` seconds.
    """
    name, record = folder.name, SweepRecord.read(folder)
    if not is_running(folder):
        say(console, f"{name}: does not run ({record.end}), so there is nothing to {want}")
        return
    began = record.session_started is not None
    try:
        give_order(folder, want, record.sessions + (not began))
    except OSError as error:
        raise SweepError(
            f"--{want}: {folder}: {error.strerror}; a sweep is asked by a file in its folder"
        ) from error
    say(console, f"{name}: asked to {want}; it saves its trials and ends")
    _wait_for_end(folder, want, patience)
    record = SweepRecord.read(folder)
    if not record.sessions:
        say(console, f"{name}: {ENDS[want]} before the first trial; nothing is left of it")
        return
    say(console, end_text(name, read_sweep(folder).config, record))


def _wait_for_end(folder: Path, want: Want, patience: float) -> None:
    deadline = time.monotonic() + patience
    while is_running(folder):
        if time.monotonic() > deadline:
            raise SweepError(
                f"status.py {folder.name} --{want}: the sweep has not ended in {patience:g} s; "
                "it was asked, and may wait for a slow disk or MLflow: ask again, or end its "
                "process with SIGTERM"
            )
        time.sleep(LOOK_EVERY_SECONDS)
