"""Sweeps and their trials, from our own record: `python sweep/status.py [NAME]`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console

from sweep.analysis.study import Study
from sweep.engine.failures import unwritable_error
from sweep.record.folder import find_sweep, read_sweep
from sweep.record.lock import locked
from sweep.record.repair import repair_record
from sweep.record.results import SweepRecord
from sweep.show.console import open_console, say
from sweep.show.sweeps import tell_all, tell_one
from sweep.show.trials_csv import trials_csv
from sweep.tracking.delivery import deliver_all_again
from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.files import write_atomic
from trainable.common.output import Output

ACTIONS = ("sync", "repair", "follow", "stop", "pause", "csv")


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
    csv: str | None = None
    """Write the trials to this file as CSV, one row each; `-`: print them."""
    json: bool = False
    """Print one JSON document to standard output, messages to standard error."""
    quiet: bool = False
    """Print only the result and errors: of all sweeps the names, of one a line."""
    schema: bool = False
    """Print the JSON Schema of what all commands print with --json."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = tyro.cli(Arguments, args=argv, prog="status.py")
    if arguments.schema:
        from sweep.show.formats import formats_schema  # torch takes seconds to import

        print(json.dumps(formats_schema(), indent=2))
        return 0
    output = Output(json=arguments.json, quiet=arguments.quiet)
    asked = [f"--{name}" for name in ACTIONS if getattr(arguments, name)]
    if arguments.csv is not None and arguments.json:
        raise ConfigError("--csv, --json: two forms of the same; leave one of them out")
    if arguments.name is None:
        if asked:
            raise ConfigError(
                f"{', '.join(asked)}: name the sweep, as in `status.py sweep-001 {asked[0]}`"
            )
        tell_all(output)
        return 0
    folder = find_sweep(arguments.name)
    if len(asked) > 1 and set(asked) != {"--sync", "--repair"}:
        raise ConfigError(f"{', '.join(asked)}: give one of them")
    return _one(folder, arguments, output)


def _one(folder: Path, arguments: Arguments, output: Output) -> int:
    console = open_console(output)
    if arguments.follow:
        from sweep.show.follow import follow_sweep  # numpy takes its time: not for --help

        status = follow_sweep(folder, console)
        if not output.is_for_people:
            tell_one(folder, output)
        return status
    if arguments.stop or arguments.pause:
        from sweep.conduct.stop import stop_sweep

        stop_sweep(folder, "stop" if arguments.stop else "pause", console)
    if arguments.repair:
        _repair(folder, console)
    if arguments.sync:
        _sync(folder, console)
    if arguments.csv is not None:
        _write_csv(folder, arguments.csv, output)
    elif arguments.json or not any(getattr(arguments, name) for name in ACTIONS):
        tell_one(folder, output)
    return 0


def _write_csv(folder: Path, target: str, output: Output) -> None:
    """Write the trials to a file, or print them."""
    study = Study(read_sweep(folder).config, SweepRecord.read(folder))
    content = trials_csv(study)
    if target == "-":
        sys.stdout.write(content)
        return
    path = Path(target).expanduser()
    try:
        write_atomic(path, content.encode())
    except OSError as error:
        raise ConfigError(f"--csv {path}: {error.strerror}") from error
    output.say(f"{path}: {len(study.record.trials):,} trials")


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
