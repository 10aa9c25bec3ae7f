"""The trials that a space can suggest: how many sizes, the ends, and what they cost on average.

Parameters, FLOPs and bytes grow or fall with each field whatever the others are, so an end is found
field by field, in a space of any size.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig
from trainable.config.trial import TrialConfig
from trainable.model.counts import (
    flops_per_token,
    held_bytes,
    parameter_count,
    training_bytes,
)

MOST_AVERAGED = 4_096
"""Combinations over which a mean is taken; of more, as many are drawn."""


def trial_ends(config: SweepConfig, vocab_size: int) -> tuple[TrialConfig, TrialConfig]:
    """Return the smallest and the largest trial, by parameters, then by FLOPs."""

    def weight(trial: TrialConfig) -> tuple[int, ...]:
        model = trial.model
        return parameter_count(model, vocab_size), trial_flops(trial, vocab_size), model.n_heads

    return _end(config, weight, min), _end(config, weight, max)


def hungriest_trial(config: SweepConfig, vocab_size: int) -> TrialConfig:
    """Return the trial that takes the most memory."""

    def weight(trial: TrialConfig) -> int:
        return training_bytes(trial.model, vocab_size) + held_bytes(trial, vocab_size)

    return _end(config, weight, max)


def trial_flops(trial: TrialConfig, vocab_size: int) -> int:
    """Return the FLOPs of a full trial."""
    tokens = trial.tokens_per_step * trial.train.steps
    return tokens * flops_per_token(trial.model, vocab_size)


def mean_flops(config: SweepConfig, vocab_size: int) -> float:
    """Return the mean FLOPs of a full trial over the space; of a large one, over draws from it."""
    values = {n: _values(d) for n, d in config.space.items() if _shapes(n)}
    combinations: Iterator[Sequence[Any]] = itertools.product(*values.values())
    if math.prod(map(len, values.values())) > MOST_AVERAGED:
        rng = np.random.default_rng(0)
        drawn = [rng.integers(len(v), size=MOST_AVERAGED).tolist() for v in values.values()]
        columns = [[v[i] for i in at] for v, at in zip(values.values(), drawn, strict=True)]
        combinations = zip(*columns, strict=True)
    flops = [
        trial_flops(_changed(config.trial, dict(zip(values, one, strict=True))), vocab_size)
        for one in combinations
    ]
    return float(np.mean(flops))


def size_count(config: SweepConfig) -> int:
    """Return the number of model sizes in the space."""
    fields = [name for name in config.space if name.startswith("model.")]
    return math.prod(len(_values(config.space[name])) for name in fields)


def on_own_device(config: SweepConfig, trial: TrialConfig) -> TrialConfig:
    """Return `trial` on the device that Ray leaves it: it hides GPUs from trials without one."""
    if trial.train.device != "auto" or config.gpus_per_trial:
        return trial
    return _changed(trial, {"train.device": "cpu"})


def _end(
    config: SweepConfig,
    weight: Callable[[TrialConfig], Any],
    pick: Callable[..., TrialConfig],
) -> TrialConfig:
    """Return the trial with the least or the largest weight."""
    trial = config.trial_config({})
    for name, domain in config.space.items():
        if _shapes(name):
            trial = pick((_changed(trial, {name: v}) for v in domain.extremes()), key=weight)
    return trial


def _shapes(name: str) -> bool:
    """Say whether a field decides how much a step computes or holds."""
    return name.startswith("model.") or name in (
        *("train.batch_size", "train.grad_accumulation", "train.precision", "train.attention"),
    )


def _values(domain: Domain) -> Sequence[Any]:
    """Return what can be drawn; one end of a real range, as such fields leave a size alone."""
    if domain.integers:
        low, high = domain.integers
        return range(low, high + 1)
    return domain.choice or domain.values[:1]


def _changed(trial: TrialConfig, values: dict[str, Any]) -> TrialConfig:
    """Return `trial` with values replaced, not validated: they may fit only once all are there."""
    for name, value in values.items():
        section, field = name.split(".")
        part = getattr(trial, section).model_copy(update={field: value})
        trial = trial.model_copy(update={section: part})
    return trial
