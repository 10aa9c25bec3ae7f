"""What to train after a sweep: the best point by the fit, and the rate of a size it never had."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from sweep.analysis.power_law import Band, PowerLaw, fewest_sizes, fit_power_law
from sweep.analysis.sizes import place_of, size_fields
from sweep.analysis.study import Study
from sweep.analysis.surface import Estimate, Surface
from sweep.analysis.words import short_name
from sweep.common.errors import SweepError
from sweep.config.space import RATE, refused
from trainable.common.errors import ConfigError

MOST_SIZES = 24
"""Sizes that the law goes through, evenly chosen."""


@dataclass(frozen=True)
class SizeAdvice:
    """What is expected of a size that was asked for."""

    params: dict[str, Any]
    """Every searched field; those that are not of the size as they are best for the nearest."""
    rate: Band
    """Best learning rate: 10 %, 50 %, 90 %."""
    parameters: int | None
    extrapolated: bool
    """Whether it lies outside the space: the rate is the law's, nothing was trained near it."""
    loss: float | None
    """Expected final loss, nats per token; None where extrapolated, or where no trial ended."""
    deviation: float | None
    """Standard deviation of that loss."""


@dataclass(frozen=True)
class Recommendation:
    """What the fit to a sweep's curves says is to be trained."""

    in_full: Estimate
    """Where a full trial is expected to end lowest."""
    law: PowerLaw | None
    """The best rate as a power of `fields`; None where it has too few sizes."""
    fields: list[str]
    """Searched fields of the size that are numbers and took more than one value."""
    asked: SizeAdvice | None


def recommend(study: Study, size: Mapping[str, Any] | None = None) -> Recommendation:
    """Return what to train, and the rate for `size` (see parse_size), where one is asked for.

    Raises:
        SweepError: nothing was trained whose loss counts, or the sizes are too few for a law.
    """
    surface = study.surface
    if surface is None:
        raise SweepError("nothing to recommend: no trial has been trained whose loss counts")
    fields, law = _law(study, surface)
    asked = _advice(study, surface, fields, law, size) if size else None
    return Recommendation(surface.best({}), law, fields, asked)


def parse_size(study: Study, text: str) -> dict[str, Any]:
    """Return a size by dotted field from `d_model=384,n_layers=6`, commas or blanks between.

    Raises:
        ConfigError: it names no searched field of the size, lacks one, or is no model's size.
    """
    sizes = size_fields(study.config)[0]
    if not sizes:
        raise ConfigError("--size: this sweep searched no size (a field of model.)")
    known = {short_name(name): name for name in sizes} | {name: name for name in sizes}
    size: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        name, _, value = part.partition("=")
        if name not in known:
            given = ",".join(f"{short_name(field)}=..." for field in sizes)
            raise ConfigError(f"--size {part}: the sweep's sizes are told as {given}")
        size[known[name]] = _read(value)
    missing = [name for name in sizes if name not in size]
    if missing:
        raise ConfigError(f"--size {text}: give {', '.join(map(short_name, missing))}, too")
    try:
        study.config.trial.with_values(size)
    except ValidationError as error:
        raise ConfigError(f"--size: {refused(size, error)}") from error
    return {name: size[name] for name in sizes}


def _read(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _law(study: Study, surface: Surface) -> tuple[list[str], PowerLaw | None]:
    rows = [row for row in study.sizes if row.rates is not None]
    sizes = size_fields(study.config)[0]
    values = [dict(zip(sizes, row.size, strict=True)) for row in rows]
    fields = [
        name
        for name in sizes
        if len({value[name] for value in values}) > 1
        and all(_is_positive(value[name]) for value in values)
    ]
    if len(rows) < fewest_sizes(len(fields)) or not fields:
        return fields, None
    chosen = np.linspace(0, len(rows) - 1, min(MOST_SIZES, len(rows))).round().astype(int)
    draws = surface.best_rates([place_of(study.config, rows[n]) for n in chosen])
    return fields, fit_power_law([[values[n][f] for f in fields] for n in chosen], draws)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _advice(
    study: Study,
    surface: Surface,
    fields: list[str],
    law: PowerLaw | None,
    size: Mapping[str, Any],
) -> SizeAdvice:
    space = study.config.space
    parameters = study.parameters(dict(size))
    outside = [name for name, value in size.items() if not _is_within(space[name].values, value)]
    if not outside:
        found = surface.best(size)
        if found.rates is None:
            raise SweepError("--size: the learning rate was not searched, so none is known best")
        rate = (found.rates[0], found.params[RATE], found.rates[1])
        deviation = None if found.loss is None else found.deviation
        return SizeAdvice(found.params, rate, parameters, False, found.loss, deviation)
    if law is None or not set(outside) <= set(fields):
        raise SweepError(
            f"--size: {', '.join(map(short_name, outside))} lies outside the space; a power law "
            f"that tells more needs {fewest_sizes(max(1, len(fields)))} sizes of unlike values of "
            f"it; {len(study.sizes)} sizes were tried"
        )
    rate = law.rate([size[name] for name in fields])
    nearest = {name: _nearest(space[name].values, value) for name, value in size.items()}
    params = surface.best(nearest).params | dict(size) | {RATE: rate[1]}
    return SizeAdvice(params, rate, parameters, True, None, None)


def _is_within(values: list[Any], value: Any) -> bool:
    if _is_positive(value) and all(map(_is_positive, values)):
        return bool(min(values) <= value <= max(values))
    return value in values


def _nearest(values: list[Any], value: Any) -> Any:
    if value in values or not all(map(_is_positive, values)):
        return value
    return min(values, key=lambda known: abs(np.log(known / value)))
