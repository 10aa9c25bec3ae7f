"""What a trial costs on this machine, measured before the first one runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from sweep.config.parts import Part, parts_of
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import End, Plan
from sweep.plan.sizes import on_own_device, trial_ends
from sweep.plan.workload import Stint
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset
from trainable.hardware.allocator import keep_freed_memory, return_freed_memory
from trainable.hardware.device import (
    OUT_OF_MEMORY,
    probe_clock,
    require_out_of_memory,
    resolve_device,
)
from trainable.model.counts import parameter_count
from trainable.model.transformer import Transformer
from trainable.passes.forms import build_passes
from trainable.training.choice import as_chosen, is_chosen, resolve
from trainable.training.portion import Portion
from trainable.training.trainer import EVAL_BATCH_TOKENS

FIRST_FLOPS = 2.5e8
"""Of the smallest probe: milliseconds on any machine."""

GROWTH = 8
"""By how much a probe grows while the next one would still be short."""

PASS_SECONDS = 0.3
"""What a probed pass may take: a plan must come at once, however large the trials are."""

REPEATS = 3

LONG_SECONDS = 0.15
"""Passes that have taken so long together are not measured again."""


@dataclass(frozen=True)
class Speed:
    """What one trial costs on this machine, as probed: seconds."""

    step: float
    evaluation: float
    probed: float
    """Share of a step's FLOPs that was measured, from which the times are scaled."""


