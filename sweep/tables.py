"""What a sweep looks like in words and tables: plan, leaderboard, sizes, next commands."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from sweep.config import SweepConfig
from sweep.results import COMPARABLE, SweepRecord, TrialRecord
from sweep.space import short_name, show_value
from trainable.config import ModelConfig
from trainable.paths import PACKAGE_PARENT, project_folder

if TYPE_CHECKING:
    from sweep.plan import Plan  # it probes, and so imports torch: not for status.py

_TEXT_COLUMNS = {"sweep", "trial", "state", "outcome", "reason", "best trial"}


def duration(seconds: float) -> str:
    """Return seconds as people say them: "45 s", "4 min 10 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def magnitude(value: float) -> str:
    """Return a count as 3 digits and a suffix: "821k", "1.2M", "54.3G"."""
    value = float(f"{value:.3g}")  # first: 999,999 is 1M, not 1000k
    for limit, suffix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def params_text(params: dict[str, Any]) -> str:
    """Return a suggestion as text, e.g. "lr=0.003162 d_model=128"."""
    return " ".join(f"{short_name(name)}={show_value(v)}" for name, v in params.items())


def plan_lines(
    config: SweepConfig, plan: "Plan", dataset: str, concurrent: int, seconds: float | None
) -> list[str]:
    """Return the plan for the terminal; `seconds` is the time expected, if it is known."""
    train = config.trial.train
    small, large = plan.sizes[0], plan.sizes[-1]
    share = f"about {plan.share:.0%} of all steps expected"
    lines = [
        f"trials    {config.num_samples}, {concurrent} at a time with "
        f"{config.cpus_per_trial:g} CPU and {config.gpus_per_trial:g} GPU each",
        f"data      {dataset}",
        *_labelled("space", describe_domains(config)),
    ]
    if len(plan.sizes) > 1:
        lines += [
            f"sizes     {len(plan.sizes)}, from {size_name(config, small)} "
            f"({magnitude(plan.parameters[0])} parameters, "
            f"{magnitude(plan.flops_per_trial[0])}FLOP a trial)",
            f"          to {size_name(config, large)} "
            f"({magnitude(plan.parameters[-1])} parameters, "
            f"{magnitude(plan.flops_per_trial[-1])}FLOP a trial)",
        ]
    else:
        lines.append(
            f"size      {size_name(config, small)} ({magnitude(plan.parameters[0])} parameters, "
            f"{magnitude(plan.flops_per_trial[0])}FLOP a trial)"
        )
    lines += [
        f"budget    {train.steps:,} steps x {config.trial.tokens_per_step:,} tokens = "
        f"{magnitude(plan.tokens_per_trial)} tokens a trial; evaluated every "
        f"{train.eval_interval:,} steps on {plan.eval_windows:,} fixed windows",
        *noise_lines(plan),
        f"rungs     {', '.join(f'{r:,}' for r in config.rungs)} steps, the best "
        f"1/{config.asha.reduction_factor} go on; {share}"
        if config.rungs
        else "rungs     none: every trial runs to its end",
    ]
    lines.append(f"computed  in {train.computed_in}")
    time = (
        f"about {duration(seconds)} once started"
        if seconds is not None
        else "unknown: the largest size does not fit here"
    )
    lines.append(f"time      {time}; checkpoints up to {plan.disk_bytes / 2**20:,.0f} MiB")
    return lines


def noise_lines(plan: "Plan") -> list[str]:
    """Return what is known of the losses' noise, as a line of the plan."""
    if plan.standard_error is None:
        return []
    return [
        f"noise     these windows give a difference of two losses a standard error of about "
        f"{plan.standard_error:.3f} nats"
    ]


def describe_domains(config: SweepConfig) -> list[str]:
    """Return one line for each searched field."""
    lines = []
    for name, domain in config.space.items():
        values = [show_value(v) for v in domain.values]
        shown = ", ".join(values) if domain.choice else f"{values[0]} .. {values[1]}"
        lines.append(f"{name}: {shown} ({domain.kind})")
    return lines


def size_name(config: SweepConfig, model: ModelConfig) -> str:
    """Return a size as its searched fields, e.g. "d_model=64 n_layers=2"."""
    fields = [n.split(".")[1] for n in config.space if n.startswith("model.")]
    fields = fields or ["d_model", "n_layers"]
    return " ".join(f"{short_name(f)}={show_value(getattr(model, f))}" for f in fields)


