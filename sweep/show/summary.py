"""What a sweep prints after its trials ran: how it ended, its tables, how to go on."""

from pathlib import Path

from rich.console import Console

from sweep.analysis.findings import findings
from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, duration, older_text, params_text
from sweep.config.sweep import SweepConfig
from sweep.control.orders import Want
from sweep.record.folder import SweepFile
from sweep.record.results import ENDS, SweepRecord
from sweep.record.state import state_of
from sweep.show.commands import next_commands, resume_command
from sweep.show.console import say, say_folded
from sweep.show.documents import sweep_document
from sweep.show.tables import best_by_size, leaderboard
from sweep.tracking.store import is_server, tracking_uri
from trainable.common.output import Output


def interrupted_text(
    name: str, record: SweepRecord, num_samples: int, wanted: Want | None = None
) -> str:
    """Return what to say of a sweep that a signal ended, or that was asked for its end."""
    how = f"{ENDS[wanted]} by status.py {name} --{wanted}" if wanted else "interrupted"
    if not record.sessions:
        return f"{how} before the first trial"
    resume = next_commands(name, num_samples)["resume"]
    return f"{how}: {counts_text(record) or 'no trial started'}; go on with\n  {resume}"


def end_text(name: str, config: SweepConfig, record: SweepRecord) -> str:
    """Return how a sweep's last session ended, in a line, with the command to go on."""
    how = record.end if record.session_started is None else "its driver has died"
    resume = resume_command(name, config, record)
    return (
        f"{name}: {how}: {counts_text(record) or 'no trial'} of {record.num_samples} in "
        f"{duration(record.seconds)}{'' if record.complete else f'; go on with  {resume}'}"
    )


def ray_died_text(name: str, what: str) -> str:
    """Return what to say of a sweep whose Ray is gone."""
    return (
        f"error: sweep {name}: {what}; the trials are saved, "
        f"go on with `python sweep/run.py --resume {name}`"
    )


def show_summary(
    folder: Path, study: Study, pages: tuple[str, str] | None, console: Console
) -> None:
    """Print how a sweep ended, its leaderboard, and what can be done with it.

    Args:
        folder: the sweep's.
        study: what its record says.
        pages: addresses of its trials and its charts in MLflow; None: it is not recorded there.
        console: where to.
    """
    config, record = study.config, study.record
    full = sum(config.full_steps(trial.params) for trial in record.trials.values())
    share = record.steps / max(1, full)
    say(console, "")
    say_folded(
        console,
        f"{folder.name}: {counts_text(record) or 'no trial'} in {duration(record.seconds)}; "
        f"{share:.0%} of the steps that full trials would take",
        indent=2,
    )
    say(console, "")
    if record.ended_by == "time_budget":
        say(
            console,
            f"{record.end}: the time budget of {config.time_budget} was enough for "
            f"{record.ended} of {record.num_samples} trials; go on with\n"
            f"  {resume_command(folder.name, config, record)}\n",
        )
    _show_tables(console, study)
    say_findings(console, study)
    if record.best is None:
        say(console, f"{best_text(record)}; see the reasons above")
        return
    say(console, f"\n{best_text(record)}\n")
    say(console, "next")
    commands = next_commands(folder.name, config.num_samples)
    lines = [commands[key] for key in ("best", "generate", "extend")]
    if pages is not None:
        trials, charts = pages
        if not is_server(tracking_uri()):
            lines.append(commands["mlflow"])
        lines += [
            f"  all trials, the best first: {trials}",
            f"  their curves in charts:     {charts}",
        ]
    for line in lines:
        say(console, f"  {line}")


def _show_tables(console: Console, study: Study) -> None:
    """Print leaderboard and table of sizes, what the sweep was for first."""
    board, by_size = leaderboard(study.config, study.record), best_by_size(study)
    also = f" and to {older_text(study.record.older)}" if study.record.older else ""
    titles = ["", f"best learning rate for each model size, fitted to all learning curves{also}"]
    shown = [(title, table) for title, table in zip(titles, (board, by_size), strict=True) if table]
    if study.config.search.goal == "table":
        shown.reverse()
    for place, (title, table) in enumerate(shown):
        if place:
            say(console, "")
        if title:
            say_folded(console, title, indent=2)
        console.print(table)


def say_findings(console: Console, study: Study) -> None:
    """Print what a sweep found, if it found anything."""
    found = findings(study)
    if found:
        say(console, "\nfindings")
    for finding in found:
        say_folded(console, f"  - {finding.text}", indent=4)


def tell_result(folder: Path, sweep: SweepFile, study: Study, output: Output) -> None:
    """Print a sweep as JSON, or in one line if the command is quiet."""
    state = state_of(folder, study.record)
    output.result(
        f"{state_text(folder, study.record)}; {best_text(study.record)}",
        lambda: sweep_document(folder, sweep, study, state),
    )


def state_text(folder: Path, record: SweepRecord) -> str:
    """Return how far a sweep is, in one line."""
    sessions = f"{record.sessions} session{'' if record.sessions == 1 else 's'}"
    return (
        f"{folder.name}: {state_of(folder, record)}; {counts_text(record) or 'no trials'} of "
        f"{record.num_samples}; {duration(record.seconds)} in {sessions}"
    )


def best_text(record: SweepRecord) -> str:
    """Return the best trial with its settings and its loss."""
    best = record.best
    if best is None:
        return "no trial has a usable loss"
    return f"best: {best.name} {params_text(best.params)}, val_loss {best.best_val_loss:.4f}"