def settled(config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
    """Return `config` with precision, attention form and compilation chosen where left at auto.

    The largest size decides for all trials: losses in different precisions are not compared.

    Raises:
        ConfigError: the device is not there.
    """
    if is_chosen(config.trial.train):
        return config
    _, largest = trial_ends(config, dataset.vocab_size)
    chosen = resolve(on_own_device(config, largest), dataset)
    trial = as_chosen(config.trial, chosen.train)
    return config.model_copy(update={"trial": trial})


def settled_by_largest(
    config: SweepConfig, dataset: TokenDataset, there: Callable[..., SweepConfig]
) -> SweepConfig:
    """Return `config` settled by the part whose trials are the largest, where those run.

    Args:
        config: the sweep.
        dataset: what trials train on.
        there: does work where trials of a config run; see Place.
    """

    def parameters(part: Part) -> int:
        _, largest = trial_ends(part.config, dataset.vocab_size)
        return parameter_count(largest.model, dataset.vocab_size)

    decides = max(parts_of(config), key=parameters)
    return config.model_copy(update={"trial": there(settled, decides.config, dataset).trial})


def speeds_of_ends(
    config: SweepConfig, dataset: TokenDataset, eval_windows: int
) -> tuple[Speed, Speed] | None:
    """Return the speeds of the smallest and of the largest trial on a dataset; see probe_ends."""
    return probe_ends(config, dataset.vocab_size, eval_windows)


def probe_ends(
    config: SweepConfig, vocab_size: int, eval_windows: int
) -> tuple[Speed, Speed] | None:
    """Return the speeds of the smallest and of the largest trial; None if memory is too short."""
    small, large = (on_own_device(config, end) for end in trial_ends(config, vocab_size))
    try:
        first = probe_speed(small, vocab_size, eval_windows)
        last = first if small == large else probe_speed(large, vocab_size, eval_windows)
    except OUT_OF_MEMORY as error:
        require_out_of_memory(error)
        return None
    finally:
        return_freed_memory()
    return first, last


def expected_seconds(
    config: SweepConfig, plan: Plan, ends: tuple[Speed, Speed], concurrent: int
) -> float:
    """Return the expected seconds until all trials have ended, given the speeds of the plan's ends.

    A line through FLOPs gives what lies between them. At equal FLOPs a step takes an overhead and a
    time that goes with its FLOPs, so that a line through the number of steps does.
    """
    small, large = plan.smallest, plan.largest
    low, high = (small.steps, large.steps) if config.by_flops else (small.flops, large.flops)

    def seconds(stint: Stint) -> float:
        at = stint.full_steps if config.by_flops else stint.flops
        place = (at - low) / (high - low) if low != high else 0.0
        first, last = (
            stint.share * _full_seconds(config, size, speed) + speed.evaluation
            for size, speed in zip((small, large), ends, strict=True)
        )
        return first + place * (last - first)

    return plan.workload.seconds(concurrent, seconds)


@dataclass(frozen=True)
class Forecast:
    """What a sweep is expected to take."""

    seconds: float | None
    """Until all trials have ended; None if memory is too short for a probe."""
    probed: float = 1.0
    """Least share of a step that was measured."""
    paces: Mapping[int, float] = field(default_factory=dict)
    """Seconds of trial.train.steps steps with their evaluations, by their FLOPs."""


def forecast(
    config: SweepConfig, dataset: TokenDataset, plan: Plan, there: Callable[..., Any]
) -> Forecast:
    """Return what all trials are expected to take, each part of them probed where it runs.

    Args:
        config: the sweep, settled.
        dataset: what trials train on.
        plan: the sweep's, with its parts.
        there: does work where trials of a config run; see Place.
    """
    paces: dict[int, float] = {}
    seconds, probed = 0.0, 1.0
    for part, planned in zip(parts_of(config), plan.parts, strict=True):
        ends = there(speeds_of_ends, part.config, dataset, plan.eval_windows)
        if ends is None:
            return Forecast(None)
        own = planned.plan
        alone = expected_seconds(part.config, own, ends, planned.concurrent)
        seconds += planned.weight * alone
        probed = min(probed, *(end.probed for end in ends))
        paces |= dict(map(partial(_pace, config), (own.smallest, own.largest), ends))
    return Forecast(seconds, probed, paces)


def _pace(config: SweepConfig, size: End, speed: Speed) -> tuple[int, float]:
    """Return an entry of Forecast.paces."""
    longer = config.trial.train.steps / size.steps
    return round(size.flops * longer), _full_seconds(config, size, speed) * longer


def _full_seconds(config: SweepConfig, size: End, speed: Speed) -> float:
    """Return the seconds of a trial's steps and evaluations, but for the one before the first."""
    train = config.trial.train
    return size.steps * speed.step + train.steps / train.eval_interval * speed.evaluation


def probe_speed(trial: TrialConfig, vocab_size: int, eval_windows: int) -> Speed:
    """Measure passes of a trial, but for the optimizer's share of a step.

    A step that would take long is measured in part, and scaled by its FLOPs.
    """
    device = resolve_device(trial.train)
    torch.set_num_threads(trial.train.threads)
    keep_freed_memory()
    whole, limit = Portion.of(trial, vocab_size), FIRST_FLOPS
    train = trial.train.model_copy(update={"compile": "never"})
    clock = probe_clock(device, train.threads)  # Ray may be starting meanwhile
    while True:
        portion = whole.within(limit)
        model = Transformer(portion.model, portion.vocab_size).to(device)
        passes = build_passes(model, train, device)
        x, y = portion.batch(device)
        step = _seconds(partial(passes.backward, x, y, 1.0), clock)
        if portion == whole or step * GROWTH > PASS_SECONDS:
            break
        limit *= GROWTH
    at_once = EVAL_BATCH_TOKENS // portion.model.context_length
    affordable = portion.rows * max(limit, portion.flops) // portion.flops
    evaluated = replace(portion, rows=max(1, min(eval_windows, at_once, int(affordable))))
    x, y = evaluated.batch(device)
    with torch.no_grad():
        evaluation = _seconds(partial(passes.loss, x, y), clock)
    every_window = replace(whole, rows=eval_windows).flops
    parts = train.grad_accumulation
    return Speed(
        step=step * parts * whole.flops / portion.flops,
        evaluation=evaluation * every_window / evaluated.flops,
        probed=portion.flops / (parts * whole.flops),
    )


def _seconds(work: Callable[[], torch.Tensor], clock: Callable[[], float]) -> float:
    """Return the least seconds of `work`, after a first time that pays for allocations.

    What else happens only adds: where the machine reclaimed memory, a pass of a millisecond once
    took forty, and a sweep of four minutes was planned as one of three hours.
    """

    def timed() -> float:
        started = clock()
        work().item()  # waits for the device
        return clock() - started

    timed()
    taken = [timed()]
    while len(taken) < REPEATS and sum(taken) < LONG_SECONDS:
        taken.append(timed())
    return min(taken)
