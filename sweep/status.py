"""Sweeps and their trials, from our own record: `python sweep/status.py [NAME]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.table import Table

from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, duration, outcome_text
from sweep.common.errors import SweepError
from sweep.conduct.stop import stop_sweep
from sweep.engine.failures import unwritable_error
from sweep.record.folder import find_sweep, read_sweep, results_folder, sweep_names
from sweep.record.lock import is_running, locked
from sweep.record.repair import repair_record
from sweep.record.results import SweepRecord
from sweep.show.console import open_console, say
from sweep.show.follow import follow_sweep
from sweep.show.summary import say_findings
from sweep.show.tables import best_by_size, leaderboard, plain_table
from sweep.tracking.delivery import deliver_all_again
from trainable.common.command import run_command
from trainable.common.errors import ConfigError

ACTIONS = ("sync", "repair", "follow", "stop", "pause")


@dataclass(frozen=True)
class Arguments:
    """List all sweeps, or the trials of one."""

    name: tyro.conf.Positional[str | None] = None
    """Name of a sweep, or its folder; unset: all sweeps."""
    sync: bool = False
    """Deliver to MLflow what it has not got yet."""
    repair: bool = False
    """Mend a damaged record; what cannot be mended is set aside in results/NAME."""
    follow: bool = False
    """Show a running sweep as its own terminal does, until it ends; Ctrl-C leaves it running."""
    stop: bool = False
    """End a running sweep as a signal would, from wherever its folder is seen."""
    pause: bool = False
    """The same, and say that it is to be gone on with."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = tyro.cli(Arguments, args=argv, prog="status.py")
    console = open_console()
    asked = [f"--{name}" for name in ACTIONS if getattr(arguments, name)]
    if arguments.name is None:
        if asked:
            raise ConfigError(
                f"{', '.join(asked)}: name the sweep, as in `status.py sweep-001 {asked[0]}`"
            )
        return _show_all(console)
    folder = find_sweep(arguments.name)
    if len(asked) > 1 and set(asked) != {"--sync", "--repair"}:
        raise ConfigError(f"{', '.join(asked)}: give one of them")
    if arguments.follow:
        return follow_sweep(folder, console)
    if arguments.stop or arguments.pause:
        stop_sweep(folder, "stop" if arguments.stop else "pause", console)
        return 0
    if arguments.repair:
        _repair(folder, console)
    if arguments.sync:
        _sync(folder, console)
    elif not arguments.repair:
        _show_one(folder, console)
    return 0


def _show_all(console: Console) -> int:
    names = sweep_names()
    if not names:
        say(console, f"no sweeps in {results_folder()}")
        return 0
    rows, damaged = [], []
    for name in names:
        folder = results_folder() / name
        try:
            read_sweep(folder)
            record = SweepRecord.read(folder)
        except SweepError as error:
            rows.append([name, "damaged", "-", "-", "-"])
            damaged.append(str(error))
            continue
        best = record.best
        rows.append(
            [
                name,
                _state(folder, record),
                f"{len(record.trials)}/{record.num_samples}",
                f"{best.best_val_loss:.4f}" if best else "-",
                best.name if best else "-",
            ]
        )
    console.print(plain_table(["sweep", "state", "trials", "best val_loss", "best trial"], rows))
    for why in damaged:
        say(console, f"\n{why}")
    return 0


def _show_one(folder: Path, console: Console) -> None:
    name = folder.name
    config, record = read_sweep(folder).config, SweepRecord.read(folder)
    state = _state(folder, record)
    say(
        console,
        f"{name}: {state}; {counts_text(record) or 'no trials'} of {record.num_samples}; "
        f"{duration(record.seconds)} in {record.sessions} session(s)",
    )
    console.print(leaderboard(config, record, limit=None))
    study = Study(config, record)
    for table in (_reasons(record), best_by_size(study)):
        if table is not None:
            console.print()
            console.print(table)
    say_findings(console, study)
    if state not in ("running", "complete"):
        say(console, f"\ngo on with  python sweep/run.py --resume {name}")


def _reasons(record: SweepRecord) -> Table | None:
    told = [trial for trial in record.trials.values() if trial.reason]
    if not told:
        return None
    rows = ((trial.name, outcome_text(trial), trial.reason or "") for trial in told)
    return plain_table(["trial", "outcome", "reason"], rows)


def _state(folder: Path, record: SweepRecord) -> str:
    if is_running(folder):
        return "running"
    return record.end


def _sync(folder: Path, console: Console) -> None:
    from sweep.conduct.settle import settle

    with locked(folder):
        delivered = settle(folder, read_sweep(folder))
    say(console, f"{folder.name}: {delivered} events delivered to MLflow")


def _repair(folder: Path, console: Console) -> None:
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


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
