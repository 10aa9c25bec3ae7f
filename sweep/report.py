"""A sweep in pictures: `python sweep/report.py NAME` writes results/NAME/report.html."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from sweep.record.folder import find_sweep
from sweep.show.commands import shown_path
from sweep.show.console import open_console, say
from trainable.common.command import run_command


@dataclass(frozen=True)
class Arguments:
    """Write a sweep's report: one HTML file with its pictures, its findings and all its trials."""

    name: tyro.conf.Positional[str]
    """Name of the sweep, or its folder."""
    optuna: str | None = None
    """Instead of the report, write the sweep as an Optuna study to this SQLite file, for
    `optuna-dashboard sqlite:///FILE`; other studies in it stay."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = tyro.cli(Arguments, args=argv, prog="report.py")
    console = open_console()
    folder = find_sweep(arguments.name)
    if arguments.optuna is not None:
        from sweep.doors.loaded import load_sweep

        path = Path(arguments.optuna).expanduser().resolve()
        load_sweep(folder).write_optuna_study(path)
        shown = shlex.quote(f"sqlite:///{shown_path(path)}")
        say(console, f"study {folder.name} written; look at it with\n  optuna-dashboard {shown}")
        return 0
    from sweep.show.report import write_report  # scipy takes a while to import: not for --help

    say(console, shown_path(write_report(folder)))
    return 0


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
