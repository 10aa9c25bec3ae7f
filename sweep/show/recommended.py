"""What `status.py NAME --recommend` tells: what to train after a sweep."""

from pathlib import Path
from typing import Any, Literal

from sweep.analysis.power_law import Band
from sweep.analysis.recommendation import Recommendation, SizeAdvice, parse_size, recommend
from sweep.analysis.sizes import place_of
from sweep.analysis.study import Study
from sweep.analysis.words import magnitude, older_text, params_text, short_name
from sweep.config.space import RATE
from sweep.record.folder import read_sweep
from sweep.record.results import SweepRecord
from sweep.search.upcoming import Upcoming, upcoming
from sweep.show.commands import (
    command,
    next_commands,
    own_settings,
    replay_flags,
    resume_command,
)
from sweep.show.console import open_console, say
from trainable.common.document import Document
from trainable.common.output import Output


class FullTrialDocument(Document):
    """Where a full trial is expected to end lowest."""

    params: dict[str, Any]
    """Searched fields by dotted name."""
    loss: float | None
    """Expected final loss there, nats per token; null while no trial came to its end."""
    deviation: float
    """Standard deviation of such a trial's loss, nats."""
    rates: tuple[float, float] | None
    """Interval that holds the best learning rate with 80 %; null if it is not searched."""


class LawDocument(Document):
    """The best rate as a power law of the size; bands are 10 %, 50 % and 90 % quantiles."""

    exponents: dict[str, Band]
    """By the size's field."""
    residual: float
    """Typical deviation of a size's ln rate from the law."""


class SizeAdviceDocument(Document):
    """What is expected of the size that was asked for."""

    params: dict[str, Any]
    rate: Band
    """Best learning rate: 10 %, 50 % and 90 % quantiles."""
    parameters: int | None
    extrapolated: bool
    """Whether the size lies outside the space, so that the law alone tells its rate."""
    loss: float | None
    deviation: float | None


class UpcomingDocument(Document):
    """The trial that the search would begin next, given all results so far."""

    trial: str
    params: dict[str, Any]
    num_samples: int
    """Trials of the sweep that would begin it: of one whose trials have all begun, twice as many,
    as `run.py --resume NAME --num-samples ...` asks for."""
    answer: bool
    """Whether it would train the answer: the best settings by the fit, to the end."""


class RecommendationDocument(Document):
    """What to train: `status.py NAME --recommend --json`."""

    format: Literal["lm-sweep.recommendation/1"] = "lm-sweep.recommendation/1"
    sweep: str
    in_full: FullTrialDocument
    next: UpcomingDocument
    law: LawDocument | None
    """Null where too few sizes were tried."""
    size: SizeAdviceDocument | None
    """Null where none was asked for."""


def tell_recommendation(folder: Path, size: str | None, output: Output) -> None:
    """Print what to train after a sweep.

    Args:
        folder: the sweep's.
        size: a size to tell the best rate of, as in `d_model=384,n_layers=6`.
        output: where to.

    Raises:
        ConfigError: `size` is no size.
        SweepError: the sweep says too little.
    """
    study = Study(read_sweep(folder).config, SweepRecord.read(folder))
    told = recommend(study, None if size is None else parse_size(study, size))
    following = upcoming(study.config, study.record)
    if output.is_for_people:
        console = open_console(output)
        for line in recommendation_text(folder.name, study, told, following):
            say(console, line)
    output.result(
        params_text(told.in_full.params if told.asked is None else told.asked.params),
        lambda: recommendation_document(folder.name, told, following),
    )


def recommendation_document(
    name: str, told: Recommendation, following: Upcoming
) -> RecommendationDocument:
    """Return a recommendation as programs read it."""
    return RecommendationDocument(
        sweep=name,
        in_full=FullTrialDocument.model_validate(told.in_full, from_attributes=True),
        next=UpcomingDocument.model_validate(following, from_attributes=True),
        law=told.law
        and LawDocument(
            exponents=dict(zip(told.fields, told.law.exponents, strict=True)),
            residual=told.law.residual,
        ),
        size=told.asked and SizeAdviceDocument.model_validate(told.asked, from_attributes=True),
    )


