"""A sweep in pictures: `python sweep/report.py NAME` writes results/NAME/report.html."""

import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from sweep.record.folder import find_sweep
from sweep.show.commands import shown_path
from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.common.parse import parse


@dataclass(frozen=True)
class Arguments:
    """Write a sweep's report: one HTML file with its pictures, its findings and all its trials.

    Of several sweeps it writes one that compares them.
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME [NAME ...]")
    ]
    """Names of sweeps, or their folders."""
    watch: bool = False
    """Write it again whenever the sweep's record grew, until the sweep ends; for one sweep."""
    every: float = 10.0
    """With --watch: seconds between two looks, at least 1."""
    optuna: str | None = None
    """Instead of the report, write the sweep as an Optuna study to this SQLite file, for
    `optuna-dashboard sqlite:///FILE`; other studies in it stay."""
    json: bool = False
    """Print one JSON document to standard output."""
    quiet: bool = False
    """Print only the file that was written, and errors."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "report.py")
    output = Output(json=arguments.json, quiet=arguments.quiet)
    if not arguments.names:
        raise ConfigError("report.py: name a sweep, as in `report.py sweep-001`")
    single = [f"--{name}" for name in ("watch", "optuna") if getattr(arguments, name)]
    if single and len(arguments.names) > 1:
        raise ConfigError(f"{single[0]}: of one sweep, not of {len(arguments.names)}; leave one")
    if arguments.every < 1:
        raise ConfigError(f"--every {arguments.every:g}: at least 1 second")
    folders = [find_sweep(name) for name in arguments.names]
    if arguments.optuna is not None:
        from sweep.doors.loaded import load_sweep

        path = Path(arguments.optuna).expanduser().resolve()
        load_sweep(folders[0]).write_optuna_study(path)
        shown = shlex.quote(f"sqlite:///{shown_path(path)}")
        name = folders[0].name
        output.say(f"study {name} written; look at it with\n  optuna-dashboard {shown}")
        _tell("study", folders, path, output)
        return 0
    # scipy takes a while to import: not for --help
    from sweep.show.comparison import write_comparison
    from sweep.show.report import watch_report, write_report

    if arguments.watch:
        written = watch_report(folders[0], arguments.every)
    elif len(folders) > 1:
        written = write_comparison(folders)
    else:
        written = write_report(folders[0])
    output.say(shown_path(written))
    _tell("comparison" if len(folders) > 1 else "report", folders, written, output)
    return 0


def _tell(
    kind: Literal["report", "comparison", "study"],
    folders: list[Path],
    written: Path,
    output: Output,
) -> None:
    from sweep.show.documents import WrittenDocument

    names = [folder.name for folder in folders]
    document = partial(WrittenDocument, kind=kind, sweeps=names, path=str(written.resolve()))
    output.result(shown_path(written), document)


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
