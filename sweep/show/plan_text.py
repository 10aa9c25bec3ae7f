"""A plan in words, as it is printed before the trials run."""

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import Console

from sweep.analysis.finding import listed
from sweep.analysis.words import (
    GOALS,
    describe_domains,
    duration,
    flops_text,
    magnitude,
    older_text,
    rung_text,
    short_name,
    size_name,
)
from sweep.cluster.place import Place
from sweep.config.space import is_within
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import End, Plan
from sweep.plan.probe import Forecast, forecast
from sweep.record.results import TrialRecord
from sweep.search.probes import trains_first_in_full
from sweep.show.commands import shown_path
from sweep.show.console import open_console, say_folded
from sweep.show.plan_document import plan_document
from trainable.common.output import Output
from trainable.data.batches import TokenDataset


def plan_lines(
    config: SweepConfig,
    plan: Plan,
    dataset: str,
    concurrent: int,
    seconds: float | None,
    probed: float = 1.0,
    older: Sequence[TrialRecord] = (),
) -> list[str]:
    """Return the plan for the terminal.

    Args:
        config: the sweep.
        plan: its plan.
        dataset: what the dataset is, in words.
        concurrent: how many trials run at once.
        seconds: the time expected; None: it is not known.
        probed: the share of a step that was measured to tell it.
        older: trials of older sweeps that the search begins with.
    """
    train, small, large = config.trial.train, plan.smallest, plan.largest
    goal = config.search.goal
    several = plan.sizes > 1 or small != large
    share = f"about {plan.share:.0%} of all steps expected"
    return [
        *_labelled("trials", _trials_text(config, plan, concurrent)),
        f"data      {dataset}",
        *_labelled("space", describe_domains(config)),
        *_search_lines(config, older),
        f"{f'sizes     {plan.sizes:,}, from' if several else 'size     '} {_end(config, small)}",
        *([f"          to {_end(config, large)}"] if several else []),
        _length_text(config, plan),
        *noise_lines(plan),
        *([f"goal      {GOALS[goal]}"] if goal in GOALS else []),
        _stops_text(config, share, older),
        f"computed  in {train.computed_in}",
        f"memory    {_memory_text(plan, concurrent)}",
        f"time      {_time_text(seconds, probed)}; checkpoints up to "
        f"{plan.disk_bytes / 2**20:,.0f} MiB" + (f" in {config.storage}" if config.storage else ""),
        *_budget_lines(config, seconds),
    ]


def _trials_text(config: SweepConfig, plan: Plan, concurrent: int) -> list[str]:
    """Return how many trials run at once and what each takes, in lines."""
    if len(plan.parts) < 2:
        share = plan.parts[0].part.share if plan.parts else config.share
        return [f"{config.num_samples}, {concurrent} at a time with {share.words} each"]
    return [
        f"{config.num_samples}, up to {concurrent} at a time",
        *(
            f"{planned.part.words}, about {planned.weight:.0%}: {planned.part.share.words} each, "
            f"{planned.concurrent} at a time alone"
            for planned in plan.parts
        ),
    ]


def _end(config: SweepConfig, end: End) -> str:
    return (
        f"{size_name(config, end.model)} ({magnitude(end.parameters)} parameters, "
        f"{flops_text(end.flops)} a trial)"
    )


def _length_text(config: SweepConfig, plan: Plan) -> str:
    """Return how long trials are, and how often they are evaluated."""
    train, small, large = config.trial.train, plan.smallest, plan.largest
    windows = f"on {plan.eval_windows:,} fixed windows"
    if config.by_flops:
        assert config.search.flops is not None
        times = train.steps // train.eval_interval
        return (
            f"budget    {flops_text(config.search.flops)} a trial, whatever its size: "
            f"{small.steps:,} to {large.steps:,} steps, {magnitude(small.tokens)} to "
            f"{magnitude(large.tokens)} tokens; evaluated {times:,} times {windows}"
        )
    least, most = small.tokens // train.steps, large.tokens // train.steps
    return (
        f"budget    {train.steps:,} steps x {f'{least:,} to ' if least < most else ''}{most:,} "
        f"tokens = {magnitude(large.tokens)} tokens a trial; evaluated every "
        f"{train.eval_interval:,} steps {windows}"
    )


def _stops_text(config: SweepConfig, share: str, older: Sequence[TrialRecord]) -> str:
    unit = " of a trial's steps" if config.by_flops else " steps"
    if config.stops_by == "model":
        first = rung_text(config, config.grace_period)
        start = f"{first}{unit}" if config.by_flops else f"step {first}"
        return (
            f"stops     by the search's model, at any evaluation from {start} on"
            f"{_never_stopped(config, older)}; {share}"
        )
    if not config.rungs:
        return "rungs     none: every trial runs to its end"
    return (
        f"rungs     {', '.join(rung_text(config, r) for r in config.rungs)}{unit}, the best "
        f"1/{config.asha.reduction_factor} "
        f"{'go on, the last trial in any case' if config.has_answer else 'of each size go on'}; "
        f"{share}"
    )


