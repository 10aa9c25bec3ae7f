"""A plan in words, as it is printed before the trials run."""

from collections.abc import Iterable

from rich.console import Console

from sweep.analysis.words import (
    describe_domains,
    duration,
    magnitude,
    size_name,
)
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan
from sweep.plan.probe import expected_seconds
from sweep.show.commands import shown_path
from sweep.show.console import say
from trainable.data.batches import TokenDataset


def plan_lines(
    config: SweepConfig, plan: Plan, dataset: str, concurrent: int, seconds: float | None
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


def noise_lines(plan: Plan) -> list[str]:
    """Return what is known of the losses' noise, as a line of the plan."""
    if plan.standard_error is None:
        return []
    return [
        f"noise     these windows give a difference of two losses a standard error of about "
        f"{plan.standard_error:.3f} nats"
    ]


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"{label if i == 0 else '':<9} {line}" for i, line in enumerate(lines)]


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
