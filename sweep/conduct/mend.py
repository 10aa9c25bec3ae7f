"""A sweep's record is mended, and what MLflow lacks of it is delivered, while no session runs."""

from pathlib import Path

from rich.console import Console

from sweep.conduct.settle import settle
from sweep.engine.failures import unwritable_error
from sweep.record.folder import read_sweep
from sweep.record.lock import locked
from sweep.record.repair import repair_record
from sweep.show.console import say
from sweep.tracking.delivery import deliver_all_again


def sync(folder: Path, console: Console) -> None:
    """Deliver to MLflow what it has not got yet.

    Raises:
        SweepError: a session runs, or a file of the sweep is damaged.
    """
    with locked(folder):
        delivered = settle(folder, read_sweep(folder))
    say(console, f"{folder.name}: {delivered} events delivered to MLflow")


def repair(folder: Path, console: Console) -> None:
    """Mend a damaged record; say what was set aside.

    Raises:
        SweepError: a session runs, or the sweep cannot be written.
    """
    num_samples = read_sweep(folder).config.num_samples
    try:
        with locked(folder):
            deliver_all_again(folder)  # first: an offset must not outlive what it counts
            found = repair_record(folder, num_samples)
    except OSError as error:
        raise unwritable_error(folder, error) from error
    for line in found:
        say(console, line)
    name = folder.name
    say(
        console,
        f"{name}: repaired; go on with  python sweep/run.py --resume {name}"
        if found
        else f"{name}: nothing is damaged",
    )
