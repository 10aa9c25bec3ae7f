"""What `status.py` shows: all sweeps in a list, or one sweep as far as it has come."""

import sys
from pathlib import Path

from sweep.analysis.study import Study
from sweep.analysis.words import loss_text, outcome_text
from sweep.common.errors import SweepError
from sweep.record.folder import read_sweep, results_folder, sweep_names
from sweep.record.results import SweepRecord
from sweep.record.state import state_of
from sweep.show.commands import resume_command
from sweep.show.console import open_console, say
from sweep.show.documents import SweepLine, SweepsDocument
from sweep.show.summary import say_findings, state_text, tell_result
from sweep.show.tables import FittedTable, best_by_size, leaderboard
from sweep.show.trials_csv import trials_csv
from trainable.common.errors import ConfigError
from trainable.common.files import write_atomic
from trainable.common.output import Output


def tell_all(output: Output) -> None:
    """Print the list of all sweeps; if the command is quiet, their names."""
    lines = [_line(name) for name in sweep_names()]
    if output.is_for_people:
        _show_all(lines, output)
    elif lines or output.json:
        output.result(
            "\n".join(line.name for line in lines),
            lambda: SweepsDocument(folder=str(results_folder()), sweeps=lines),
        )


def tell_one(folder: Path, output: Output) -> None:
    """Print one sweep: its trials, sizes and findings."""
    sweep, record = read_sweep(folder), SweepRecord.read(folder)
    study = Study(sweep.config, record)
    if output.is_for_people:
        _show_one(folder, study, output)
    tell_result(folder, sweep, study, output)


def write_csv(folder: Path, target: str, output: Output) -> None:
    """Write a sweep's trials to a file as CSV; `-`: print them.

    Raises:
        ConfigError: the file cannot be written.
    """
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


def _line(name: str) -> SweepLine:
    folder = results_folder() / name
    try:
        read_sweep(folder)
        record = SweepRecord.read(folder)
    except SweepError as error:
        return SweepLine(name=name, state="damaged", damage=str(error))
    best = record.best
    return SweepLine(
        name=name,
        state=state_of(folder, record),
        trials=len(record.trials),
        num_samples=record.num_samples,
        best_trial=best.name if best else None,
        val_loss=best.best_val_loss if best else None,
    )


def _show_all(lines: list[SweepLine], output: Output) -> None:
    console = open_console(output)
    if not lines:
        say(console, f"no sweeps in {results_folder()}")
        return
    rows = [
        [
            line.name,
            line.state,
            "-" if line.damage else f"{line.trials}/{line.num_samples}",
            loss_text(line.val_loss),
            line.best_trial or "-",
        ]
        for line in lines
    ]
    console.print(FittedTable(["sweep", "state", "trials", "best val_loss", "best trial"], rows))
    for line in lines:
        if line.damage:
            say(console, f"\n{line.damage}")


def _show_one(folder: Path, study: Study, output: Output) -> None:
    console, record = open_console(output), study.record
    say(console, state_text(folder, record))
    console.print(leaderboard(study.config, record, limit=None))
    for table in (_reasons(record), best_by_size(study)):
        if table is not None:
            console.print()
            console.print(table)
    say_findings(console, study)
    if state_of(folder, record) not in ("running", "complete"):
        say(console, f"\ngo on with  {resume_command(folder.name, study.config, record)}")


def _reasons(record: SweepRecord) -> FittedTable | None:
    told = [trial for trial in record.trials.values() if trial.reason]
    if not told:
        return None
    rows = ((trial.name, outcome_text(trial), trial.reason or "") for trial in told)
    return FittedTable(["trial", "outcome", "reason"], rows)
