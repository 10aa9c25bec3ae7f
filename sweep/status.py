"""Sweeps and their trials, from our own record: `python sweep/status.py [NAME]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.table import Table

from sweep.analysis.words import counts_text, duration, outcome_text
from sweep.record.folder import find_sweep, read_sweep, results_folder, sweep_names
from sweep.record.lock import is_running
from sweep.record.results import SweepRecord
from sweep.show.console import open_console, say
from sweep.show.tables import best_by_size, leaderboard, plain_table
from trainable.common.command import run_command
from trainable.common.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """List all sweeps, or the trials of one."""

    name: tyro.conf.Positional[str | None] = None
    """Name of a sweep; unset: all sweeps."""
    sync: bool = False
    """Deliver to MLflow what it has not got yet."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = tyro.cli(Arguments, args=argv, prog="status.py")
    console = open_console()
    if arguments.sync:
        if arguments.name is None:
            raise ConfigError("--sync: name the sweep to deliver")
        return _sync(arguments.name, console)
    if arguments.name is None:
        return _show_all(console)
    return _show_one(arguments.name, console)


def _show_all(console: Console) -> int:
    names = sweep_names()
    if not names:
        say(console, f"no sweeps in {results_folder()}")
        return 0
    table = plain_table("sweep", "state", "trials", "best val_loss", "best trial")
    for name in names:
        record = SweepRecord.read(results_folder() / name)
        best = record.best
        table.add_row(
            name,
            _state(results_folder() / name, record),
            f"{len(record.trials)}/{record.num_samples}",
            f"{best.best_val_loss:.4f}" if best else "-",
            best.name if best else "-",
        )
    console.print(table)
    return 0


def _show_one(name: str, console: Console) -> int:
    folder = find_sweep(name)
    config, record = read_sweep(folder).config, SweepRecord.read(folder)
    state = _state(folder, record)
    say(
        console,
        f"{name}: {state}; {counts_text(record) or 'no trials'} of {record.num_samples}; "
        f"{duration(record.seconds)} in {record.sessions} session(s)",
    )
    console.print(leaderboard(config, record, limit=None))
    for table in (_reasons(record), best_by_size(config, record)):
        if table is not None:
            console.print()
            console.print(table)
    if state == "interrupted":
        say(console, f"\ngo on with  python sweep/run.py --resume {name}")
    return 0


def _reasons(record: SweepRecord) -> Table | None:
    told = [trial for trial in record.trials.values() if trial.reason]
    if not told:
        return None
    table = plain_table("trial", "outcome", "reason")
    for trial in told:
        table.add_row(trial.name, outcome_text(trial), trial.reason)
    return table


def _state(folder: Path, record: SweepRecord) -> str:
    if is_running(folder):
        return "running"
    done = len(record.trials) >= record.num_samples and not record.unfinished
    return "complete" if done and record.sessions else "interrupted"


def _sync(name: str, console: Console) -> int:
    from sweep.conduct.settle import settle
    from sweep.record.lock import locked

    folder = find_sweep(name)
    with locked(folder):
        delivered = settle(folder, read_sweep(folder))
    say(console, f"{name}: {delivered} events delivered to MLflow")
    return 0


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
