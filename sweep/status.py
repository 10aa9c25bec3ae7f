"""Sweeps and their trials, from our own record: `python sweep/status.py [NAME]`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.common.parse import parse

ACTIONS = ("sync", "repair", "follow", "stop", "pause", "csv", "recommend")


@dataclass(frozen=True)
class Arguments:
    """List all sweeps, or the trials of one."""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None
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
    recommend: bool = False
    """Say what to train in full and what next, and how the best rate goes with the size."""
    size: str | None = None
    """With --recommend: a size to tell the best rate of, as in d_model=384,n_layers=6."""
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
    arguments = parse(Arguments, argv, "status.py")
    if arguments.schema:
        from sweep.show.formats import formats_schema  # torch takes seconds to import

        print(json.dumps(formats_schema(), indent=2))
        return 0
    asked = [f"--{name}" for name in ACTIONS if getattr(arguments, name)]
    if arguments.csv is not None and arguments.json:
        raise ConfigError("--csv, --json: two forms of the same; leave one of them out")
    if arguments.name is None and asked:
        raise ConfigError(
            f"{', '.join(asked)}: name the sweep, as in `status.py sweep-001 {asked[0]}`"
        )
    if arguments.size is not None and not arguments.recommend:
        raise ConfigError("--size: goes with --recommend")
    if len(asked) > 1 and set(asked) != {"--sync", "--repair"}:
        raise ConfigError(f"{', '.join(asked)}: give one of them")
    return _carry_out(arguments, Output(json=arguments.json, quiet=arguments.quiet))


def _carry_out(arguments: Arguments, output: Output) -> int:
    from sweep.record.folder import find_sweep  # these take as long as all of --help
    from sweep.show import sweeps
    from sweep.show.console import open_console

    if arguments.name is None:
        sweeps.tell_all(output)
        return 0
    folder, console = find_sweep(arguments.name), open_console(output)
    if arguments.follow:
        from sweep.show.follow import follow_sweep  # numpy, too

        status = follow_sweep(folder, console)
        if not output.is_for_people:
            sweeps.tell_one(folder, output)
        return status
    if arguments.stop or arguments.pause:
        from sweep.conduct.stop import stop_sweep

        stop_sweep(folder, "stop" if arguments.stop else "pause", console)
    if arguments.repair or arguments.sync:
        from sweep.conduct import mend

        if arguments.repair:
            mend.repair(folder, console)
        if arguments.sync:
            mend.sync(folder, console)
    if arguments.csv is not None:
        sweeps.write_csv(folder, arguments.csv, output)
    elif arguments.recommend:
        from sweep.show.recommended import tell_recommendation  # scipy takes its time

        tell_recommendation(folder, arguments.size, output)
    elif arguments.json or not any(getattr(arguments, name) for name in ACTIONS):
        sweeps.tell_one(folder, output)
    return 0


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
