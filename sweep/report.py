"""A sweep in pictures: `python sweep/report.py NAME` writes results/NAME/report.html."""

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


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = tyro.cli(Arguments, args=argv, prog="report.py")
    console = open_console()
    folder = find_sweep(arguments.name)
    from sweep.show.report import write_report  # scipy takes a while to import: not for --help

    say(console, shown_path(write_report(folder)))
    return 0


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
