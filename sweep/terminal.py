"""What a sweep prints before and after its trials run: the plan, the summary, how to go on."""

from pathlib import Path

from rich.console import Console

from sweep.config import SweepConfig
from sweep.console import say
from sweep.mlflow_view import page_address
from sweep.plan import Plan, expected_seconds
from sweep.results import SweepRecord
from sweep.tables import (
    best_by_size,
    counts_text,
    duration,
    leaderboard,
    next_commands,
    params_text,
    plan_lines,
    shown_path,
)
from trainable.data import TokenDataset


def interrupted_text(name: str, record: SweepRecord, num_samples: int) -> str:
    """Return what to say of a sweep that a signal ended."""
    resume = next_commands(name, num_samples)["resume"]
    return f"interrupted: {counts_text(record) or 'no trial started'}; go on with\n  {resume}"


def ray_died_text(name: str) -> str:
    """Return what to say of a sweep whose Ray is gone."""
    return (
        f"error: sweep {name}: Ray died (killed, or out of memory?); the trials are saved, "
        f"go on with `python sweep/run.py --resume {name}`"
    )


def show_plan(
    config: SweepConfig, dataset: TokenDataset, plan: Plan, concurrent: int, console: Console
) -> float | None:
    """Print the plan; return the seconds that are expected."""
    seconds = expected_seconds(config, dataset, plan, concurrent)
    described = (
        f"{shown_path(dataset.folder)}: {len(dataset.train.tokens):,} training and "
        f"{len(dataset.val.tokens):,} validation tokens, {dataset.vocab_size:,} ids"
    )
    for line in plan_lines(config, plan, described, concurrent, seconds):
        say(console, line)
    return seconds


def show_summary(
    folder: Path,
    config: SweepConfig,
    record: SweepRecord,
    experiment_id: str | None,
    console: Console,
) -> None:
    """Print how a sweep ended, its leaderboard, and what can be done with it."""
    steps = sum(trial.step for trial in record.trials.values())
    share = steps / (len(record.trials) * config.trial.train.steps)
    say(
        console,
        f"\n{folder.name}: {counts_text(record)} in {duration(record.seconds)}; "
        f"{share:.0%} of the steps that full trials would take\n",
    )
    console.print(leaderboard(config, record))
    by_size = best_by_size(config, record)
    if by_size:
        console.print("\nbest learning rate for each model size")
        console.print(by_size)
    best = record.best
    if best is None:
        say(console, "no trial has a usable loss; see the reasons above")
        return
    say(
        console,
        f"\nbest: {best.name} {params_text(best.params)}, val_loss {best.best_val_loss:.4f}\n",
    )
    console.print("next")
    commands = next_commands(folder.name, config.num_samples)
    lines = [commands[key] for key in ("best", "generate", "extend", "mlflow")]
    if experiment_id is not None:
        lines.append(f"  and open {page_address(experiment_id, folder.name)}")
    for line in lines:
        say(console, f"  {line}")