def recommendation_text(
    name: str, study: Study, told: Recommendation, following: Upcoming
) -> list[str]:
    """Return a recommendation in lines that people read, with the commands to paste."""
    trials = f"{len(study.record.trials):,} trials"
    if study.record.older:
        trials += f" and of {older_text(study.record.older)}"
    best = told.in_full
    loss = "" if best.loss is None else f", expected to end at {_loss(best.loss, best.deviation)}"
    band = f"; 80 % of the best rate: {_band(best.rates)}" if best.rates else ""
    by = f"{name}: by the fit to the curves of {trials},"
    in_full = [f"  {params_text(best.params)}{loss}{band}", f"  {_command(study, best.params)}"]
    lines = [f"{by} train in full", *in_full]
    if study.config.search.goal == "table" and study.sizes:
        lines = [f"{by} each size at", *_by_size(study), "", "the lowest of all", *in_full]
    lines += ["", *_next_lines(name, study, following)]
    if told.law is not None:
        powers = " x ".join(
            f"{short_name(field)}^{middle:.2f} (80 %: {low:.2f} .. {high:.2f})"
            for field, (low, middle, high) in zip(told.fields, told.law.exponents, strict=True)
        )
        lines += [
            "",
            f"the best rate goes as {powers}; the sizes are off that by {told.law.residual:.0%}",
        ]
    if told.asked is not None:
        lines += ["", *_size_lines(study, told.asked)]
    return lines


def _next_lines(name: str, study: Study, following: Upcoming) -> list[str]:
    config, record = study.config, study.record
    going_on = following.num_samples == config.num_samples
    resume = (
        resume_command(name, config, record)
        if going_on
        else next_commands(name, config.num_samples)["extend"]
    )
    waiting = len(record.unfinished)
    return [
        f"{'the answer' if following.answer else 'next'}, as {following.trial} of "
        f"{following.num_samples:,}, by search.algorithm {config.algorithm}"
        + (f"; unfinished before it: {waiting}" if waiting else ""),
        f"  {params_text(following.params)}",
        f"  {_command(study, following.params)}",
        f"  {resume}",
    ]


def _by_size(study: Study) -> list[str]:
    found = ((place_of(study.config, row), row.rates) for row in study.sizes)
    return [f"  {params_text(p)}{f'; 80 %: {_band(rates)}' if rates else ''}" for p, rates in found]


def _size_lines(study: Study, asked: SizeAdvice) -> list[str]:
    low, rate, high = asked.rate
    size = {name: value for name, value in asked.params.items() if name.startswith("model.")}
    count = f" ({magnitude(asked.parameters)} parameters)" if asked.parameters else ""
    said = f"{params_text(size)}{count}: best rate {rate:.2g}, 80 % in {low:.2g} .. {high:.2g}"
    if asked.loss is not None and asked.deviation is not None:
        said += f", expected to end at {_loss(asked.loss, asked.deviation)}"
    if asked.extrapolated:
        said += (
            "\n  outside the space: the power law drawn on; nothing was trained there, so that its "
            "loss is not known"
        )
    return [said, f"  {_command(study, asked.params)}"]


def _command(study: Study, params: dict[str, Any]) -> str:
    shared, flags = replay_flags(study.config)
    own = " ".join(
        f"{flags[name]} {f'{value:.4g}' if name == RATE else value}"
        for name, value in (params | own_settings(study.config, params)).items()
    )
    return " ".join(part for part in (command("trainable", "local"), shared, own) if part)


def _loss(loss: float, deviation: float) -> str:
    return f"{loss:.4f} +- {deviation:.3f}"


def _band(rates: tuple[float, float]) -> str:
    return f"{rates[0]:.2g} .. {rates[1]:.2g}"