def leaderboard(config: SweepConfig, record: SweepRecord, limit: int | None = 10) -> Table:
    """Return the best trials, by their best validation loss."""
    table = plain_table(
        "", "trial", "val_loss", "bits/byte", *map(short_name, config.space), "step", "outcome"
    )
    for rank, trial in enumerate(record.ranked[:limit], start=1):
        best = trial.best or {}
        table.add_row(
            str(rank),
            trial.name,
            _number(best.get("val_loss"), trial),
            _number(best.get("val_bpb"), trial),
            *(show_value(trial.params.get(name, "")) for name in config.space),
            f"{trial.step:,}",
            outcome_text(trial),
        )
    return table


def best_by_size(config: SweepConfig, record: SweepRecord) -> Table | None:
    """Return the best trial of each model size; None if the size or the rate is not searched."""
    sizes = [name for name in config.space if name.startswith("model.")]
    others = [name for name in config.space if name not in sizes]
    if not sizes or not others:
        return None
    table = plain_table(
        *map(short_name, sizes),
        *(f"best {short_name(n)}" for n in others),
        "val_loss",
        "trials",
        "finished",
    )
    groups: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for trial in record.ranked:
        groups.setdefault(tuple(trial.params[name] for name in sizes), []).append(trial)
    for size, trials in sorted(groups.items(), key=lambda item: item[0]):
        first = trials[0]
        table.add_row(
            *map(show_value, size),
            *(show_value(first.params[name]) for name in others),
            _number(
                first.best_val_loss if first.evaluations and first.outcome in COMPARABLE else None,
                first,
            ),
            str(len(trials)),
            str(sum(trial.outcome == "finished" for trial in trials)),
        )
    return table


def outcome_text(trial: TrialRecord) -> str:
    """Return an outcome with what it needs to be understood."""
    if trial.outcome == "stopped":
        return f"stopped at rung {trial.rung:,}"
    return trial.outcome or "running"


def counts_text(record: SweepRecord) -> str:
    """Return the number of trials by outcome, e.g. "11 finished, 21 stopped"."""
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in record.counts().items())


def next_commands(name: str, num_samples: int) -> dict[str, str]:
    """Return what to type next, ready to paste in the folder the user stands in."""
    run = command("sweep", "run")
    best = shlex.quote(shown_path(project_folder() / "results" / name / "best"))
    return {
        "best": f"{command('sweep', 'best')} {name}",
        "generate": f'{command("trainable", "generate")} {best} --prompt "def "',
        "resume": f"{run} --resume {name} --num-samples {num_samples}",
        "extend": f"{run} --resume {name} --num-samples {2 * num_samples}",
        "mlflow": mlflow_command(),
    }


def command(package: str, module: str) -> str:
    """Return how to call one of our commands from here with this Python."""
    script = PACKAGE_PARENT / package / f"{module}.py"
    in_checkout = (PACKAGE_PARENT / "pyproject.toml").is_file()
    target = shlex.quote(shown_path(script)) if in_checkout else f"-m {package}.{module}"
    return f"{_python()} {target}"


def mlflow_command() -> str:
    """Return how to open MLflow's pages on the project's store."""
    here = Path.cwd() == project_folder()
    mlflow = shlex.quote(str(Path(sys.executable).parent / "mlflow"))
    if shutil.which("mlflow") == str(Path(sys.executable).parent / "mlflow"):
        mlflow = "mlflow"
    return f"{mlflow} ui" if here else f"(cd {shlex.quote(str(project_folder()))} && {mlflow} ui)"


def shown_path(path: Path) -> str:
    """Return a path below the working folder relative to it, any other in full."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _python() -> str:
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and os.path.dirname(found) == os.path.dirname(sys.executable):
            return name
    return shlex.quote(shown_path(Path(sys.executable)))


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"{label if i == 0 else '':<9} {line}" for i, line in enumerate(lines)]


def plain_table(*columns: str) -> Table:
    """Return an empty table without a frame; text columns are those that hold no numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    return table


def _number(value: float | None, trial: TrialRecord) -> str:
    return "-" if value is None or trial.outcome == "diverged" else f"{value:.4f}"