def _never_stopped(config: SweepConfig, older: Sequence[TrialRecord]) -> str:
    """Return which trials search by gp trains to their ends, for the plan."""
    first = trains_first_in_full(config, older)
    named = [*(["first"] if first else []), *(["last"] if config.has_answer else [])]
    return f", the {' and the '.join(named)} trial never" if named else ""


def _memory_text(plan: Plan, concurrent: int) -> str:
    """Return what the largest trial takes at the least, and whether so many fit side by side."""
    needed, available = plan.memory_bytes, plan.available_bytes
    text = f"at least {needed / 2**20:,.0f} MiB a trial, {available / 2**20:,.0f} MiB available"
    most = [(part.plan, part.concurrent) for part in plan.parts] or [(plan, concurrent)]
    too_many = [n for one, n in most if one.memory_bytes * n > one.available_bytes]
    if too_many:
        text += f"; warning: {too_many[0]} large ones at a time do not fit, lower max_concurrent"
    return text


def _time_text(seconds: float | None, probed: float) -> str:
    if seconds is None:
        return "unknown: the largest size does not fit here"
    scaled = f", scaled by FLOPs from a probe of {probed:.1g} of a step" if probed < 1 else ""
    return f"about {duration(seconds)} once started{scaled}"


def _budget_lines(config: SweepConfig, seconds: float | None) -> list[str]:
    """Return how many trials the time budget is expected to let begin, as a line of the plan."""
    if config.budget_seconds is None or seconds is None:
        return []
    share = config.budget_seconds / seconds
    allowed = "all" if share >= 1 else f"about {int(share * config.num_samples)}"
    return [
        f"          the time budget of {config.time_budget} allows {allowed} of the "
        f"{config.num_samples} trials"
    ]


def noise_lines(plan: Plan) -> list[str]:
    """Return what is known of the losses' noise, as a line of the plan."""
    if plan.standard_error is None:
        return []
    return [
        f"noise     these windows give a difference of two losses a standard error of about "
        f"{plan.standard_error:.3f} nats"
    ]


def _search_lines(config: SweepConfig, older: Sequence[TrialRecord]) -> list[str]:
    """Return why it is tpe that searches, and which older trials it begins with, as a line."""
    why = ""
    if config.search.algorithm == "auto" and config.unlike_fields:
        names = list(map(short_name, config.unlike_fields))
        why = f", since {listed(names)} {'is' if len(names) == 1 else 'are'} searched, too"
    if not older:
        return [f"search    {config.algorithm}{why}"] if why else []
    outside = sum(not is_within(config.space, config.trial, trial.params) for trial in older)
    only = f"; {outside} of them are outside of the space" if outside else ""
    if outside and config.algorithm == "tpe":
        only += ", which tpe cannot use: they serve the fit alone"
    return [f"search    {config.algorithm}{why}, warm start: {older_text(older)}{only}"]


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"{label if i == 0 else '':<9} {line}" for i, line in enumerate(lines)]


def show_plan(
    config: SweepConfig,
    dataset: TokenDataset,
    plan: Plan,
    older: Sequence[TrialRecord],
    place: Place,
    console: Console,
) -> Forecast:
    """Print the plan; return what it is expected to take."""
    expected, lines = _probed(config, dataset, plan, older, place)
    _say(console, lines)
    return expected


def tell_plan(
    config: SweepConfig,
    dataset: TokenDataset,
    plan: Plan,
    older: Sequence[TrialRecord],
    place: Place,
    output: Output,
) -> None:
    """Print the plan as a command's result."""
    expected, lines = _probed(config, dataset, plan, older, place)
    if output.is_for_people:
        _say(open_console(output), lines)
    document = partial(plan_document, config, plan, place.concurrent, expected.seconds, older)
    output.result("\n".join(lines), document)


def _say(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        say_folded(console, line, indent=10)


def _probed(
    config: SweepConfig,
    dataset: TokenDataset,
    plan: Plan,
    older: Sequence[TrialRecord],
    place: Place,
) -> tuple[Forecast, list[str]]:
    expected = forecast(config, dataset, plan, place.there)
    described = (
        f"{shown_path(dataset.folder)}: {len(dataset.train.tokens):,} training and "
        f"{len(dataset.val.tokens):,} validation tokens, {dataset.vocab_size:,} ids"
    )
    return expected, plan_lines(
        config, plan, described, place.concurrent, expected.seconds, expected.probed, older
    )
